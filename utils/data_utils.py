"""A split's clips and captions, and its batches of caption-clip pairs."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from models.audio_encoders import TIME_POOLING, send
from utils.common.errors import UserError
from utils.common.hdf5 import data_set, readable
from utils.common.memory import free_memory
from utils.common.processes import shard
from utils.common.steps import EMBEDDING, INDEXING, LOG_MELS, TRAINING
from utils.dataset.index import TEXT_COLUMNS, read_table
from utils.dataset.paths import DatasetPaths
from utils.device_utils import DeviceLogMels

DISK_WORKERS = 2  # processes that read batches ahead
FREE_MEMORY_SHARE = 0.5  # of which a split's log-mels may take, at the most


class DiskLogMels(Sequence[Tensor]):
    """Log-mels that stay in their HDF5 file and are read, and checked, one by one.

    Args:
        path: the file.
        fids: C clips, whose log-mels it holds.
        frames: C numbers of frames.
    """

    def __init__(self, path: Path, fids: list[str], frames: list[int]):
        self.path, self.fids, self.frames = path, fids, frames

    def __len__(self) -> int:
        return len(self.fids)

    def __getitem__(self, clip: int) -> Tensor:
        # Opened anew each time: an open HDF5 file does not survive the fork of a reading process.
        with readable(self.path, LOG_MELS) as store:
            return _finite(data_set(store, self.fids[clip], LOG_MELS)[()], self.path, self.fids[clip])


@dataclass(frozen=True)
class Split:
    """Clips and captions of a split; C clips, M captions."""

    fids: list[str]  # C
    log_mels: Sequence[Tensor]  # C of (T, n_mels) float32: in memory, DiskLogMels or DeviceLogMels
    tids: list[str]  # M
    captions: list[Tensor]  # M of (W,) int64 word ids
    caption_clips: np.ndarray  # (M,) int64: the clip, in [0, C), that each caption describes

    @cached_property
    def frames(self) -> list[int]:
        """C numbers of frames, without reading any."""
        if isinstance(self.log_mels, DiskLogMels | DeviceLogMels):
            return self.log_mels.frames
        return [len(log_mel) for log_mel in self.log_mels]


class Batch(NamedTuple):
    """N caption-clip pairs, zero-padded to the longest; each rank has its own shard of the audio."""

    audio: Tensor  # (N, T, n_mels) float32; of several ranks (n, T, n_mels), n its shard of N
    text: Tensor  # (N, W) int64 word ids
    clips: Tensor  # (N,) int64, on the CPU: which clip; equal where two captions describe one clip
    audio_lens: Tensor  # (N,) int64 true frames
    text_lens: Tensor  # (N,) int64 true words

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device, but for `clips`: by these the host decides whether there is a step."""
        return Batch(*(part if part is self.clips else send(part, device) for part in self))


def load_split(
    paths: DatasetPaths,
    split: str,
    words: list[str],
    n_mels: int,
    cache: str = "memory",
    needs_negatives: bool = False,
) -> Split:
    """Read a split's captions and log-mels; what is kept where goes to standard output.

    Args:
        words: the vocabulary; a word's id is its place.
        n_mels: the bands that the log-mels must have.
        cache: "memory" or "device" keeps the log-mels in memory if they fit, "disk" leaves them in their file.
        needs_negatives: whether one clip is too few.

    Raises:
        UserError: a file is missing, a word has no vector, a clip has no or unfit log-mels, or clips are too few.
    """
    table, captions = load_captions(paths, split, words)
    fids = list(dict.fromkeys(table["fid"]))
    if needs_negatives and len(fids) < 2:
        raise UserError(f"{paths.text(split)}: holds one clip; negatives need two at the least")
    places = {fid: i for i, fid in enumerate(fids)}
    return Split(
        fids=fids,
        log_mels=_open_log_mels(paths, split, fids, n_mels, cache),
        tids=table["tid"].tolist(),
        captions=captions,
        caption_clips=np.array([places[fid] for fid in table["fid"]]),
    )


def load_captions(paths: DatasetPaths, split: str, words: list[str]) -> tuple[pd.DataFrame, list[Tensor]]:
    """Read a split's captions: a table of TEXT_COLUMNS, and for each of its M rows the word ids (W,) int64.

    Raises UserError where the file is missing, unreadable or empty, or a word is not in the vocabulary `words`.
    """
    table = read_table(paths.text(split), TEXT_COLUMNS, INDEXING)
    if table.empty:
        raise UserError(f"{paths.text(split)}: holds no captions")
    for column in ("fid", "tid"):
        if not table[column].str.fullmatch(r"[\w-]+").all():
            raise UserError(f"{paths.text(split)}: holds a {column} that is none; run {INDEXING} again")
    if table["tid"].duplicated().any():
        raise UserError(f"{paths.text(split)}: a caption stands twice; run {INDEXING} again")
    word_ids = {word: i for i, word in enumerate(words)}
    return table, [_word_ids(paths, split, tokens, word_ids) for tokens in table["tokens"]]


def on_device(split: Split, name: str, device: torch.device, cache: str, needed: float) -> Split:
    """The split with its log-mels on a CUDA device, if there is room and they are not to stay on disk; it says so.

    Args:
        name: of the split.
        cache: "device", "memory" (which stands for the device where there is one), or "disk".
        needed: bytes that are to be left for a training step.
    """
    if device.type != "cuda" or cache == "disk" or isinstance(split.log_mels, DiskLogMels):
        return split
    size = sum(log_mel.nbytes for log_mel in split.log_mels)
    free = torch.cuda.mem_get_info(device)[0] - needed
    if size > FREE_MEMORY_SHARE * free:
        print(f"{name}: its log-mels ({size / 1e6:.0f} MB) stay in memory: they do not fit on the device")
        return split
    print(f"{name}: {len(split.fids)} clips, log-mels on the device ({size / 1e6:.0f} MB)")
    return replace(split, log_mels=DeviceLogMels(split.log_mels, device))


def batches(split: Split, batch_size: int, shuffle: bool = False) -> "DataLoader | DeviceBatches":
    """Batches of a split's caption-clip pairs: every caption once, in an order from torch's generator if shuffled."""
    if isinstance(split.log_mels, DeviceLogMels):
        return DeviceBatches(split, batch_size, shuffle)
    return DataLoader(
        range(len(split.captions)),
        batch_size,
        shuffle=shuffle,
        num_workers=DISK_WORKERS if isinstance(split.log_mels, DiskLogMels) else 0,
        pin_memory=torch.cuda.is_available(),
        collate_fn=lambda captions: collate(split, captions),
    )


def batch_order(split: Split, batch_size: int, shuffle: bool = False) -> DataLoader:
    """The captions of each of `batches`, by index: the same order, by the same draws."""
    return DataLoader(range(len(split.captions)), batch_size, shuffle=shuffle, collate_fn=list)


class DeviceBatches:
    """`batches` of a split that is on a device: the epoch's order is made and copied at once, a batch is a look-up."""

    def __init__(self, split: Split, batch_size: int, shuffle: bool):
        self.split, self.device = split, split.log_mels.device
        self.order = batch_order(split, batch_size, shuffle)
        self.words = np.array([len(words) for words in split.captions])
        self.text = send(pad_sequence(split.captions, batch_first=True), self.device)  # (M, W)
        self.text_lens = send(torch.from_numpy(self.words), self.device)
        self.clips = send(torch.from_numpy(split.caption_clips), self.device)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        order = list(self.order)
        captions = send(torch.tensor([caption for batch in order for caption in batch]), self.device)
        for batch, own in zip(order, captions.split(self.order.batch_size), strict=True):
            yield self._batch(batch, own)

    def _batch(self, captions: list[int], there: Tensor) -> Batch:
        """The batch of some captions, by index, here and on the device."""
        clips, log_mels = self.split.caption_clips[captions], self.split.log_mels
        longest = max(log_mels.frames[clip] for clip in clips)  # of all shards
        those = self.clips[there]
        return Batch(
            audio=log_mels.padded(those[shard(len(clips))], longest),
            text=self.text[:, : self.words[captions].max()][there],
            clips=torch.from_numpy(clips),
            audio_lens=log_mels.lens[those],
            text_lens=self.text_lens[there],
        )


def collate(split: Split, captions: list[int]) -> Batch:
    """The batch of some captions, by index, with their clips; each rank reads its shard of these."""
    clips = split.caption_clips[captions]
    audio_lens = torch.tensor([split.frames[clip] for clip in clips])
    audio = pad_sequence([split.log_mels[clip] for clip in clips[shard(len(clips))]], batch_first=True)
    if missing := int(audio_lens.max()) - audio.shape[1]:  # to the longest clip of all shards
        audio = F.pad(audio, (0, 0, 0, missing))
    text = [split.captions[caption] for caption in captions]
    return Batch(
        audio=audio,
        text=pad_sequence(text, batch_first=True),
        clips=torch.from_numpy(clips),
        audio_lens=audio_lens,
        text_lens=torch.tensor([len(words) for words in text]),
    )


def _word_ids(paths: DatasetPaths, split: str, tokens: str, word_ids: dict[str, int]) -> Tensor:
    try:
        words = json.loads(tokens)
        if not isinstance(words, list) or not words:
            raise ValueError
        return torch.tensor([word_ids[word] for word in words])
    except (ValueError, TypeError, RecursionError):
        why = f"tokens {tokens!r} are not a list of words"
        raise UserError(f"{paths.text(split)}: {why}; run {INDEXING} again") from None
    except KeyError as error:
        raise UserError(
            f"{paths.text(split)}: the word {error.args[0]!r} has no vector: captions and word vectors are not of one "
            f"run; run {EMBEDDING} (and {TRAINING}) again"
        ) from None


def _open_log_mels(
    paths: DatasetPaths, split: str, fids: list[str], n_mels: int, cache: str
) -> Sequence[Tensor]:
    """The clips' log-mels, every shape checked."""
    path = paths.log_mels(split)
    with readable(path, LOG_MELS) as store:
        frames = [_checked_frames(store, path, fid, n_mels) for fid in fids]
        size = 4 * n_mels * sum(frames)  # bytes
        fits = size < FREE_MEMORY_SHARE * free_memory()
        if cache != "disk" and fits:
            print(f"{split}: {len(fids)} clips, log-mels in memory ({size / 1e6:.0f} MB)")
            return [_finite(store[fid][()], path, fid) for fid in fids]
    why = "as set" if cache == "disk" else "they do not fit into memory"
    print(f"{split}: {len(fids)} clips, log-mels read from disk ({size / 1e6:.0f} MB; {why})")
    return DiskLogMels(path, fids, frames)


def _checked_frames(store: h5py.File, path: Path, fid: str, n_mels: int) -> int:
    """How many frames a clip has, by its log-mels' shape."""
    if fid not in store:
        raise UserError(f"{path}: no log-mels of clip {fid}; run {LOG_MELS} again")
    shape = data_set(store, fid, LOG_MELS).shape
    if len(shape) != 2 or shape[1] != n_mels:
        raise UserError(
            f"{path}: clip {fid} has the shape {shape}, but audio_logmel.n_mels asks for (frames, {n_mels}); run "
            f"{LOG_MELS} again"
        )
    if shape[0] < TIME_POOLING:
        raise UserError(f"{path}: clip {fid} has {shape[0]} frames; the model needs at least {TIME_POOLING}")
    return shape[0]


def _finite(log_mel: np.ndarray, path: Path, fid: str) -> Tensor:
    with np.errstate(over="ignore"):
        log_mel = log_mel.astype(np.float32, copy=False)
    if not np.isfinite(log_mel).all():
        raise UserError(f"{path}: the log-mels of clip {fid} are not finite; run {LOG_MELS} again")
    return torch.from_numpy(log_mel)

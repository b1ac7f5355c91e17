"""A split's clips and captions, and its batches of caption-clip pairs."""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from models.audio_encoders import CRNNEncoder
from utils.common.counts import counted
from utils.common.errors import UserError
from utils.common.hdf5 import get_dataset, open_hdf5
from utils.common.memory import free_memory
from utils.common.processes import shard
from utils.common.steps import EMBEDDING, INDEXING, LOG_MELS, TRAINING
from utils.dataset.index import TEXT_COLUMNS, read_table
from utils.dataset.paths import DatasetPaths
from utils.device_utils import DeviceLogMels
from utils.score_utils import Batch

AHEAD = 4  # batches that are read from disk while others are computed with
FREE_MEMORY_SHARE = 0.5  # the largest share of it that a split's log-mels may take


class DiskLogMels(Sequence[Tensor]):
    """Log-mels that stay in their HDF5 file; each is read and checked when it is needed.

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
        with open_hdf5(self.path, LOG_MELS) as store:
            return _finite(get_dataset(store, self.fids[clip], LOG_MELS)[()], self.path, self.fids[clip])


@dataclass(frozen=True)
class Split:
    """A split: C clips and M captions."""

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


def load_split(
    paths: DatasetPaths,
    split: str,
    words: list[str],
    n_mels: int,
    cache: str = "memory",
    needs_negatives: bool = False,
) -> Split:
    """Read a split's captions and log-mels, and print where the log-mels are kept.

    Args:
        words: the vocabulary; a word's id is its index.
        n_mels: the number of bands that the log-mels must have.
        cache: "memory" or "device" keeps the log-mels in memory if they fit, "disk" leaves them in their file.
        needs_negatives: whether at least two clips are needed.

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
    """Move a split's log-mels to a CUDA device if they fit there, unless they stay on disk; print which it is.

    Args:
        name: the split's name.
        cache: "device", "memory" (which means the device where there is one), or "disk".
        needed: bytes to leave free for a training step.
    """
    if device.type != "cuda" or cache == "disk" or isinstance(split.log_mels, DiskLogMels):
        return split
    size = sum(log_mel.nbytes for log_mel in split.log_mels)
    free = torch.cuda.mem_get_info(device)[0] - needed
    if size > FREE_MEMORY_SHARE * free:
        print(f"{name}: its log-mels ({size / 1e6:.0f} MB) stay in memory: they do not fit on the device")
        return split
    print(f"{name}: {counted(len(split.fids), 'clip')}, log-mels on the device ({size / 1e6:.0f} MB)")
    return replace(split, log_mels=DeviceLogMels(split.log_mels, device))


def batches(split: Split, batch_size: int, shuffle: bool = False) -> "DataLoader | ReadAhead":
    """Batches of a split's caption-clip pairs: every caption once, in an order from torch's generator if shuffled."""
    loader = DataLoader(
        range(len(split.captions)),
        batch_size,
        shuffle=shuffle,
        collate_fn=lambda captions: collate(split, captions),
    )
    return ReadAhead(loader) if isinstance(split.log_mels, DiskLogMels) else loader


def batch_order(split: Split, batch_size: int, shuffle: bool = False) -> DataLoader:
    """The caption indices of each batch of `batches`: the same order, from the same draws."""
    return DataLoader(range(len(split.captions)), batch_size, shuffle=shuffle, collate_fn=list)


class ReadAhead:
    """Read batches ahead in a thread. A worker process would fork a process that has threads."""

    def __init__(self, loader: DataLoader):
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        batches, reader = iter(self.loader), ThreadPoolExecutor(1)
        try:
            coming = deque(reader.submit(next, batches, None) for _ in range(AHEAD))
            while (batch := coming.popleft().result()) is not None:
                coming.append(reader.submit(next, batches, None))
                yield batch
        finally:
            reader.shutdown(cancel_futures=True)


def collate(split: Split, captions: list[int]) -> Batch:
    """Make the batch of captions (by index) and their clips; each rank reads its shard of the clips."""
    clips, text = split.caption_clips[captions], [split.captions[caption] for caption in captions]
    audio_lens = torch.tensor([split.frames[clip] for clip in clips])
    return Batch(
        audio=_padded(split.log_mels, clips[shard(len(clips))], int(audio_lens.max())),  # to the longest of all shards
        text=pad_sequence(text, batch_first=True),
        clips=torch.from_numpy(clips),
        audio_lens=audio_lens,
        text_lens=torch.tensor([len(words) for words in text]),
    )


def _padded(log_mels: Sequence[Tensor], clips: np.ndarray, frames: int) -> Tensor:
    """The log-mels of clips (n,), zero-padded: (n, frames, n_mels), on the device that holds them."""
    if isinstance(log_mels, DeviceLogMels):
        return log_mels.padded(clips, frames)
    audio = pad_sequence([log_mels[clip] for clip in clips], batch_first=True)
    return F.pad(audio, (0, 0, 0, frames - audio.shape[1])) if audio.shape[1] < frames else audio


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
            f"{paths.text(split)}: the word {error.args[0]!r} has no vector; captions and word vectors "
            f"are of different runs: run {EMBEDDING} (and {TRAINING}) again"
        ) from None


def _open_log_mels(
    paths: DatasetPaths, split: str, fids: list[str], n_mels: int, cache: str
) -> Sequence[Tensor]:
    """The clips' log-mels, every shape checked."""
    path = paths.log_mels(split)
    with open_hdf5(path, LOG_MELS) as store:
        frames = [_checked_frames(store, path, fid, n_mels) for fid in fids]
        size = 4 * n_mels * sum(frames)  # bytes
        fits = size < FREE_MEMORY_SHARE * free_memory()
        if cache != "disk" and fits:
            print(f"{split}: {counted(len(fids), 'clip')}, log-mels in memory ({size / 1e6:.0f} MB)")
            return [_finite(store[fid][()], path, fid) for fid in fids]
    why = "as set" if cache == "disk" else "they do not fit into memory"
    print(f"{split}: {counted(len(fids), 'clip')}, log-mels read from disk ({size / 1e6:.0f} MB; {why})")
    return DiskLogMels(path, fids, frames)


def _checked_frames(store: h5py.File, path: Path, fid: str, n_mels: int) -> int:
    """The number of a clip's frames, from its log-mels' checked shape."""
    if fid not in store:
        raise UserError(f"{path}: no log-mels of clip {fid}; run {LOG_MELS} again")
    shape = get_dataset(store, fid, LOG_MELS).shape
    if len(shape) != 2 or shape[1] != n_mels:
        raise UserError(
            f"{path}: clip {fid} has the shape {shape}, but audio_logmel.n_mels asks for (frames, {n_mels}); run "
            f"{LOG_MELS} again"
        )
    if not CRNNEncoder.frames_out(shape[0]):
        needed = f"the model needs at least {CRNNEncoder.rate}"
        raise UserError(f"{path}: clip {fid} has {counted(shape[0], 'frame')}; {needed}")
    return shape[0]


def _finite(log_mel: np.ndarray, path: Path, fid: str) -> Tensor:
    with np.errstate(over="ignore"):
        log_mel = log_mel.astype(np.float32, copy=False)
    if not np.isfinite(log_mel).all():
        raise UserError(f"{path}: the log-mels of clip {fid} are not finite; run {LOG_MELS} again")
    return torch.from_numpy(log_mel)

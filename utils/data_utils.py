"""A split's clips and captions, and its batches of caption-clip pairs."""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from utils.audio_input import AudioInput
from utils.common.counts import counted
from utils.common.errors import UserError
from utils.common.hdf5 import get_dataset, open_hdf5
from utils.common.memory import free_memory
from utils.common.processes import shard
from utils.common.steps import EMBEDDING, INDEXING, SENTENCES, TRAINING
from utils.dataset.index import TEXT_COLUMNS, read_table
from utils.dataset.paths import DatasetPaths
from utils.device_utils import DeviceAudio
from utils.score_utils import Batch

if TYPE_CHECKING:
    import pandas as pd

AHEAD = 4  # batches that are read from disk while others are computed with
FREE_MEMORY_SHARE = 0.5  # the largest share of it that a split's audio may take


class DiskAudio(Sequence[Tensor]):
    """Log-mels or features in their HDF5 file: each clip's shape is checked at once, its values when they are read.

    Args:
        path: the file.
        fids: the C clips to read.
        audio: what the file holds of them; of no known width: that of the first clip.
    """

    def __init__(self, path: Path, fids: list[str], audio: AudioInput):
        self.path, self.fids, self.audio = path, fids, audio
        with open_hdf5(path, audio.stage) as store:
            self.frames = [self._checked_frames(store, fid) for fid in fids]
        self.width = self.audio.width

    def __len__(self) -> int:
        return len(self.fids)

    def __getitem__(self, clip: int) -> Tensor:
        with open_hdf5(self.path, self.audio.stage) as store:
            return self._read(store, self.fids[clip])

    def read(self) -> list[Tensor]:
        """All clips."""
        with open_hdf5(self.path, self.audio.stage) as store:
            return [self._read(store, fid) for fid in self.fids]

    def _checked_frames(self, store: h5py.File, fid: str) -> int:
        """A clip's number of frames, from its shape (T, D); the first clip decides a D that is not known."""
        path, audio = self.path, self.audio
        if fid not in store:
            raise UserError(f"{path}: no {audio.noun} of clip {fid}; run {audio.stage} again")
        shape = get_dataset(store, fid, audio.stage).shape
        if len(shape) != 2 or not shape[1] or shape[1] != (audio.width or shape[1]):
            needed = f"{audio.width_source} (frames, {audio.width or 'size'})"
            raise UserError(f"{path}: clip {fid} has the shape {shape}, but {needed}; run {audio.stage} again")
        if audio.width is None:
            self.audio = audio.of_width(shape[1], f"clip {fid} has")
        if not audio.encoder.frames_out(shape[0]):
            needed = f"the model needs at least {audio.encoder.rate}"
            raise UserError(f"{path}: clip {fid} has {counted(shape[0], 'frame')}; {needed}")
        return shape[0]

    def _read(self, store: h5py.File, fid: str) -> Tensor:
        audio = self.audio
        with np.errstate(over="ignore"):
            frames = get_dataset(store, fid, audio.stage)[()].astype(np.float32, copy=False)
        if not np.isfinite(frames).all():
            raise UserError(f"{self.path}: the {audio.noun} of clip {fid} are not finite; run {audio.stage} again")
        return torch.from_numpy(frames)


@dataclass(frozen=True)
class Split:
    """A split: C clips and M captions."""

    fids: list[str]  # C
    audio: Sequence[Tensor]  # C of (T, D) float32, log-mels or features: in memory, DiskAudio or DeviceAudio
    tids: list[str]  # M
    captions: list[Tensor]  # M of (W,) int64 word ids
    caption_clips: np.ndarray  # (M,) int64: the clip, in [0, C), that each caption describes
    noun: str = "log-mels"  # what `audio` holds, in messages

    @cached_property
    def frames(self) -> list[int]:
        """C numbers of frames, without reading any."""
        return self.audio.frames if isinstance(self.audio, DiskAudio | DeviceAudio) else [*map(len, self.audio)]

    @property
    def width(self) -> int:
        """D, the values of a frame: bands of log-mels, or the size of features."""
        return self.audio.width if isinstance(self.audio, DiskAudio | DeviceAudio) else self.audio[0].shape[1]


def load_split(
    paths: DatasetPaths,
    split: str,
    words: list[str],
    audio: AudioInput,
    cache: str = "memory",
    needs_negatives: bool = False,
) -> Split:
    """Read a split's captions and its log-mels or features, and print where the latter are kept.

    Args:
        words: the vocabulary; a word's id is its index.
        cache: "memory" or "device" keeps the audio in memory if it fits, "disk" leaves it in its file.
        needs_negatives: whether at least two clips are needed.

    Raises UserError where a file is missing, a word has no vector, a clip's audio is unfit, or clips are too few.
    """
    table, captions = load_captions(paths, split, words)
    fids = list(dict.fromkeys(table["fid"]))
    if needs_negatives and len(fids) < 2:
        raise UserError(f"{paths.text(split)}: holds one clip; negatives need two at the least")
    places = {fid: i for i, fid in enumerate(fids)}
    return Split(
        fids=fids,
        audio=_open_audio(audio.path(paths, split), split, fids, audio, cache),
        tids=table["tid"].tolist(),
        captions=captions,
        caption_clips=np.array([places[fid] for fid in table["fid"]]),
        noun=audio.noun,
    )


def load_captions(paths: DatasetPaths, split: str, words: list[str]) -> "tuple[pd.DataFrame, list[Tensor]]":
    """Read a split's captions: a table of TEXT_COLUMNS, and for each of its M rows the word ids (W,) int64.

    Where the vocabulary holds whole captions, as sentences, each caption is one word.

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
    if any(" " in word for word in words):  # no word has a space: these are sentences
        return table, [_sentence_id(paths, split, text, word_ids) for text in table["text"]]
    return table, [_word_ids(paths, split, tokens, word_ids) for tokens in table["tokens"]]


def on_device(split: Split, name: str, device: torch.device, cache: str, needed: float) -> Split:
    """Move a split's log-mels or features to a CUDA device if they fit there, unless they stay on disk; print which.

    `cache` is "device", "memory" (which means the device where there is one), or "disk". The `needed` bytes are left
    free for a training step.
    """
    if device.type != "cuda" or cache == "disk" or isinstance(split.audio, DiskAudio):
        return split
    size = sum(frames.nbytes for frames in split.audio)
    free = torch.cuda.mem_get_info(device)[0] - needed
    if size > FREE_MEMORY_SHARE * free:
        print(f"{name}: its {split.noun} ({size / 1e6:.0f} MB) stay in memory: they do not fit on the device")
        return split
    print(f"{name}: {counted(len(split.fids), 'clip')}, {split.noun} on the device ({size / 1e6:.0f} MB)")
    return replace(split, audio=DeviceAudio(split.audio, device))


def batches(split: Split, batch_size: int, shuffle: bool = False) -> "DataLoader | ReadAhead":
    """Batches of a split's caption-clip pairs: every caption once, in an order from torch's generator if shuffled."""
    loader = DataLoader(range(len(split.captions)), batch_size, shuffle=shuffle, collate_fn=partial(collate, split))
    return ReadAhead(loader) if isinstance(split.audio, DiskAudio) else loader


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
        audio=_padded(split.audio, clips[shard(len(clips))], int(audio_lens.max())),  # to the longest of all shards
        text=pad_sequence(text, batch_first=True),
        clips=torch.from_numpy(clips),
        audio_lens=audio_lens,
        text_lens=torch.tensor([len(words) for words in text]),
    )


def _padded(audio: Sequence[Tensor], clips: np.ndarray, frames: int) -> Tensor:
    """The audio of clips (n,), zero-padded: (n, frames, D), on the device that holds it."""
    if isinstance(audio, DeviceAudio):
        return audio.padded(clips, frames)
    padded = pad_sequence([audio[clip] for clip in clips], batch_first=True)
    return F.pad(padded, (0, 0, 0, frames - padded.shape[1])) if padded.shape[1] < frames else padded


def _sentence_id(paths: DatasetPaths, split: str, text: str, word_ids: dict[str, int]) -> Tensor:
    if text not in word_ids:
        raise UserError(
            f"{paths.text(split)}: the caption {text!r:.80} has no vector; captions and vectors are of different runs: "
            f"run {SENTENCES} (and {TRAINING}) again"
        )
    return torch.tensor([word_ids[text]])


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


def _open_audio(path: Path, split: str, fids: list[str], audio: AudioInput, cache: str) -> Sequence[Tensor]:
    """The clips' audio in a split's file: in memory, if it fits there and need not stay on disk."""
    disk = DiskAudio(path, fids, audio)
    size = 4 * disk.width * sum(disk.frames)  # bytes
    what, fits = f"{split}: {counted(len(fids), 'clip')}, {audio.noun}", size < FREE_MEMORY_SHARE * free_memory()
    if cache != "disk" and fits:
        print(f"{what} in memory ({size / 1e6:.0f} MB)")
        return disk.read()
    why = "as set" if cache == "disk" else "they do not fit into memory"
    print(f"{what} read from disk ({size / 1e6:.0f} MB; {why})")
    return disk

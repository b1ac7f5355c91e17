"""The score of a clip and a caption: S = mean over frames t and words w of max(0, a_t . e_w).

Shapes: N, M items; T frames; W words; E embedding dimension; V vocabulary; C clips.
"""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from models.audio_encoders import upsample
from utils.hdf5_utils import data_set, fixed_length, readable, require_room_for
from utils.io_utils import UserError, whole_file
from utils.step_utils import SCORING


def score_matrix(
    audio_embeds: Tensor, text_embeds: Tensor, audio_lens: Tensor | None = None, text_lens: Tensor | None = None
) -> Tensor:
    """Scores of every clip with every caption, as one matrix product.

    Args:
        audio_embeds: (N, T, E) frame embeddings.
        text_embeds: (M, W, E) word embeddings.
        audio_lens: (N,) true frame counts, to average over those alone; None averages over all T, padding
            included, as published.
        text_lens: (M,) true word counts, likewise.

    Returns:
        (N, M) scores. Either side may as well hold the other modality: S(t, t) and S(a, a) are the same function.
    """
    n, t, _ = audio_embeds.shape
    m, w, _ = text_embeds.shape
    similarities = audio_embeds.flatten(0, 1) @ text_embeds.flatten(0, 1).T  # (N*T, M*W)
    # clamp, not relu: the published code's gradient at exactly 0
    similarities = similarities.clamp(min=0).view(n, t, m * w)  # (N, T, M*W)
    frame_weights = _mean_weights(audio_lens, n, t, similarities)  # (N, T)
    word_weights = _mean_weights(text_lens, m, w, similarities)  # (M, W)
    by_word = torch.bmm(frame_weights.unsqueeze(1), similarities).view(n, m, w)  # (N, M, W)
    return (by_word * word_weights).sum(dim=-1)


def alignment_map(audio_embeds: Tensor, text_embeds: Tensor) -> Tensor:
    """What a score is the mean of: frames (T, E) and words (W, E) -> (T, W), max(0, a_t . e_w)."""
    return (audio_embeds @ text_embeds.T).clamp(min=0)


@torch.no_grad()
def self_score_matrix(embeds: Tensor, lens: Tensor | None = None) -> Tensor:
    """Scores of items of one modality with each other, without gradient; each pair is computed once.

    Args:
        embeds: (N, T, E); lens: (N,) true lengths or None, as in `score_matrix`.

    Returns:
        (N, N), symmetric. One row of pairs at a time bounds the memory at T * N * T values.
    """
    n = len(embeds)
    scores = embeds.new_empty(n, n)
    for i in range(n):
        one_lens, rest_lens = (None, None) if lens is None else (lens[i : i + 1], lens[i:])
        row = score_matrix(embeds[i : i + 1], embeds[i:], one_lens, rest_lens)[0]
        scores[i, i:] = scores[i:, i] = row
    return scores


def step_score_matrix(
    steps: Tensor,
    frames: int,
    text_embeds: Tensor,
    audio_lens: Tensor | None = None,
    text_lens: Tensor | None = None,
) -> Tensor:
    """`score_matrix` of upsampled and normalised steps, without making the frames: dot products commute with
    upsampling, max(0, normalise(upsample(x)) . w) = max(0, upsample(x . w)) / |upsample(x)|.

    Args:
        steps: (N, L, E) of `CRNNWordModel.audio_steps`.
        frames: T, the number of frames that they stand for.
        text_embeds: (M, W, E).
        audio_lens, text_lens: (N,) frames and (M,) words, as in `score_matrix`.

    Returns:
        (N, M) scores.
    """
    n, length, _ = steps.shape
    m, w, _ = text_embeds.shape
    dots = steps.flatten(0, 1) @ text_embeds.flatten(0, 1).T  # (N*L, M*W)
    similarities = upsample(dots.view(n, length, m * w), frames).clamp_(min=0)  # (N, T, M*W)
    frame_weights = step_weights(steps, frames, audio_lens)  # (N, T)
    word_weights = _mean_weights(text_lens, m, w, similarities)  # (M, W)
    by_word = torch.bmm(frame_weights.unsqueeze(1), similarities).view(n, m, w)  # (N, M, W)
    return (by_word * word_weights).sum(dim=-1)


def step_weights(steps: Tensor, frames: int, lens: Tensor | None = None) -> Tensor:
    """(N, T): what each upsampled frame of steps (N, L, E) counts in a mean over T or `lens` normalised frames.

    The squared length of (1 - p) x + p y is (1 - p)^2 |x|^2 + 2 p (1 - p) x.y + p^2 |y|^2.
    """
    length = steps.shape[1]
    place = ((torch.arange(frames, device=steps.device) + 0.5) * (length / frames) - 0.5).clamp(min=0)
    left = place.long().clamp(max=length - 1)
    right = (left + 1).clamp(max=length - 1)
    p = place - left
    squares = steps.square().sum(dim=-1)  # (N, L)
    products = (steps * torch.cat([steps[:, 1:], steps[:, -1:]], dim=1)).sum(dim=-1)  # (N, L)
    apart = (1 - p) ** 2 * squares[:, left] + p**2 * squares[:, right]
    square = apart + 2 * p * (1 - p) * products[:, left]
    # Where neighbours cancel out, only rounding is left of the frame: it is kept from growing to full length.
    floor = (1e-6 * apart).detach().clamp(min=1e-24)
    return _mean_weights(lens, len(steps), frames, steps) / square.maximum(floor).sqrt()


@torch.no_grad()
def pair_scores(steps: Tensor, weights: Tensor, other_steps: Tensor, other_weights: Tensor) -> Tensor:
    """Scores of one clip with others of one length, frame by frame, without gradient.

    Args:
        steps: (L, E), and weights: (T,) of `step_weights`.
        other_steps: (N, K, E), and other_weights: (N, S).

    Returns:
        (N,) scores; frame by frame dot products are interpolated from step by step ones in both directions.
    """
    dots = other_steps @ steps.T  # (N, K, L)
    size = (other_weights.shape[1], len(weights))
    similarities = F.interpolate(dots.unsqueeze(1), size=size, mode="bilinear", align_corners=False).squeeze(1)
    by_frame = similarities.clamp_(min=0) @ weights  # (N, S)
    return (by_frame * other_weights).sum(dim=-1)


@torch.no_grad()
def self_step_score_matrix(steps: Tensor, frames: int, lens: Tensor | None = None, rows: range | None = None) -> Tensor:
    """`self_score_matrix` of upsampled and normalised steps (N, L, E), without making the frames: (N, N).

    With `rows`, only the pairs i <= j whose i is among them, and 0 elsewhere: the parts add up to the whole.
    """
    n, weights = len(steps), step_weights(steps, frames, lens)
    at_once = n if steps.is_cuda else 1  # on a CPU one pair's T * T values stay in the cache
    scores = steps.new_zeros(n, n)
    for i in range(n) if rows is None else rows:
        for j in range(i, n, at_once):
            others = slice(j, j + at_once)
            scores[i, others] = pair_scores(steps[i], weights[i], steps[others], weights[others])
    return torch.triu(scores) + torch.triu(scores, diagonal=1).T


def caption_word_weights(captions: list[np.ndarray], vocabulary: int | None = None) -> tuple[np.ndarray, csr_array]:
    """The captions' distinct words, and their share in each caption: S is one sparse product with the words' scores.

    Args:
        captions: M arrays of word ids.
        vocabulary: how many ids there are, to have a column for each; else for those that occur.

    Returns:
        words: (V,) the columns' ids, sorted.
        weights: (M, V) sparse float32: how often caption m has word v, over its length. With the word scores
            s (V, C) of clips, S = (weights @ s).T is the (C, M) matrix of masked scores.
    """
    lens = np.array([len(ids) for ids in captions], dtype=np.int64)
    words, columns = np.unique(np.concatenate([*captions, np.empty(0, np.int64)]), return_inverse=True)
    if vocabulary is not None:
        words, columns = np.arange(vocabulary), words[columns]
    shares = np.repeat(1.0 / np.maximum(lens, 1), lens).astype(np.float32)
    rows = np.repeat(np.arange(len(captions)), lens)
    return words.astype(np.int64), csr_array((shares, (rows, columns)), shape=(len(captions), len(words)))


class StoredScores(NamedTuple):
    """A split's scores with the names of their rows and columns, and the epoch of the checkpoint that gave them."""

    scores: np.ndarray  # (C, M) float32
    fids: list[str]  # C clips
    tids: list[str]  # M captions
    caption_fids: list[str]  # M: the clip that each caption describes
    epoch: int


NAMES = ("fids", "tids", "caption_fids")  # of rows, of columns, and of the columns' clips


def save_scores(path: Path, stored: StoredScores) -> None:
    """Write scores as HDF5: data sets scores, fids, tids, caption_fids, and the attribute epoch."""
    texts = sum(fixed_length(getattr(stored, name)).nbytes for name in NAMES)
    require_room_for(path, 4 * stored.scores.size + texts, data_sets=4)
    with whole_file(path) as temporary, h5py.File(temporary, "w") as store:
        store.attrs["epoch"] = stored.epoch
        store["scores"] = stored.scores.astype(np.float32)
        for name in NAMES:
            store[name] = fixed_length(getattr(stored, name))


def load_scores(path: Path, epoch: int) -> StoredScores:
    """Read what `save_scores` wrote, for a checkpoint of this epoch.

    Raises UserError where the file is missing, damaged, of another epoch, or holds NaN.
    """
    with readable(path, SCORING) as store:
        names = (data_set(store, name, SCORING, texts=True).asstr()[()].tolist() for name in NAMES)
        stored = StoredScores(data_set(store, "scores", SCORING)[()], *names, int(store.attrs["epoch"]))
    if not _belong_together(stored):
        raise UserError(f"{path}: scores and names do not belong together; run {SCORING} again")
    _require_epoch(path, stored.epoch, epoch)
    if np.isnan(stored.scores).any():
        raise UserError(f"{path}: holds NaN scores: the model is broken; look at the trial's train.log")
    return stored


class WordScores(NamedTuple):
    """A split's scores of single words, their names, and the epoch of the checkpoint that gave them.

    Word by word, so that the scores of any text with all clips are a mean of few rows: those of its words.
    """

    scores: np.ndarray | h5py.Dataset  # (V, C) float32; once loaded a data set, read from its file where indexed
    words: list[str]  # V, the whole vocabulary
    fids: list[str]  # C clips
    epoch: int


def save_word_scores(path: Path, stored: WordScores) -> None:
    """Write word scores as HDF5: data sets scores (unchunked: a row is one read), words, fids; the attribute epoch."""
    texts = fixed_length(stored.words).nbytes + fixed_length(stored.fids).nbytes
    require_room_for(path, stored.scores.nbytes + texts, data_sets=3)
    with whole_file(path) as temporary, h5py.File(temporary, "w") as store:
        store.attrs["epoch"] = stored.epoch
        store["scores"] = stored.scores
        for name in ("words", "fids"):
            store[name] = fixed_length(getattr(stored, name))


def load_word_scores(path: Path, epoch: int) -> WordScores:
    """Open what `save_word_scores` wrote, for a checkpoint of this epoch; the scores stay in the file.

    Raises UserError where the file is missing, damaged or of another epoch.
    """
    with readable(path, SCORING) as store:
        words, fids = (data_set(store, name, SCORING, texts=True).asstr()[()].tolist() for name in ("words", "fids"))
        scores, epoch_of_scores = data_set(store, "scores", SCORING), int(store.attrs["epoch"])
        if scores.shape != (len(words), len(fids)) or scores.dtype != np.float32:
            raise UserError(f"{path}: scores and names do not belong together; run {SCORING} again")
    _require_epoch(path, epoch_of_scores, epoch)
    return WordScores(h5py.File(path, "r")["scores"], words, fids, epoch)  # open for as long as its data set is in use


def _require_epoch(path: Path, stored: int, best: int) -> None:
    if stored != best:
        raise UserError(f"{path}: scores of epoch {stored}, but the best epoch is now {best}; run {SCORING} again")


def _belong_together(stored: StoredScores) -> bool:
    """Whether every row and column has its name, once, and every clip has a caption."""
    clips, captions = set(stored.fids), set(stored.tids)
    return (
        stored.scores.shape == (len(clips), len(captions)) == (len(stored.fids), len(stored.tids))
        and len(stored.caption_fids) == len(stored.tids)
        and set(stored.caption_fids) == clips
    )


def _mean_weights(lens: Tensor | None, items: int, size: int, like: Tensor) -> Tensor:
    """(items, size) weights whose weighted sum is the mean over all places, or over each item's first `lens`."""
    if lens is None:
        return like.new_full((items, size), 1.0 / max(size, 1))
    lens = lens.to(like.device)
    inside = torch.arange(size, device=like.device) < lens.unsqueeze(1)
    return inside.to(like.dtype) / lens.clamp(min=1).unsqueeze(1)

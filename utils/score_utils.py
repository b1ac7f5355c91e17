"""The score of a clip and a caption: S = mean over frames t and words w of max(0, a_t . e_w).

Shapes: N, M items; T frames; W words; E embedding dimension; V vocabulary; C clips.
"""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from utils.io_utils import UserError, require_file, whole_file


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


def caption_word_weights(captions: list[np.ndarray], vocabulary_size: int) -> csr_array:
    """Each caption's share of every word, so that captions' scores are one sparse product with words' scores.

    Args:
        captions: M arrays of word ids in [0, V).
        vocabulary_size: V.

    Returns:
        (M, V) sparse float32: how often caption m has word v, over its length. With the word scores
        s (C, V) of clips, S = (weights @ s.T).T is the (C, M) matrix of masked scores.
    """
    lens = np.array([len(words) for words in captions], dtype=np.int64)
    words = np.concatenate([*captions, np.empty(0, np.int64)]).astype(np.int64)
    shares = np.repeat(1.0 / np.maximum(lens, 1), lens).astype(np.float32)
    rows = np.repeat(np.arange(len(captions)), lens)
    return csr_array((shares, (rows, words)), shape=(len(captions), vocabulary_size))


class StoredScores(NamedTuple):
    """A split's scores with the names of their rows and columns."""

    scores: np.ndarray  # (C, M) float32
    fids: list[str]  # C clips
    tids: list[str]  # M captions
    caption_fids: list[str]  # M: the clip that each caption describes


def save_scores(path: Path, stored: StoredScores) -> None:
    """Write scores as HDF5: data sets scores, fids, tids, caption_fids."""
    with whole_file(path) as temporary, h5py.File(temporary, "w") as store:
        store["scores"] = stored.scores.astype(np.float32)
        for name in ("fids", "tids", "caption_fids"):
            store.create_dataset(name, data=getattr(stored, name), dtype=h5py.string_dtype())


def load_scores(path: Path) -> StoredScores:
    """Read what `save_scores` wrote.

    Raises UserError where the file is missing, damaged, or holds NaN.
    """
    step = "postprocessing/1_xmodal_scores.py"
    require_file(path, step)
    try:
        with h5py.File(path, "r") as store:
            names = (store[name].asstr()[()].tolist() for name in ("fids", "tids", "caption_fids"))
            stored = StoredScores(store["scores"][()], *names)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not the scores of {step} ({error}); run it again") from None
    if stored.scores.shape != (len(stored.fids), len(stored.tids)) or len(stored.tids) != len(stored.caption_fids):
        raise UserError(f"{path}: scores and names do not belong together; run {step} again")
    if np.isnan(stored.scores).any():
        raise UserError(f"{path}: holds NaN scores: the model is broken; look at the trial's train.log")
    return stored


def _mean_weights(lens: Tensor | None, items: int, size: int, like: Tensor) -> Tensor:
    """(items, size) weights whose weighted sum is the mean over all places, or over each item's first `lens`."""
    if lens is None:
        return like.new_full((items, size), 1.0 / max(size, 1))
    lens = lens.to(like.device)
    inside = torch.arange(size, device=like.device) < lens.unsqueeze(1)
    return inside.to(like.dtype) / lens.clamp(min=1).unsqueeze(1)

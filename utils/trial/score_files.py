"""A split's score files: written whole, refused where they are damaged or of another epoch or score."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from scipy.sparse import csr_array

from utils.common.errors import UserError
from utils.common.hdf5 import fixed_length, get_dataset, open_hdf5, require_room_for
from utils.common.io import atomic_write, replaced, written
from utils.common.steps import SCORING
from utils.retrieval_utils import CaptionScores, slices
from utils.score_utils import Score

PUBLISHED = str(Score())
CLIPS_AT_ONCE = 64  # written at a time with the scores of all captions


def scores_path(trial: Path, split: str) -> Path:
    """The file of a split's scores of clips with captions, for the user: no command reads it."""
    return trial / f"{split}_xmodal_scores.hdf5"


def word_scores_path(trial: Path, split: str) -> Path:
    """The file of a split's scores of words with clips, from which all others follow."""
    return trial / f"{split}_word_scores.hdf5"


class WordScores(NamedTuple):
    """A split's scores of single words, their names, and the epoch of the checkpoint that gave them.

    A text's scores with all clips are the mean of its words' rows.
    """

    scores: np.ndarray | h5py.Dataset  # (V, C) float32; loaded, it stays in the file until it is indexed
    words: list[str]  # V, the vocabulary, then the extra words
    fids: list[str]  # C clips
    epoch: int
    score: str = PUBLISHED  # str(Score)


class Captions(NamedTuple):
    """The captions that are stored beside a split's word scores."""

    tids: list[str]  # M captions
    fids: list[str]  # M: the clip that each describes
    weights: csr_array  # (M, V) float32: each word's share of a caption


class StoredScores(NamedTuple):
    """A split's scores with the names of their rows and columns, and the epoch of the checkpoint that gave them."""

    scores: CaptionScores  # of M captions with C clips
    fids: list[str]  # C clips
    tids: list[str]  # M captions
    caption_fids: list[str]  # M: the clip that each caption describes
    epoch: int
    score: str = PUBLISHED  # as in WordScores

    @property
    def caption_clips(self) -> np.ndarray:
        """(M,) the clip, in [0, C), that each caption describes."""
        numbers = {fid: i for i, fid in enumerate(self.fids)}
        return np.array([numbers[fid] for fid in self.caption_fids])


# --- scores of words, and by them of captions ------------------------------------------------------------


@contextmanager
def new_word_scores(
    path: Path, words: list[str], fids: list[str], captions: Captions | None, epoch: int, score: str = PUBLISHED
) -> Iterator[Callable[[slice, np.ndarray], None]]:
    """Write word scores as HDF5, some clips at a time; the file appears when the body has ended.

    Data sets: scores (V, C), unchunked so that a row is one read; words, fids; of the captions tids, caption_fids, and
    caption_starts, caption_words and caption_shares, a CSR matrix (M, V). Attributes: epoch and score.

    Args:
        captions: None writes what can be searched, but not measured.

    Yields:
        write(clips, scores), which writes the scores (V, c) of some clips.
    """
    content = {"words": fixed_length(words), "fids": fixed_length(fids)}
    if captions is not None:
        weights = captions.weights
        content |= {"tids": fixed_length(captions.tids), "caption_fids": fixed_length(captions.fids)}
        content |= {"caption_starts": weights.indptr, "caption_words": weights.indices, "caption_shares": weights.data}
    with replaced(path) as temporary:
        size = 4 * len(words) * len(fids) + sum(values.nbytes for values in content.values())
        require_room_for(path, size, data_sets=1 + len(content))
        with written(path), h5py.File(temporary, "w") as store:
            store.attrs["epoch"], store.attrs["score"] = epoch, score
            store.create_dataset("scores", (len(words), len(fids)), np.float32)
            for name, values in content.items():
                store[name] = values

        def write(clips: slice, scores: np.ndarray) -> None:
            with written(path), h5py.File(temporary, "r+") as store:
                store["scores"][:, clips] = scores

        yield write


def save_word_scores(path: Path, stored: WordScores, captions: Captions | None = None) -> None:
    """Write word scores that are held in memory."""
    _, words, fids, epoch, score = stored
    with new_word_scores(path, words, fids, captions, epoch, score) as write:
        write(slice(None), stored.scores)


def load_word_scores(path: Path, epoch: int, score: str) -> WordScores:
    """Open what `new_word_scores` wrote, for a checkpoint of this epoch and score; the scores stay in the file.

    Raises UserError where the file is missing, damaged or of another epoch or score.
    """
    with open_hdf5(path, SCORING) as store:
        words, fids, origin = _names(store, epoch, score)
    store = h5py.File(path, "r")  # open for as long as its data set is in use
    return WordScores(store["scores"], words, fids, *origin)


def load_scores(path: Path, epoch: int, score: str | None = None) -> StoredScores:
    """Read the scores of captions from what `new_word_scores` wrote, for a checkpoint of this epoch and, if it is
    given, this `str(Score)`.

    Raises UserError where the file is missing, damaged, without captions, of another epoch or score, or holds NaN.
    """
    with open_hdf5(path, SCORING) as store:
        _, fids, origin = _names(store, epoch, score)
        if "tids" not in store:  # written for search alone, or by a version that kept captions elsewhere
            raise UserError(f"{path}: holds no captions, by which metrics go; run {SCORING} again")
        tids, caption_fids = (_texts(store, name) for name in ("tids", "caption_fids"))
        unique = len(set(tids)) == len(tids) == len(caption_fids) and len(set(fids)) == len(fids) > 0
        if not unique or set(caption_fids) != set(fids):
            raise _mismatch(path)
        weights = _weights(store, len(tids))
        by_word = store["scores"][: weights.shape[1]]
    if not np.isfinite([by_word.min(), by_word.max()]).all():
        raise UserError(f"{path}: holds NaN scores: the model is broken; look at the trial's train.log")
    return StoredScores(CaptionScores(weights, torch.from_numpy(by_word)), fids, tids, caption_fids, *origin)


def _names(store: h5py.File, best_epoch: int, trial_score: str | None) -> tuple[list[str], list[str], tuple[int, str]]:
    """The words, the clips, and the epoch and score, which must be these; earlier versions do not name the score."""
    words, fids = (_texts(store, name) for name in ("words", "fids"))
    scores = get_dataset(store, "scores", SCORING)
    if scores.shape != (len(words), len(fids)) or scores.dtype != np.float32:
        raise _mismatch(store.filename)
    path, epoch, score = store.filename, int(store.attrs["epoch"]), str(store.attrs.get("score", PUBLISHED))
    if epoch != best_epoch:
        raise UserError(f"{path}: scores of epoch {epoch}, but the best epoch is now {best_epoch}; run {SCORING} again")
    if trial_score not in (None, score):
        raise UserError(f"{path}: of the score {score!r:.80}, but the trial's is {trial_score!r}; run {SCORING} again")
    return words, fids, (epoch, score)


def _texts(store: h5py.File, name: str) -> list[str]:
    texts = get_dataset(store, name, SCORING, "S")
    if texts.ndim != 1:
        raise _mismatch(store.filename)
    return texts.asstr()[()].tolist()


def _weights(store: h5py.File, captions: int) -> csr_array:
    """The captions' word weights (M, V), V up to the last word that is used."""
    starts, words = (get_dataset(store, f"caption_{name}", SCORING, "i")[()] for name in ("starts", "words"))
    shares = get_dataset(store, "caption_shares", SCORING)[()]
    try:
        used = int(words.max()) + 1
        weights = csr_array((shares, words, starts), shape=(captions, used))
        weights.check_format()
    except (ValueError, OverflowError):  # of scipy, and of numpy where there are no words
        raise _mismatch(store.filename) from None
    complete = (np.diff(starts) > 0).all() and starts[-1] == len(words) and used <= len(store["scores"])
    if not complete or shares.dtype != np.float32 or not np.isfinite(shares).all():
        raise _mismatch(store.filename)
    return weights


def _mismatch(path: Path | str) -> UserError:
    return UserError(f"{path}: scores and names do not belong together; run {SCORING} again")


# --- scores of clips with captions, as the original writes them ------------------------------------------


def save_scores(path: Path, stored: StoredScores) -> None:
    """Write scores as HDF5: data sets scores (C, M), fids, tids, caption_fids, and the attributes epoch and score."""
    captions, clips = stored.scores.shape
    names = {name: fixed_length(getattr(stored, name)) for name in ("fids", "tids", "caption_fids")}
    size = 4 * captions * clips + sum(values.nbytes for values in names.values())
    require_room_for(path, size, data_sets=1 + len(names))
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as store:
        store.attrs["epoch"], store.attrs["score"] = stored.epoch, stored.score
        scores = store.create_dataset("scores", (clips, captions), np.float32)
        for chunk in slices(clips, CLIPS_AT_ONCE):
            scores[chunk] = stored.scores.tile(slice(None), chunk).T.numpy()
        for name, values in names.items():
            store[name] = values

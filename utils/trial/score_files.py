"""The scores of a split on the disk: written whole, and refused where they are damaged, of another epoch or score."""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from utils.common.errors import UserError
from utils.common.hdf5 import data_set, fixed_length, readable, require_room_for
from utils.common.io import whole_file
from utils.common.steps import SCORING
from utils.score_utils import Score


def scores_path(trial: Path, split: str) -> Path:
    """Where a trial keeps a split's scores of clips with captions."""
    return trial / f"{split}_xmodal_scores.hdf5"


def word_scores_path(trial: Path, split: str) -> Path:
    """Where a trial keeps a split's scores of words with clips."""
    return trial / f"{split}_word_scores.hdf5"


PUBLISHED = str(Score())


class StoredScores(NamedTuple):
    """A split's scores with the names of their rows and columns, and the epoch of the checkpoint that gave them."""

    scores: np.ndarray  # (C, M) float32
    fids: list[str]  # C clips
    tids: list[str]  # M captions
    caption_fids: list[str]  # M: the clip that each caption describes
    epoch: int
    score: str = PUBLISHED  # how S was taken: str(Score)

    @property
    def caption_clips(self) -> np.ndarray:
        """(M,) the clip, in [0, C), that each caption describes."""
        places = {fid: i for i, fid in enumerate(self.fids)}
        return np.array([places[fid] for fid in self.caption_fids])


NAMES = ("fids", "tids", "caption_fids")  # of rows, of columns, and of the columns' clips


def save_scores(path: Path, stored: StoredScores) -> None:
    """Write scores as HDF5: data sets scores, fids, tids, caption_fids, and the attributes epoch and score."""
    texts = sum(fixed_length(getattr(stored, name)).nbytes for name in NAMES)
    require_room_for(path, 4 * stored.scores.size + texts, data_sets=4)
    with whole_file(path) as temporary, h5py.File(temporary, "w") as store:
        store.attrs["epoch"], store.attrs["score"] = stored.epoch, stored.score
        store["scores"] = stored.scores.astype(np.float32)
        for name in NAMES:
            store[name] = fixed_length(getattr(stored, name))


def load_scores(path: Path, epoch: int, score: str | None = None) -> StoredScores:
    """Read what `save_scores` wrote, for a checkpoint of this epoch and, if it is given, this `str(Score)`.

    Raises UserError where the file is missing, damaged, of another epoch or score, or holds NaN.
    """
    with readable(path, SCORING) as store:
        names = (data_set(store, name, SCORING, texts=True).asstr()[()].tolist() for name in NAMES)
        stored = StoredScores(data_set(store, "scores", SCORING)[()], *names, *_made_by(store))
    if not _belong_together(stored):
        raise UserError(f"{path}: scores and names do not belong together; run {SCORING} again")
    _require(path, (stored.epoch, stored.score), (epoch, score))
    if np.isnan(stored.scores).any():
        raise UserError(f"{path}: holds NaN scores: the model is broken; look at the trial's train.log")
    return stored


class WordScores(NamedTuple):
    """A split's scores of single words, their names, and the epoch of the checkpoint that gave them.

    Word by word, so that the scores of any text with all clips are a mean of few rows: those of its words.
    """

    scores: np.ndarray | h5py.Dataset  # (V, C) float32; once loaded a data set, read from its file where indexed
    words: list[str]  # V, the whole vocabulary, and behind it the extra words, if any
    fids: list[str]  # C clips
    epoch: int
    score: str = PUBLISHED  # as in StoredScores


def save_word_scores(path: Path, stored: WordScores) -> None:
    """Write word scores as HDF5: data sets scores (unchunked: a row is one read), words, fids; attributes as above."""
    texts = fixed_length(stored.words).nbytes + fixed_length(stored.fids).nbytes
    require_room_for(path, stored.scores.nbytes + texts, data_sets=3)
    with whole_file(path) as temporary, h5py.File(temporary, "w") as store:
        store.attrs["epoch"], store.attrs["score"] = stored.epoch, stored.score
        store["scores"] = stored.scores
        for name in ("words", "fids"):
            store[name] = fixed_length(getattr(stored, name))


def load_word_scores(path: Path, epoch: int, score: str) -> WordScores:
    """Open what `save_word_scores` wrote, for a checkpoint of this epoch and score; the scores stay in the file.

    Raises UserError where the file is missing, damaged or of another epoch or score.
    """
    with readable(path, SCORING) as store:
        words, fids = (data_set(store, name, SCORING, texts=True).asstr()[()].tolist() for name in ("words", "fids"))
        scores, made_by = data_set(store, "scores", SCORING), _made_by(store)
        if scores.shape != (len(words), len(fids)) or scores.dtype != np.float32:
            raise UserError(f"{path}: scores and names do not belong together; run {SCORING} again")
    _require(path, made_by, (epoch, score))
    store = h5py.File(path, "r")  # open for as long as its data set is in use
    return WordScores(store["scores"], words, fids, *made_by)


def _made_by(store: h5py.File) -> tuple[int, str]:
    """The epoch and the score; files from before there was a choice do not name the score."""
    return int(store.attrs["epoch"]), str(store.attrs.get("score", PUBLISHED))


def _require(path: Path, stored: tuple[int, str], trial: tuple[int, str | None]) -> None:
    (epoch, score), (best_epoch, trial_score) = stored, trial
    if epoch != best_epoch:
        raise UserError(f"{path}: scores of epoch {epoch}, but the best epoch is now {best_epoch}; run {SCORING} again")
    if trial_score not in (None, score):
        raise UserError(f"{path}: of the score {score!r:.80}, but the trial's is {trial_score!r}; run {SCORING} again")


def _belong_together(stored: StoredScores) -> bool:
    """Whether every row and column has its name, once, and every clip has a caption."""
    clips, captions = set(stored.fids), set(stored.tids)
    return (
        stored.scores.shape == (len(clips), len(captions)) == (len(stored.fids), len(stored.tids))
        and len(stored.caption_fids) == len(stored.tids)
        and set(stored.caption_fids) == clips
    )

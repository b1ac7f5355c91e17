"""The scores of a split on the disk: written whole, and refused where they are damaged, of another epoch or score."""

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
CLIPS_AT_ONCE = 64  # whose scores with all captions are held while they are written


def scores_path(trial: Path, split: str) -> Path:
    """Where a trial keeps a split's scores of clips with captions, for its user: no command reads them."""
    return trial / f"{split}_xmodal_scores.hdf5"


def word_scores_path(trial: Path, split: str) -> Path:
    """Where a trial keeps a split's scores of words with clips, from which all others follow."""
    return trial / f"{split}_word_scores.hdf5"


class WordScores(NamedTuple):
    """A split's scores of single words, their names, and the epoch of the checkpoint that gave them.

    Word by word, so that the scores of any text with all clips are a mean of few rows: those of its words.
    """

    scores: np.ndarray | h5py.Dataset  # (V, C) float32; once loaded a data set, read from its file where indexed
    words: list[str]  # V, the whole vocabulary, and behind it the extra words, if any
    fids: list[str]  # C clips
    epoch: int
    score: str = PUBLISHED  # how S was taken: str(Score)


class Captions(NamedTuple):
    """A split's captions, as they stand beside its word scores."""

    tids: list[str]  # M captions
    fids: list[str]  # M: the clip that each describes
    weights: csr_array  # (M, V) float32: how much of each caption a word is


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
        places = {fid: i for i, fid in enumerate(self.fids)}
        return np.array([places[fid] for fid in self.caption_fids])


# --- scores of words, and by them of captions ------------------------------------------------------------


@contextmanager
def new_word_scores(
    path: Path, words: list[str], fids: list[str], captions: Captions | None, epoch: int, score: str = PUBLISHED
) -> Iterator[Callable[[slice, np.ndarray], None]]:
    """Write word scores as HDF5, clips by clips; the file is there once the body has ended.

    Data sets scores (V, C) (unchunked: a row is one read), words, fids, and of the captions tids and caption_fids;
    caption m's words are caption_words[n : k], its shares of them caption_shares[n : k], with n and k the numbers m and
    m + 1 of caption_starts. Attributes epoch and score.

    Args:
        captions: None writes what can be searched, but not measured.

    Yields:
        write(clips, scores): what writes those of some clips, (V, c) float32.
    """
    content = {"words": fixed_length(words), "fids": fixed_length(fids)}
    if captions is not None:
        own = captions.weights
        content |= {"tids": fixed_length(captions.tids), "caption_fids": fixed_length(captions.fids)}
        content |= {"caption_starts": own.indptr, "caption_words": own.indices, "caption_shares": own.data}
    with replaced(path) as temporary:
        size = 4 * len(words) * len(fids) + sum(part.nbytes for part in content.values())
        require_room_for(path, size, data_sets=1 + len(content))
        with written(path), h5py.File(temporary, "w") as store:
            store.attrs["epoch"], store.attrs["score"] = epoch, score
            store.create_dataset("scores", (len(words), len(fids)), np.float32)
            for name, part in content.items():
                store[name] = part

        def write(clips: slice, scores: np.ndarray) -> None:
            with written(path), h5py.File(temporary, "r+") as store:
                store["scores"][:, clips] = scores

        yield write


def save_word_scores(path: Path, stored: WordScores, captions: Captions | None = None) -> None:
    """`new_word_scores` of scores that are all at hand."""
    _, words, fids, epoch, score = stored
    with new_word_scores(path, words, fids, captions, epoch, score) as write:
        write(slice(None), stored.scores)


def load_word_scores(path: Path, epoch: int, score: str) -> WordScores:
    """Open what `new_word_scores` wrote, for a checkpoint of this epoch and score; the scores stay in the file.

    Raises UserError where the file is missing, damaged or of another epoch or score.
    """
    with open_hdf5(path, SCORING) as store:
        words, fids, made_by = _names(store)
    _require(path, made_by, (epoch, score))
    store = h5py.File(path, "r")  # open for as long as its data set is in use
    return WordScores(store["scores"], words, fids, *made_by)


def load_scores(path: Path, epoch: int, score: str | None = None) -> StoredScores:
    """Read the scores of captions from what `new_word_scores` wrote, for a checkpoint of this epoch and, if it is
    given, this `str(Score)`.

    Raises UserError where the file is missing, damaged, without captions, of another epoch or score, or holds NaN.
    """
    with open_hdf5(path, SCORING) as store:
        _, fids, made_by = _names(store)
        if "tids" not in store:  # what has no captions may be searched, and is older than their place here
            raise UserError(f"{path}: holds no captions, by which metrics go; run {SCORING} again")
        tids, caption_fids = (_texts(store, name) for name in ("tids", "caption_fids"))
        starts, words = (get_dataset(store, f"caption_{name}", SCORING, "i")[()] for name in ("starts", "words"))
        shares, scores = (get_dataset(store, name, SCORING) for name in ("caption_shares", "scores"))
        own = (shares[()], words, starts)
        if not (_describe(tids, caption_fids, fids) and _are_weights(*own, len(tids), len(scores))):
            raise _apart(path)
        used = int(words.max()) + 1
        by_word = scores[:used]
    _require(path, made_by, (epoch, score))
    if not np.isfinite([by_word.min(), by_word.max()]).all():
        raise UserError(f"{path}: holds NaN scores: the model is broken; look at the trial's train.log")
    weights = csr_array(own, shape=(len(tids), used))
    return StoredScores(CaptionScores(weights, torch.from_numpy(by_word)), fids, tids, caption_fids, *made_by)


def _names(store: h5py.File) -> tuple[list[str], list[str], tuple[int, str]]:
    """The words, the clips, and the epoch and the score, which files from before there was a choice do not name."""
    words, fids = (_texts(store, name) for name in ("words", "fids"))
    scores = get_dataset(store, "scores", SCORING)
    if scores.shape != (len(words), len(fids)) or scores.dtype != np.float32:
        raise _apart(store.filename)
    return words, fids, (int(store.attrs["epoch"]), str(store.attrs.get("score", PUBLISHED)))


def _texts(store: h5py.File, name: str) -> list[str]:
    texts = get_dataset(store, name, SCORING, "S")
    if texts.ndim != 1:
        raise _apart(store.filename)
    return texts.asstr()[()].tolist()


def _describe(tids: list[str], caption_fids: list[str], fids: list[str]) -> bool:
    """Whether every clip and caption has its name, once, and every clip has a caption."""
    clips = set(caption_fids)
    unique = len(set(tids)) == len(tids) == len(caption_fids) and len(clips) == len(fids) > 0
    return unique and clips == set(fids)


def _are_weights(shares: np.ndarray, words: np.ndarray, starts: np.ndarray, captions: int, vocabulary: int) -> bool:
    """Whether so many captions have words each, with what these are of them: the parts of a csr_array."""
    return (
        starts.shape == (captions + 1,)
        and starts[0] == 0
        and bool((np.diff(starts) > 0).all())
        and words.shape == shares.shape == (starts[-1],)
        and words.min() >= 0
        and words.max() < vocabulary
        and shares.dtype == np.float32
        and bool(np.isfinite(shares).all())
    )


def _apart(path: Path | str) -> UserError:
    return UserError(f"{path}: scores and names do not belong together; run {SCORING} again")


def _require(path: Path, stored: tuple[int, str], trial: tuple[int, str | None]) -> None:
    (epoch, score), (best_epoch, trial_score) = stored, trial
    if epoch != best_epoch:
        raise UserError(f"{path}: scores of epoch {epoch}, but the best epoch is now {best_epoch}; run {SCORING} again")
    if trial_score not in (None, score):
        raise UserError(f"{path}: of the score {score!r:.80}, but the trial's is {trial_score!r}; run {SCORING} again")


# --- scores of clips with captions, as the original writes them ------------------------------------------


def matrix_size(captions: int, clips: int) -> int:
    """Bytes of the scores that `save_scores` writes."""
    return 4 * captions * clips


def save_scores(path: Path, stored: StoredScores) -> None:
    """Write scores as HDF5: data sets scores (C, M), fids, tids, caption_fids, and the attributes epoch and score."""
    captions, clips = stored.scores.shape
    names = {name: fixed_length(getattr(stored, name)) for name in ("fids", "tids", "caption_fids")}
    size = matrix_size(captions, clips) + sum(part.nbytes for part in names.values())
    require_room_for(path, size, data_sets=1 + len(names))
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as store:
        store.attrs["epoch"], store.attrs["score"] = stored.epoch, stored.score
        scores = store.create_dataset("scores", (clips, captions), np.float32)
        for some in slices(clips, CLIPS_AT_ONCE):
            scores[some] = stored.scores.tile(slice(None), some).T.numpy()
        for name, part in names.items():
            store[name] = part

"""A page that ranks a split's clips while one types: TRIAL/explore/index.html."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.image import imsave

from utils.common.errors import UserError
from utils.common.folders import atomic_folder
from utils.common.hdf5 import get_dataset, open_hdf5
from utils.common.io import progress
from utils.common.steps import LOG_MELS
from utils.data_utils import load_captions
from utils.dataset.captions import is_typed
from utils.dataset.word_vectors import PAD
from utils.explore.packing import packed
from utils.explore.sounds import copied, linked
from utils.report.figures import LOG_MEL_COLOURS, LOG_MEL_RANGE
from utils.report.page import Page
from utils.score_utils import caption_word_weights
from utils.search.clip_search import ClipSearch, best
from utils.trial.caveats import caveat_of
from utils.trial.trial import Trial

PAGE = "index.html"
BEST_CAPTIONS = 5  # of a clip
COLUMNS = 400  # of a log-mel's picture: more frames than that are averaged
QUALITY = 50  # of it, of 100
BYTES_A_SCORE = 3  # of the page's text
LARGEST = 14_000_000  # bytes of scores: what a browser opens at once


def write_explore(trial: Trial, split: str | None = None, copy: bool = True) -> Path:
    """Write TRIAL/explore/ from the trial's word scores of a split; its page's path.

    The folder holds the page, logmels/ and sounds/, the clips' copies; without `copy` the page plays the data set's.

    Raises UserError where something that the page needs is missing, damaged, or not of one run.
    """
    search = ClipSearch(trial, split)
    stored, scores = search.stored, search.stored.scores[()]  # (V, C)
    if not np.isfinite(scores).all():
        raise UserError(f"{trial}: scores are NaN: the model is broken; look at the trial's train.log")
    real = _shown_words(search)
    captions = _captions(search, scores)
    levels = packed(scores[real])
    with atomic_folder(trial.path / "explore", PAGE) as folder:
        content = {
            "words": [stored.words[row] for row in real],
            "low": levels.low,
            "step": levels.step,
            "wordWeights": search.word_weights and [search.word_weights[stored.words[row]] for row in real],
            "corrections": trial.conf.text_cleaning.corrections,
            "captions": captions.texts,
            "clips": _clips(search, captions, folder, copy),
        }
        Page(folder).render(
            "explore.html",
            PAGE,
            trial=trial.path.resolve().name,
            split=search.split,
            epoch=search.epoch,
            caveat=caveat_of(trial),
            weighted=search.score.idf is not None,
            example=captions.texts[0] if captions.texts else "",
            content=content,
            levels=levels.levels,
        )
    return trial.path / "explore" / PAGE


def _shown_words(search: ClipSearch) -> list[int]:
    """The rows of the words that a query can hold: the vocabulary's, and as many extra ones behind them as there is
    room for."""
    words, corrections = search.stored.words, search.conf.text_cleaning.corrections
    most = max(len(search.words), LARGEST // (BYTES_A_SCORE * len(search.stored.fids)))
    rows = [row for row, word in enumerate(words) if word != PAD and is_typed(word, corrections)]
    if len(rows) > most:
        print(f"{search.split}: {len(rows) - most} of {len(rows)} words are left out: the page has room for no more")
    return rows[:most]


class Captions(NamedTuple):
    """A split's captions: none where it has no file of them."""

    texts: list[str]  # M
    own: dict[str, list[int]]  # each clip's, by fid
    best: list[list[tuple[int, float]]]  # C: those that score highest with a clip, and their scores


def _captions(search: ClipSearch, scores: np.ndarray) -> Captions:
    if not search.paths.text(search.split).exists():
        return Captions([], {}, [[]] * scores.shape[1])
    table, ids = load_captions(search.paths, search.split, search.words)
    captions = [caption.numpy() for caption in ids]
    words, weights = caption_word_weights(captions, idf=search.score.idf_values)
    own: dict[str, list[int]] = {}
    for caption, fid in enumerate(table["fid"]):
        own.setdefault(fid, []).append(caption)
    by_clip = (weights @ scores[words]).T  # (C, M)
    found = [[(int(i), round(float(row[i]), 6)) for i in best(row, BEST_CAPTIONS)] for row in by_clip]
    return Captions(table["raw_text"].tolist(), own, found)


def _clips(search: ClipSearch, captions: Captions, folder: Path, copy: bool) -> list[dict[str, Any]]:
    """Write each clip's picture, and its sound if it is copied; what the page says of it."""
    fids, clips = search.stored.fids, []
    for part in ("logmels", *(["sounds"] if copy else [])):
        (folder / part).mkdir()
    for fid, found in progress(zip(fids, captions.best, strict=True), "clips", len(fids)):
        path, picture, sound = search.path(fid), f"logmels/{fid}.webp", f"sounds/{fid}.ogg"
        _draw(_log_mel(search, fid), folder / picture)
        if copy:
            copied(path, folder / sound)
        clips.append(
            {
                "name": path.name,
                "seconds": search.clips[fid].seconds,
                "source": sound if copy else linked(path),
                "picture": picture,
                "own": captions.own.get(fid, []),
                "best": found,
            }
        )
    return clips


def _log_mel(search: ClipSearch, fid: str) -> np.ndarray:
    """(T, n_mels) of a clip; its file is not open while others are written, which may fail for reasons of their own."""
    with open_hdf5(search.paths.log_mels(search.split), LOG_MELS) as store:
        return get_dataset(store, fid, LOG_MELS)[()]


def _draw(log_mel: np.ndarray, path: Path) -> None:
    """Write a log-mel (T, n_mels) as a picture, time from left to right, low frequencies at the bottom."""
    columns = [part.mean(axis=0) for part in np.array_split(log_mel, min(COLUMNS, len(log_mel)))]
    loudest = log_mel.max()
    imsave(
        path, np.stack(columns, axis=1), cmap=LOG_MEL_COLOURS, vmin=loudest - LOG_MEL_RANGE, vmax=loudest,
        origin="lower", format="webp", pil_kwargs={"quality": QUALITY},
    )  # fmt: skip

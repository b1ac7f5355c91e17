"""The live page, which ranks a split's clips as the reader types: TRIAL/explore/index.html."""

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
from utils.explore.packing import DIGITS, packed
from utils.explore.sounds import copy_sound
from utils.report.figures import LOG_MEL_COLOURS, LOG_MEL_RANGE, column_means
from utils.report.page import Page
from utils.score_utils import caption_word_weights
from utils.search.clip_search import ClipSearch, best
from utils.trial.checks import caveat_of
from utils.trial.trial import Trial

PAGE = "index.html"
TEMPLATES = Path(__file__).with_name("templates")
BEST_CAPTIONS = 5  # shown of a clip
MAX_COLUMNS = 400  # of a log-mel picture; the frames of longer clips are averaged
WEBP_QUALITY = 50  # of 100
MAX_BYTES = 14_000_000  # of packed scores: more opens slowly in a browser


def write_explore(trial: Trial, split: str | None = None, copy: bool = True) -> Path:
    """Write TRIAL/explore/ from the trial's word scores of a split. Returns the page's path.

    The folder holds the page, logmels/, and sounds/ with copies of the clips; without `copy` the page plays the data
    set's files.

    Raises UserError where an input is missing, damaged, or from another run.
    """
    search = ClipSearch(trial, split)
    stored, scores = search.stored, search.stored.scores[()]  # (V, C)
    if not np.isfinite(scores).all():
        raise UserError(f"{trial}: scores are NaN: the model is broken; see the trial's train.log")
    rows = _shown_words(search)
    captions = _captions(search, scores)
    levels = packed(scores[rows])
    with atomic_folder(trial.path / "explore", PAGE) as folder:
        content = {
            "words": [stored.words[row] for row in rows],
            "low": levels.low,
            "step": levels.step,
            "wordWeights": search.word_weights and [search.word_weights[stored.words[row]] for row in rows],
            "corrections": trial.conf.text_cleaning.corrections,
            "captions": captions.texts,
            "clips": _clips(search, captions, folder, copy),
        }
        Page(folder, TEMPLATES).render(
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
    """Rows of the words that a query can hold: all of the vocabulary, then extra words as far as they fit."""
    words, corrections = search.stored.words, search.conf.text_cleaning.corrections
    limit = max(len(search.words), MAX_BYTES // (DIGITS * len(search.stored.fids)))
    rows = [row for row, word in enumerate(words) if word != PAD and is_typed(word, corrections)]
    if len(rows) > limit:
        print(f"{search.split}: {len(rows) - limit} of {len(rows)} words do not fit on the page; they are left out")
    return rows[:limit]


class Captions(NamedTuple):
    """A split's captions; empty where the split has no caption file."""

    texts: list[str]  # M
    of_clip: dict[str, list[int]]  # by fid
    best: list[list[tuple[int, float]]]  # C: the captions with the highest scores with a clip, and these scores


def _captions(search: ClipSearch, scores: np.ndarray) -> Captions:
    if not search.paths.text(search.split).exists():
        return Captions([], {}, [[]] * scores.shape[1])
    table, ids = load_captions(search.paths, search.split, search.words)
    captions = [caption.numpy() for caption in ids]
    words, weights = caption_word_weights(captions, idf=search.score.idf_values)
    of_clip = {fid: rows.tolist() for fid, rows in table.groupby("fid").indices.items()}
    by_clip = (weights @ scores[words]).T  # (C, M)
    best_captions = [[(int(i), round(float(row[i]), 6)) for i in best(row, BEST_CAPTIONS)] for row in by_clip]
    return Captions(table["raw_text"].tolist(), of_clip, best_captions)


def _clips(search: ClipSearch, captions: Captions, folder: Path, copy: bool) -> list[dict[str, Any]]:
    """Write each clip's picture, and its sound if `copy`. Returns the page's entry for each clip."""
    fids, clips = search.stored.fids, []
    (folder / "logmels").mkdir()
    if copy:
        (folder / "sounds").mkdir()
    for fid, best_captions in progress(zip(fids, captions.best, strict=True), "clips", len(fids)):
        path, picture, sound = search.path(fid), f"logmels/{fid}.webp", f"sounds/{fid}.ogg"
        if not path.is_file():
            raise UserError(f"{path}: no such audio file; put it back")
        with open_hdf5(search.paths.log_mels(search.split), LOG_MELS) as store:  # closed before other files are written
            log_mel = get_dataset(store, fid, LOG_MELS)[()]  # (T, n_mels)
        _draw(log_mel, folder / picture)
        if copy:
            copy_sound(path, folder / sound)
        clips.append(
            {
                "name": path.name,
                "seconds": search.clips[fid].seconds,
                "source": sound if copy else path.resolve().as_uri(),
                "picture": picture,
                "own": captions.of_clip.get(fid, []),
                "best": best_captions,
            }
        )
    return clips


def _draw(log_mel: np.ndarray, path: Path) -> None:
    """Write a log-mel (T, n_mels) as a picture: time from left to right, low frequencies at the bottom."""
    loudest = log_mel.max()
    imsave(
        path, column_means(log_mel, MAX_COLUMNS), cmap=LOG_MEL_COLOURS, vmin=loudest - LOG_MEL_RANGE, vmax=loudest,
        origin="lower", format="webp", pil_kwargs={"quality": WEBP_QUALITY},
    )  # fmt: skip

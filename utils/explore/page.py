"""The live page, which ranks a split's clips as the reader types: TRIAL/explore/index.html."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from matplotlib.image import imsave

from utils.common.errors import UserError
from utils.common.folders import atomic_folder
from utils.common.io import progress
from utils.data_utils import load_captions
from utils.dataset.audio import mono_blocks, open_audio, resampled
from utils.dataset.captions import is_typed
from utils.dataset.word_vectors import PAD
from utils.evaluation_utils import caption_weights
from utils.explore.packing import DIGITS, packed
from utils.report.figures import LOG_MEL_COLOURS, LOG_MEL_RANGE, column_means
from utils.report.page import Page, drawn_log_mel
from utils.search.clip_search import ClipSearch, best
from utils.text_input import of_sentences
from utils.trial.checks import caveat_of
from utils.trial.trial import Trial

PAGE = "index.html"
TEMPLATES = Path(__file__).with_name("templates")
BEST_CAPTIONS = 5  # shown of a clip
MAX_COLUMNS = 400  # of a log-mel picture; the frames of longer clips are averaged
WEBP_QUALITY = 50  # of 100
SOUND_RATES = (8000, 48_000)  # Hz that every browser plays; at others libsndfile's encoder may crash
SOUND_BLOCK = 2**16  # samples encoded at a time: libsndfile keeps them on its stack
MAX_BYTES = 14_000_000  # of packed scores: more opens slowly in a browser


def write_explore(trial: Trial, split: str | None = None, copy: bool = True) -> Path:
    """Write TRIAL/explore/ from the trial's word scores of a split. Returns the page's path.

    The folder holds the page, logmels/, and sounds/ with copies of the clips; without `copy` the page plays the data
    set's files.

    Raises UserError where an input is missing, damaged, or from another run.
    """
    if of_sentences(trial.conf):
        raise UserError(
            f"{trial}: CRNNWordModel.text_enc.level is sentence, but the live page adds words up as they are typed; "
            "search with 4_search.py, or show a trial with level word"
        )
    search = ClipSearch(trial, split)
    stored, scores = search.stored, search.stored.scores[()]  # (V, C)
    search.require_finite(scores)
    rows = _shown_words(search)
    texts, captions = _captions(search, scores)
    low, step, levels = packed(scores[rows])
    with atomic_folder(trial.path / "explore", PAGE) as folder:
        content = {
            "words": [stored.words[row] for row in rows],
            "low": low,
            "step": step,
            "wordWeights": search.word_weights and [search.word_weights[stored.words[row]] for row in rows],
            "corrections": trial.conf.text_cleaning.corrections,
            "captions": texts,
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
            signed_scores=search.score.signed,
            example=texts[0] if texts else "",
            content=content,
            levels=levels,
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


def _captions(search: ClipSearch, scores: np.ndarray) -> tuple[list[str], list[dict[str, list]]]:
    """The split's captions, and for each clip its own ones and those with the highest scores; empty without a file."""
    if not search.paths.text(search.split).exists():
        return [], [{"own": [], "best": []} for _ in search.stored.fids]
    table, ids = load_captions(search.paths, search.split, search.words)
    words, weights = caption_weights(search.model, search.score, [caption.numpy() for caption in ids])
    own = {fid: rows.tolist() for fid, rows in table.groupby("fid").indices.items()}
    by_clip = (weights @ scores[words]).T  # (C, M)
    return table["raw_text"].tolist(), [
        {"own": own.get(fid, []), "best": [(int(i), round(float(row[i]), 6)) for i in best(row, BEST_CAPTIONS)]}
        for fid, row in zip(search.stored.fids, by_clip, strict=True)
    ]


def _clips(search: ClipSearch, captions: list[dict[str, list]], folder: Path, copy: bool) -> list[dict[str, Any]]:
    """Write each clip's picture, and its sound if `copy`. Returns the page's entry for each clip."""
    fids, clips = search.stored.fids, []
    (folder / "logmels").mkdir()
    if copy:
        (folder / "sounds").mkdir()
    for fid, own_and_best in progress(zip(fids, captions, strict=True), "clips", len(fids)):
        path, picture, sound = search.path(fid), f"logmels/{fid}.webp", f"sounds/{fid}.ogg"
        if not path.is_file():
            raise UserError(f"{path}: no such audio file; put it back")
        _draw(drawn_log_mel(search.conf, search.split, fid, path), folder / picture)
        if copy:
            copy_sound(path, folder / sound)
        clips.append(
            {
                "name": path.name,
                "seconds": search.clips[fid].seconds,
                "source": sound if copy else path.resolve().as_uri(),
                "picture": picture,
                **own_and_best,
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


def copy_sound(clip: Path, path: Path) -> None:
    """Write a clip to `path` as Ogg Vorbis, channels averaged as for the model. UserError where it is damaged."""
    encoded = io.BytesIO()  # libsndfile itself does not report a full disk
    with open_audio(clip) as stream:
        low, high = SOUND_RATES
        rate = stream.samplerate if low <= stream.samplerate <= high else high
        with soundfile.SoundFile(encoded, "w", rate, 1, format="OGG", subtype="VORBIS") as ogg:
            for block in resampled(mono_blocks(clip, stream), stream.samplerate, rate):
                for start in range(0, len(block), SOUND_BLOCK):
                    ogg.write(block[start : start + SOUND_BLOCK])
    path.write_bytes(encoded.getvalue())

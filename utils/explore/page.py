"""The live page, which ranks the clips of a split, or of a folder, as the reader types: index.html in its folder."""

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from matplotlib.image import imsave

from utils.common.errors import UserError
from utils.common.folders import atomic_folder
from utils.common.io import progress
from utils.conf.schema import Conf
from utils.data_utils import load_captions
from utils.dataset.audio import mono_blocks, open_audio, resampled
from utils.dataset.captions import is_typed
from utils.dataset.word_vectors import PAD
from utils.evaluation_utils import caption_weights
from utils.explore.packing import DIGITS, packed
from utils.report.figures import LOG_MEL_COLOURS, LOG_MEL_RANGE, column_means
from utils.report.page import Page, computed_log_mel, drawn_log_mel
from utils.search.clip_search import ClipSearch
from utils.search.folder_search import FolderSearch, seconds_of
from utils.search.model_file import ExportedScorer
from utils.search.text_search import TextSearch, best
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


class PageClip(NamedTuple):
    """A sound that a page shows. Captions are given by their places in Subject.texts."""

    id: str  # names its files beside the page
    path: Path
    seconds: float
    log_mel: Callable[[], np.ndarray]  # (T, n_mels)
    own: Sequence[int] = ()  # its captions
    best: Sequence[tuple[int, float]] = ()  # the captions with the highest scores, and those


class Subject(NamedTuple):
    """What a page shows: C sounds, their scores with V words, and captions to search for."""

    label: str  # of the sounds, in messages
    sounds: str  # the same, in the page's title
    kind: str  # Trial or Model
    name: str
    caveat: str | None
    scores: np.ndarray  # (V, C)
    clips: list[PageClip]
    texts: Sequence[str] = ()


def write_explore(trial: Trial, split: str | None = None, copy: bool = True) -> Path:
    """Write TRIAL/explore/ from the trial's word scores of a split. Returns the page's path.

    The folder holds the page, logmels/, and sounds/ with copies of the clips; without `copy` the page plays the data
    set's files.

    Raises UserError where an input is missing, damaged, or from another run.
    """
    _refuse_sentences(str(trial), trial.conf)
    search = ClipSearch(trial, split)
    split, scores, clips = search.split, search.stored.scores[()], []  # (V, C)
    texts, own, best_captions = _captions(search, scores)
    for fid in search.stored.fids:
        path, seconds = search.path(fid), search.scorer.clips[fid].seconds
        log_mel = partial(drawn_log_mel, search.conf, split, fid, path)
        clips.append(PageClip(fid, path, seconds, log_mel, own.get(fid, []), best_captions.get(fid, [])))
    caveat, name = caveat_of(trial), trial.path.resolve().name
    subject = Subject(split, f"the {split} split", "Trial", name, caveat and caveat.line, scores, clips, texts)
    return _write(trial.path / "explore", search, subject, copy)


def explore_folder(model: ExportedScorer, folder: Path, cache: Path, out: Path, copy: bool = True) -> Path:
    """Write a page into the folder `out` that searches a folder of sounds by an exported model. Returns its path.

    Args:
        cache: the folder that keeps the scores of encoded sounds.
    """
    _refuse_sentences(model.name, model.conf)
    search = FolderSearch(model, folder, cache)
    paths = [folder / name for name in search.names]
    clips = [
        PageClip(f"{number:06d}", path, seconds_of(path), partial(computed_log_mel, model.conf, path))
        for number, path in enumerate(paths, start=1)
    ]
    sounds, name, caveat = folder.resolve().name, Path(model.name).name, model.content.caveat
    return _write(out, search, Subject(str(folder), sounds, "Model", name, caveat, search.stored.scores, clips), copy)


def _refuse_sentences(name: str, conf: Conf) -> None:
    if of_sentences(conf):
        raise UserError(
            f"{name}: CRNNWordModel.text_enc.level is sentence, but the live page adds words up as they are typed; "
            "search with 4_search.py, or show a trial with level word"
        )


def _write(out: Path, search: TextSearch, subject: Subject, copy: bool) -> Path:
    search.require_finite(subject.scores)
    rows, words = _shown_words(search, subject.label), search.stored.words
    low, step, levels = packed(subject.scores[rows])
    with atomic_folder(out, PAGE) as folder:
        content = {
            "words": [words[row] for row in rows],
            "low": low,
            "step": step,
            "wordWeights": search.word_weights and [search.word_weights[words[row]] for row in rows],
            "corrections": search.conf.text_cleaning.corrections,
            "captions": subject.texts,
            "clips": _clips(subject.clips, folder, copy),
        }
        Page(folder, TEMPLATES).render(
            "explore.html",
            PAGE,
            sounds=subject.sounds,
            kind=subject.kind,
            source=subject.name,
            epoch=search.epoch,
            caveat=subject.caveat,
            weighted=search.score.idf is not None,
            signed_scores=search.score.signed,
            example=subject.texts[0] if subject.texts else "",
            content=content,
            levels=levels,
        )
    return out / PAGE


def _shown_words(search: TextSearch, label: str) -> list[int]:
    """Rows of the words that a query can hold: all of the vocabulary, then extra words as far as they fit."""
    words, corrections = search.stored.words, search.conf.text_cleaning.corrections
    limit = max(len(search.words) - search.scorer.extra, MAX_BYTES // (DIGITS * len(search.stored.fids)))
    rows = [row for row, word in enumerate(words) if word != PAD and is_typed(word, corrections)]
    if len(rows) > limit:
        print(f"{label}: {len(rows) - limit} of {len(rows)} words do not fit on the page; they are left out")
    return rows[:limit]


def _captions(search: ClipSearch, scores: np.ndarray) -> tuple[list[str], dict[str, list], dict[str, list]]:
    """The split's captions, and by fid PageClip.own and PageClip.best; all empty without a file of captions."""
    if not search.paths.text(search.split).exists():
        return [], {}, {}
    table, ids = load_captions(search.paths, search.split, search.words)
    words, weights = caption_weights(search.model, search.score, [caption.numpy() for caption in ids])
    own = {fid: rows.tolist() for fid, rows in table.groupby("fid").indices.items()}
    by_clip = (weights @ scores[words]).T  # (C, M)
    best_captions = {
        fid: [(int(i), round(float(row[i]), 6)) for i in best(row, BEST_CAPTIONS)]
        for fid, row in zip(search.stored.fids, by_clip, strict=True)
    }
    return table["raw_text"].tolist(), own, best_captions


def _clips(clips: list[PageClip], folder: Path, copy: bool) -> list[dict[str, Any]]:
    """Write each clip's picture, and its sound if `copy`. Returns the page's entry for each clip."""
    entries = []
    (folder / "logmels").mkdir()
    if copy:
        (folder / "sounds").mkdir()
    for clip in progress(clips, "clips", len(clips)):
        path, picture, sound = clip.path, f"logmels/{clip.id}.webp", f"sounds/{clip.id}.ogg"
        if not path.is_file():
            raise UserError(f"{path}: no such audio file; put it back")
        _draw(clip.log_mel(), folder / picture)
        if copy:
            copy_sound(path, folder / sound)
        source = sound if copy else path.resolve().as_uri()
        entry = {"name": path.name, "seconds": clip.seconds, "source": source, "picture": picture}
        entries.append(entry | {"own": clip.own, "best": clip.best})
    return entries


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

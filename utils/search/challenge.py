"""Rank the sounds of a folder for each caption of a file, in the form that challenges ask for.

A caption's score is a (weighted) mean of its words' scores. So each sound is encoded once, its scores with every word
of the vocabulary are kept beside the output, and further captions cost a look-up. Where captions are sentences, the
file's captions are the vocabulary, and the scores of other captions are not kept.

Shapes: C sounds, V words of the vocabulary, W of them in the captions.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.common.chunks import load_part, make_folder, save_part
from utils.common.counts import counted
from utils.common.csv_rows import csv_rows, refuse_repeated, shown_header
from utils.common.digests import digest_of, file_digest
from utils.common.errors import UserError
from utils.common.folders import own_file, require_own_file
from utils.common.io import progress, write_rows
from utils.common.lock import held
from utils.dataset.audio import highest_frequency
from utils.dataset.captions import clean_caption, has_words
from utils.dataset.paths import AUDIO_FILES, sounds_in
from utils.evaluation_utils import encode_words
from utils.search.clip_search import ClipSearch, best
from utils.trial.identity import identity
from utils.trial.score_files import WordScores
from utils.trial.trial import Trial

CAPTIONS = ("caption", "caption_query")  # column names of a challenge's file, and of a submission
RANKING = "ranking"  # the kind of the output file
PART = re.compile(r"([0-9a-f]{16})-[0-9a-f]{64}\.(?:npy|\d+\.tmp)")  # .tmp: of a killed process
SHOWN = 20  # problems or words printed


class Query(NamedTuple):
    """A caption to rank sounds for."""

    line: int  # on which its row ends in the file
    text: str  # raw


def rank_folder(trial: Trial, queries: Path, folder: Path, out: Path, top: int = 10) -> None:
    """Rank a folder's sounds for each caption of a CSV file, by a trial's best model, and write a CSV file.

    Its columns are caption_query, file_name_1, ..., file_name_{top} (fewer for fewer sounds), its rows those of the
    input. Ties are sorted by name; so are all sounds for a caption without known words, with a warning.

    Raises UserError if a row of the file or (unless clotho_dataset.on_bad_data is skip) a sound cannot be used.
    """
    if top < 1:
        raise UserError(f"top: is {top}, but must be at least 1")
    captions = read_queries(queries)
    require_own_file(out, RANKING, [queries])
    search = FolderSearch(trial, folder, out.with_name(f"{out.stem}_word_scores"), captions)
    names = search.names
    search.warn_unknown(queries)
    rows = [[query.text, *(names[i] for i in best(search.scores(query), top))] for query in captions]
    header = ["caption_query", *(f"file_name_{k}" for k in range(1, min(top, len(names)) + 1))]
    with own_file(out, RANKING) as temporary:
        write_rows(temporary, header, rows)
    print(f"{counted(len(rows), 'caption')}, {counted(len(names), 'sound')} -> {out}")


def read_queries(path: Path) -> list[Query]:
    """Read the captions in the column `caption` (or `caption_query`) of a CSV file.

    Raises UserError for an invalid CSV file (see `csv_rows`), no such column or both, no rows, or a caption without
    words.
    """
    header, rows = csv_rows(path, "name a CSV file with a column caption")
    columns = [column for column in CAPTIONS if column in header]
    if len(columns) != 1:
        raise UserError(f"{path}: line 1: needs one column, {' or '.join(CAPTIONS)}, but has {shown_header(header)}")
    refuse_repeated(path, header, columns)
    queries = [Query(line, row[columns[0]]) for line, row in rows]
    for query in queries:
        if not has_words(clean_caption(query.text)):
            raise UserError(f"{path}: line {query.line}: the caption {query.text[:200]!r} holds no words; correct it")
    if not queries:
        raise UserError(f"{path}: holds no captions")
    return queries


class FolderSearch(ClipSearch):
    """Search by text in the sounds of a folder, instead of a split's; they are resampled as in `ClipSearch.by_audio`.

    Args:
        trial: as of ClipSearch.
        folder: the sounds; subfolders are skipped.
        cache: the folder that keeps the scores of encoded sounds.
        queries: the captions to search for.
    """

    def __init__(self, trial: Trial, folder: Path, cache: Path, queries: list[Query]):
        super().__init__(trial)
        self.folder, self.cache, self.queries = folder, cache, queries
        files = list(sounds_in(folder))
        self.files = [name for name, problem in files if problem is None]
        self.problems = [f"{folder / name}: {problem}" for name, problem in files if problem]
        self.low_rates: list[str] = []  # sounds whose sample rate is too low for the model
        self.encoded = 0  # sounds, in this run
        if not files:
            raise UserError(f"{folder}: holds no {AUDIO_FILES} files")

    @property
    def names(self) -> list[str]:
        """C file names, sorted."""
        return self.stored.fids

    def scores(self, query: Query) -> np.ndarray:
        """(C,) float32: the sounds' scores with a caption; 0 if it has no known word."""
        known = self._known_tokens(query)
        scores = self._clip_scores(known) if known else np.zeros(len(self.names), np.float32)
        self.require_finite(scores)
        return scores

    def _known_tokens(self, query: Query) -> list[str]:
        return [word for word in self._tokens(query.text) if word in self._rows]

    def warn_unknown(self, source: Path) -> None:
        """Warn of the queries' unknown words, and of queries that have no others."""
        unknown = list(dict.fromkeys(word for query in self.queries for word in self.unknown_words(query.text)))
        if unknown:
            warnings.warn(f"unknown words, left out: {', '.join(unknown[:SHOWN])}{_more(unknown)}", stacklevel=2)
        lost = [query for query in self.queries if not self._known_tokens(query)]
        for line, text in lost[:SHOWN]:
            reason = f"no word of {text[:200]!r} is known: the sounds are sorted by name"
            warnings.warn(f"{source}: line {line}: {reason}", stacklevel=2)
        if more := len(lost[SHOWN:]):
            warnings.warn(f"{source}: {counted(more, 'more caption')} without any known word", stacklevel=2)

    @cached_property
    def tokens(self) -> dict[str, None]:
        """The queries' words, each once; of sentences, the queries."""
        return dict.fromkeys(word for query in self.queries for word in self._tokens(query.text))

    @property
    def vocabulary(self) -> list[str]:
        """What each sound is scored with: V words, or the queries."""
        return list(self.tokens) if self.of_sentences else self.words

    @cached_property
    @torch.no_grad()
    def _embeds(self) -> Tensor:
        """The vocabulary as the score takes it: (V, E)."""
        if self.of_sentences:
            return self._sentence_embeds(self.vocabulary)
        return self.score.word_embeds(encode_words(self.model, np.arange(len(self.words))))

    @cached_property
    def stored(self) -> WordScores:
        """The scores (W, C) of the queries' words with the usable sounds."""
        ids = np.array([i for i, word in enumerate(self.vocabulary) if word in self.tokens], dtype=np.int64)
        scores, names = np.empty((len(ids), len(self.files)), np.float32), []
        made_by = [identity(self.trial.path), self.epoch, self.conf.score.model_dump(), self.sounds.settings]
        made_by += [self.vocabulary] if self.of_sentences else []
        mark = digest_of(made_by)[:16]
        with filling(self.cache, mark):
            for name in progress(self.files, f"scoring {self.folder}", total=len(self.files)):
                word_scores = self._word_scores(self.folder / name, mark)
                if word_scores is not None:
                    scores[:, len(names)] = word_scores[ids]
                    names.append(name)
        self._report(names)
        return WordScores(scores[:, : len(names)], [self.vocabulary[i] for i in ids], names, self.epoch)

    def _word_scores(self, path: Path, mark: str) -> np.ndarray | None:
        """A sound's scores with all words (V,), from the cache or computed; None, and a problem, if it is unusable."""
        audio = None
        try:
            part = self.cache / f"{mark}-{file_digest(path)}.npy"
            scores = load_part(part, (len(self.vocabulary),))
            if scores is None:
                audio = self.sounds.read(path)
            if highest_frequency(path) < self.sounds.fmax:
                self.low_rates.append(path.name)
        except (UserError, OSError) as error:
            self.problems.append(str(error) if isinstance(error, UserError) else f"{path}: {error.strerror}")
            return None
        if audio is not None:  # outside `try`: a full disk is not a problem of the sound
            scores = self._sound_scores(audio, self._embeds)
            save_part(part, scores)
            self.encoded += 1
        return scores

    def _report(self, names: list[str]) -> None:
        """Print what was scored; refuse or warn of unusable sounds."""
        if self.problems and self.conf.clotho_dataset.on_bad_data == "refuse":
            unusable = f"{counted(len(self.problems), 'sound')} cannot be ranked{_more(self.problems)}"
            advice = "correct or remove them, or set clotho_dataset.on_bad_data=skip"
            raise UserError("\n".join([*self.problems[:SHOWN], f"{self.folder}: {unusable}: {advice}"]))
        for problem in self.problems:
            warnings.warn(f"left out: {problem}", stacklevel=2)
        if not names:
            raise UserError(f"{self.folder}: no sound is left to be ranked")
        if self.low_rates:
            low = f"{counted(len(self.low_rates), 'sound')} of a low sample rate, e.g. {self.low_rates[0]!r}"
            missing = f"nothing up to the {self.sounds.fmax:g} Hz that {self.sounds.noun} go up to"
            warnings.warn(f"{self.folder}: {low}: {missing}: their ranks may be wrong", stacklevel=2)
        kept = f" ({len(names) - self.encoded} kept from an earlier run)" if self.encoded < len(names) else ""
        unit = "distinct caption" if self.of_sentences else "word"
        sizes = f"{counted(len(names), 'sound')}{kept} x {counted(len(self.vocabulary), unit)}"
        print(f"{self.folder}: {sizes} -> {self.cache}")


def _more(items: list[str]) -> str:
    return f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""


@contextmanager
def filling(folder: Path, mark: str) -> Iterator[None]:
    """Lock a cache folder, made if it is missing, and drop scores with other marks.

    `mark` is 16 hexadecimal digits for the model and settings; a sound's scores are in {mark}-{SHA-256 of sound}.npy.
    """
    make_folder(folder)
    with held(folder / ".lock", f"{folder}: another process is filling it; wait for that, or end it"):
        dropped = 0
        for path in list(folder.iterdir()):
            if (part := PART.fullmatch(path.name)) and (part[1] != mark or path.suffix == ".tmp"):
                path.unlink()
                dropped += path.suffix == ".npy"
        if dropped:
            print(f"{folder}: scores of {counted(dropped, 'sound')} by another model, or other settings, are dropped")
        yield

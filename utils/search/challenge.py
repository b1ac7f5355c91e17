"""A challenge's form: the sounds of a folder, which have no captions, ranked for each caption of a file.

A text's score is a (weighted) mean of its words' scores. So each sound is encoded once, its scores with every word of
the vocabulary are kept beside the output, and other captions cost a look-up.

Shapes: C sounds, V words of the vocabulary, W of them in the captions.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

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
from utils.search.clip_search import ClipSearch, best
from utils.trial.identity import identity
from utils.trial.score_files import WordScores
from utils.trial.trial import Trial

CAPTIONS = ("caption", "caption_query")  # the column of a challenge's own file, and of what is handed in
RANKING = "ranking"  # what is written
PART = re.compile(r"([0-9a-f]{16})-[0-9a-f]{64}\.(?:npy|\d+\.tmp)")  # the latter of a process that was killed
SHOWN = 20  # problems or words on the terminal


class Query(NamedTuple):
    """A caption to rank sounds for."""

    line: int  # where its row ends in the file
    text: str  # as the file has it


def rank_folder(trial: Trial, queries: Path, folder: Path, out: Path, top: int = 10) -> None:
    """Rank a folder's sounds for each caption of a CSV file, by a trial's best model, and write that as a CSV file.

    Its columns are caption_query, file_name_1, ..., file_name_{top}, fewer where there are fewer sounds; its rows are
    those of the file. Ties go by name; so does a caption without any known word, and a warning names it.

    Raises UserError where a row of the file or (unless clotho_dataset.on_bad_data is skip) a sound cannot be used.
    """
    if top < 1:
        raise UserError(f"top: is {top}, but must be at least 1")
    asked = read_queries(queries)
    require_own_file(out, RANKING, [queries])
    search = FolderSearch(trial, folder, out.with_name(f"{out.stem}_word_scores"), asked)
    names = search.names
    search.warn_unknown(queries)
    rows = [[query.text, *(names[i] for i in best(search.scores(query), top))] for query in asked]
    header = ["caption_query", *(f"file_name_{k}" for k in range(1, min(top, len(names)) + 1))]
    with own_file(out, RANKING) as temporary:
        write_rows(temporary, header, rows)
    print(f"{counted(len(rows), 'caption')}, {counted(len(names), 'sound')} -> {out}")


def read_queries(path: Path) -> list[Query]:
    """The captions of a CSV file's column `caption` (or `caption_query`); its other columns are not read.

    Raises UserError for what `csv_rows` refuses, no such column or both, no row, and a caption without words.
    """
    header, rows = csv_rows(path, "name a CSV file with a column caption")
    columns = [column for column in CAPTIONS if column in header]
    if len(columns) != 1:
        raise UserError(f"{path}: line 1: needs one column, {' or '.join(CAPTIONS)}, but has {shown_header(header)}")
    refuse_repeated(path, header, columns)
    queries = [Query(line, row[columns[0]]) for line, row in rows]
    for query in queries:
        if not has_words(clean_caption(query.text)):
            raise UserError(f"{path}: line {query.line}: the caption {query.text[:200]!r} holds no words; mend the row")
    if not queries:
        raise UserError(f"{path}: holds no captions")
    return queries


class FolderSearch(ClipSearch):
    """Search by text in a folder's sounds, in the place of a split's; they are resampled as a search's sound is.

    Args:
        trial: as of ClipSearch.
        folder: its sounds are searched, not those of folders within it.
        cache: the folder in which the scores of what was encoded are kept.
        queries: what is to be searched for.
    """

    def __init__(self, trial: Trial, folder: Path, cache: Path, queries: list[Query]):
        super().__init__(trial)
        self.folder, self.cache, self.queries = folder, cache, queries
        files = list(sounds_in(folder))
        self.files = [name for name, problem in files if problem is None]
        self.problems = [f"{folder / name}: {problem}" for name, problem in files if problem]
        self.low: list[str] = []  # sounds of too low a sample rate
        self.computed = 0  # sounds
        if not files:
            raise UserError(f"{folder}: holds no {AUDIO_FILES} files")

    @property
    def names(self) -> list[str]:
        """C file names, in their order."""
        return self.stored.fids

    def scores(self, query: Query) -> np.ndarray:
        """(C,) float32: the sounds' scores with a text; 0 where it has no known word."""
        known = [word for word in self._tokens(query.text) if word in self._rows]
        scores = self._clip_scores(known) if known else np.zeros(len(self.names), np.float32)
        if not np.isfinite(scores).all():
            raise UserError(f"{self.trial}: scores are NaN: the model is broken; look at the trial's train.log")
        return scores

    def warn_unknown(self, source: Path) -> None:
        """Say which words of the queries are unknown, and which queries have no others."""
        unknown = list(dict.fromkeys(word for query in self.queries for word in self.unknown_words(query.text)))
        if unknown:
            more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
            warnings.warn(f"unknown words, left out: {', '.join(unknown[:SHOWN])}{more}", stacklevel=2)
        lost = [query for query in self.queries if not any(word in self._rows for word in self._tokens(query.text))]
        for line, text in lost[:SHOWN]:
            what = f"no word of {text[:200]!r} is known: the sounds stand in the order of their names"
            warnings.warn(f"{source}: line {line}: {what}", stacklevel=2)
        if len(lost) > SHOWN:
            more = counted(len(lost) - SHOWN, "more caption")
            warnings.warn(f"{source}: {more} without any known word", stacklevel=2)

    @cached_property
    def stored(self) -> WordScores:
        """The scores (W, C) of the queries' words with the sounds that can be used."""
        known = set(self.words[1:]) & {word for query in self.queries for word in self._tokens(query.text)}
        ids = np.array([i for i, word in enumerate(self.words) if word in known], dtype=np.int64)
        scores, names = np.empty((len(ids), len(self.files)), np.float32), []
        made_by = [identity(self.trial.path), self.epoch, self.conf.score.model_dump(), asdict(self._log_mel_config)]
        with kept_scores(self.cache, digest_of(made_by)[:16]) as kept:
            for name in progress(self.files, f"scoring {self.folder}", total=len(self.files)):
                by_word = self._scores_of(self.folder / name, kept)
                if by_word is not None:
                    scores[:, len(names)] = by_word[ids]
                    names.append(name)
        self._report(names)
        return WordScores(scores[:, : len(names)], [self.words[i] for i in ids], names, self.epoch)

    def _scores_of(self, path: Path, kept: Callable[[str], Path]) -> np.ndarray | None:
        """A sound's scores with all words, (V,); None, and a problem more, where it cannot be used."""
        try:
            part = kept(file_digest(path))
            scores = load_part(part, (len(self.words),))
            log_mel = self._log_mel(path) if scores is None else None
            if highest_frequency(path) < self._log_mel_config.fmax:
                self.low.append(path.name)
        except (UserError, OSError) as error:
            self.problems.append(str(error) if isinstance(error, UserError) else f"{path}: {error.strerror}")
            return None
        if scores is None:  # not above: that the disk is full is no fault of the sound
            scores = self._sound_scores(log_mel, np.arange(len(self.words)))
            save_part(part, scores)
            self.computed += 1
        return scores

    def _report(self, names: list[str]) -> None:
        """Say what was scored, and refuse or name what could not be."""
        if self.problems and self.conf.clotho_dataset.on_bad_data == "refuse":
            more = f" and {len(self.problems) - SHOWN} more" if len(self.problems) > SHOWN else ""
            advice = f"cannot be ranked{more}: mend or remove what is named, or set clotho_dataset.on_bad_data=skip"
            last = f"{self.folder}: {counted(len(self.problems), 'sound')} {advice}"
            raise UserError("\n".join([*self.problems[:SHOWN], last]))
        for problem in self.problems:
            warnings.warn(f"left out: {problem}", stacklevel=2)
        if not names:
            raise UserError(f"{self.folder}: no sound is left to be ranked")
        if self.low:
            low = f"{counted(len(self.low), 'sound')} of a low sample rate, e.g. {self.low[0]!r}"
            what = f"nothing up to the {self._log_mel_config.fmax:g} Hz that log-mels go up to: the rank may not fit"
            warnings.warn(f"{self.folder}: {low}: {what}", stacklevel=2)
        earlier = f" ({len(names) - self.computed} kept from an earlier run)" if self.computed < len(names) else ""
        sizes = f"{counted(len(names), 'sound')}{earlier} x {counted(len(self.words), 'word')}"
        print(f"{self.folder}: {sizes} -> {self.cache}")


@contextmanager
def kept_scores(folder: Path, mark: str) -> Iterator[Callable[[str], Path]]:
    """Where the scores of a sound, by its digest, are kept; other marks' are dropped. One process at a time is here.

    Args:
        folder: made where it is not there.
        mark: 16 hexadecimal digits that stand for what the scores are made by.
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
        yield lambda sound: folder / f"{mark}-{sound}.npy"

"""The index of a data set: which caption belongs to which clip, and what is wrong with either."""

from __future__ import annotations  # of pandas, which `read_table` imports

import csv
import hashlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from utils.common.errors import UserError, reason_of
from utils.common.io import progress, read_json, require_file
from utils.common.steps import CLEANING, INDEXING
from utils.dataset.audio import Clip, Probe, probe_clip
from utils.dataset.captions import RawCaption, has_words, hyphenated_words
from utils.dataset.clip_names import match_names, why_absent
from utils.dataset.log_mel_config import LOWEST_RATE, LogMelConfig
from utils.dataset.paths import CLOTHO_ADVICE, UNSUPPORTED, DatasetPaths, sounds_in

if TYPE_CHECKING:
    import pandas as pd

FID, SHA256 = re.compile("[0-9a-f]{16}"), re.compile("[0-9a-f]{64}")
CLEAN_COLUMNS = [*RawCaption._fields, "text"]
TEXT_COLUMNS = ["tid", "fid", "file_name", "raw_text", "text", "tokens"]


class Problem(NamedTuple):
    """Something wrong with the data."""

    source: str  # the caption file, or the split's folder
    line: int  # in the caption file; 0: none
    file_name: str  # of the clip
    what: str

    def __str__(self) -> str:
        line = f" line {self.line}" if self.line else ""
        clip = f" ({self.file_name!r})" if self.file_name else ""
        return f"{self.source}{line}{clip}: {self.what}"


@dataclass(frozen=True)
class SplitIndex:
    """A split's captions and clips, and the problems that left others out."""

    captions: pd.DataFrame  # TEXT_COLUMNS, a row a caption
    probes: dict[str, Probe]  # by fid; empty if audio is not required
    problems: list[Problem]

    @property
    def clips(self) -> dict[str, Clip]:
        return {fid: probe.clip for fid, probe in self.probes.items()}


def index_split(paths: DatasetPaths, split: str, config: LogMelConfig | None, min_frames: int = 1) -> SplitIndex:
    """Pair a split's cleaned captions with its clips, or index them alone where there is no config.

    Leaves out and lists the captions and clips that cannot be paired, the clips that cannot be read, and those that
    cannot have a log-mel of `min_frames` by the config.
    """
    path = paths.clean_captions(split)
    table = read_table(path, CLEAN_COLUMNS, CLEANING)
    if not table["line"].str.fullmatch("[0-9]{1,9}").all():
        raise UserError(f"{path}: holds lines without a number; run {CLEANING} again")
    indexer = _Indexer(paths, split)
    table = indexer.usable_rows(table.astype({"line": int}))
    probes = {}
    if config is not None:
        lines = table.groupby("file_name", sort=False)["line"].first().to_dict()
        probes = indexer.probe_clips(lines, lambda clip: _probe(clip, config, min_frames))
        table = table[table["file_name"].isin(probes)]
    table = indexer.captions_with_words(table)
    fids = [clip_id(split, name) for name in table["file_name"]]
    captions = table.assign(
        tid=[f"{fid}-{column.removeprefix('caption_')}" for fid, column in zip(fids, table["column"], strict=True)],
        fid=fids,
        tokens=[json.dumps(text.split(), ensure_ascii=False) for text in table["text"]],
    )
    names = dict(zip(captions["fid"], captions["file_name"], strict=True))
    indexed = {fid: probes[name] for fid, name in names.items() if probes}
    return SplitIndex(captions[TEXT_COLUMNS], indexed, indexer.problems)


def clip_id(split: str, file_name: str) -> str:
    """fid of a clip: 16 hexadecimal digits from its split and name, because names recur across splits."""
    return hashlib.sha256(f"{split}/{file_name}".encode()).hexdigest()[:16]


def vocabulary_info(captions: dict[str, pd.DataFrame]) -> dict:
    """vocab_info.json: the sorted vocabulary, word counts in each split, hyphenated words, and sizes of the splits."""
    counts = {split: Counter(" ".join(table["text"]).split()) for split, table in captions.items()}
    total = sum(counts.values(), Counter())
    return {
        "vocabulary": sorted(total),
        "counts": {split: dict(sorted(words.items())) for split, words in counts.items()},
        "hyphenated": {word: total[word] for word in hyphenated_words(" ".join(sorted(total)))},
        "splits": {
            split: {
                "clips": int(table["fid"].nunique()),
                "captions": len(table),
                "words": counts[split].total(),
                "distinct_words": len(counts[split]),
            }
            for split, table in captions.items()
        },
    }


def clip_info(clips: dict[str, dict[str, Clip]]) -> dict:
    """audio_info.json: each split's clips by fid, their number and total seconds."""
    return {
        split: {
            "num_clips": len(by_fid),
            "seconds": round(sum(clip.seconds for clip in by_fid.values()), 3),
            "clips": {fid: clip._asdict() for fid, clip in by_fid.items()},
        }
        for split, by_fid in clips.items()
    }


def read_clips(paths: DatasetPaths, split: str) -> dict[str, Clip]:
    """Read a split's clips by fid from audio_info.json; `paths.clip` checks their file names."""
    try:
        clips = {fid: Clip(**clip) for fid, clip in read_json(paths.audio_info, INDEXING)[split]["clips"].items()}
        for fid, clip in clips.items():
            is_named = FID.fullmatch(fid) and SHA256.fullmatch(clip.sha256)
            is_rate = isinstance(clip.sample_rate, int) and 0 < clip.sample_rate < 2**31
            if not (is_named and is_rate and 0 <= clip.seconds < math.inf):
                raise ValueError
        return clips
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError(f"{paths.audio_info}: not as {INDEXING} writes it for {split}; run that again") from None


def read_vocabulary(paths: DatasetPaths) -> list[str]:
    """Read the vocabulary from vocab_info.json."""
    words = read_json(paths.vocab_info, INDEXING).get("vocabulary")
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise UserError(f"{paths.vocab_info}: vocabulary is not a list of words; run {INDEXING} again")
    return words


def read_table(path: Path, columns: list[str], made_by: str) -> pd.DataFrame:
    """The cells of `read_cells` as a table."""
    import pandas as pd

    return pd.DataFrame(read_cells(path, columns, made_by), columns=columns, dtype=str)


def read_cells(path: Path, columns: list[str], made_by: str) -> list[list[str]]:
    """Read columns of a CSV file that the step `made_by` wrote: a list of cells for each row, as text.

    It does not use pandas, whose import takes longer than reading a data set's captions. Raises UserError where the
    file or a column is missing, or the file is damaged.
    """
    require_file(path, made_by)
    limit = csv.field_size_limit(sys.maxsize)  # a cell of tokens is longer than the caption that was read
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            # a carriage return within a cell is not in quotes, as `csv` expects it; no cell holds NUL
            rows = csv.reader((line.replace("\r", "\0") for line in file), strict=True)
            if not (header := next(rows, [])):
                raise ValueError("it is empty")
            for column in columns:
                if column not in header:
                    raise UserError(f"{path}: column {column} is missing; run {made_by} again")
            places = [header.index(column) for column in columns]
            return [[row[place].replace("\0", "\r") for place in places] for row in rows if row]
    except (ValueError, IndexError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV file ({reason_of(error)}); run {made_by} again") from None
    finally:
        csv.field_size_limit(limit)


def _is_empty(cells: pd.Series) -> pd.Series:
    """Which cells of text hold nothing, or only spaces."""
    return cells.str.strip() == ""


@dataclass
class _Indexer:
    """Choose a split's usable captions and clips, and list what is wrong with the others."""

    paths: DatasetPaths
    split: str
    problems: list[Problem] = field(default_factory=list)

    def _report(self, line: int, file_name: str, what: str) -> None:
        """Add a problem of a line of the captions file, or, with line 0, of a clip."""
        source = self.paths.raw_captions(self.split).name if line else self.split
        self.problems.append(Problem(source, line, file_name, what))

    def usable_rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """Keep the first row of each file name; in the long form, each row of a clip has its own column."""
        if table.empty:
            self._report(1, "", "no captions")
        table = self._rows_with_names(table)
        table = table.assign(first_line=table.groupby(["file_name", "column"])["line"].transform("first"))
        is_first = table["line"] == table["first_line"]
        for row in table[~is_first].drop_duplicates("line").itertuples():
            self._report(row.line, row.file_name, f"the same file name as on line {row.first_line}")
        return table[is_first]

    def _rows_with_names(self, table: pd.DataFrame) -> pd.DataFrame:
        """Keep the rows that name a file; all empty rows, as spreadsheets leave them, are one problem."""
        nameless = table[_is_empty(table["file_name"])]
        has_text = (~_is_empty(nameless["raw_text"])).groupby(nameless["line"]).any()
        for line in has_text.index[has_text]:
            self._report(line, "", "the row names no file")
        empty = has_text.index[~has_text]
        if len(empty):
            others = f", and {len(empty) - 1} more are" if len(empty) > 1 else ""
            self._report(empty[0], "", f"the row is empty{others}; remove empty rows")
        return table.drop(nameless.index)

    def captions_with_words(self, table: pd.DataFrame) -> pd.DataFrame:
        """Keep the captions that hold a word. An empty cell is no problem unless all of a clip's are empty."""
        wordless, empty = ~table["text"].map(has_words).astype(bool), _is_empty(table["raw_text"])
        for row in table[wordless & ~empty].itertuples():
            self._report(row.line, row.file_name, f"{row.column} holds no words")
        silent = empty.groupby(table["file_name"], sort=False).transform("all").astype(bool)
        for row in table[silent].drop_duplicates("file_name").itertuples():
            self._report(row.line, row.file_name, "the clip has no captions: its cells are empty")
        return table[~wordless]

    def probe_clips(self, lines: dict[str, int], probe: Callable[[Path], Probe]) -> dict[str, Probe]:
        """Probe the clips that captions name, {name: line}; returns the usable ones by that name."""
        self.paths.require_own(self.split)
        folder, files = self.paths.audio(self.split), []
        for name, problem in sounds_in(folder, f"put the audio files there ({CLOTHO_ADVICE})"):
            if problem is None:
                files.append(name)
            elif problem != UNSUPPORTED or name not in lines:  # `why_absent` reports an unsupported one that is named
                self._report(0, name, problem)
        matches = match_names(list(lines), files)
        matched = set(matches.values())
        probes = {}
        for file in progress(sorted(matched), f"reading {self.split}", total=len(matched)):
            try:
                probes[file] = probe(self.paths.clip(self.split, file))
            except UserError as error:
                self._report(0, file, str(error).partition(": ")[2])
        for file in sorted(set(files) - matched):
            self._report(0, file, "the clip has no captions")
        reported = {problem.file_name for problem in self.problems if problem.source == self.split}
        for name, why in why_absent(lines, matches, folder).items():
            if name not in reported:
                self._report(lines[name], name, why)
        return {name: probes[file] for name, file in matches.items() if file in probes}


def _probe(path: Path, config: LogMelConfig, min_frames: int) -> Probe:
    """Probe a clip; raises UserError if it is damaged, or cannot have the required log-mel."""
    probe = probe_clip(path)
    clip = probe.clip
    try:
        frames, transform = config.frames(clip.samples, clip.sample_rate), config.at(clip.sample_rate)
    except ValueError as error:
        can_resample = config.sample_rate is None and clip.sample_rate >= LOWEST_RATE
        advice = "audio_logmel.sample_rate resamples all; or " if can_resample else ""
        raise UserError(f"{path}: {error}; {advice}remove it and its row of captions") from None
    if frames < min_frames:
        shortest = (min_frames - 1) * transform.hop_length / transform.sample_rate  # s; the first frame is at 0 s
        needed = f"the model needs {min_frames} frames, {shortest:.4g} s"
        raise UserError(f"{path}: {clip.seconds:g} s are too short; {needed}")
    return probe

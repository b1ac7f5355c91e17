"""The index of a data set: which caption belongs to which clip, and what is wrong with it."""

import hashlib
import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from utils.common.errors import UserError
from utils.common.io import progress, read_json, require_file
from utils.common.steps import CLEANING, INDEXING
from utils.dataset.audio import Clip, Level, Probe, probe_clip
from utils.dataset.captions import CAPTION_COLUMNS, has_words, hyphenated_words
from utils.dataset.clip_names import match_names, why_absent
from utils.dataset.log_mel_config import LOWEST_RATE, LogMelConfig
from utils.dataset.paths import CONVERT, DatasetPaths, sounds_in

FID, SHA256 = re.compile("[0-9a-f]{16}"), re.compile("[0-9a-f]{64}")
CLEAN_COLUMNS = ["line", "file_name", "column", "raw_text", "text"]
TEXT_COLUMNS = ["tid", "fid", "file_name", "raw_text", "text", "tokens"]


class Problem(NamedTuple):
    """Something wrong with the data."""

    source: str  # the caption file, or the split's folder, in which it stands
    line: int  # there; 0: none
    file_name: str  # of the clip
    what: str

    def __str__(self) -> str:
        line = f" line {self.line}" if self.line else ""
        clip = f" ({self.file_name!r})" if self.file_name else ""
        return f"{self.source}{line}{clip}: {self.what}"


@dataclass(frozen=True)
class SplitIndex:
    """What indexing found in a split."""

    captions: pd.DataFrame  # TEXT_COLUMNS, a row a caption
    clips: dict[str, Clip]  # by fid; empty where audio is not required
    levels: dict[str, Level]  # theirs
    problems: list[Problem]


def index_split(
    paths: DatasetPaths, split: str, require_audio: bool, fewest: int, config: LogMelConfig
) -> SplitIndex:
    """Pair a split's cleaned captions with its clips that have log-mels of at least `fewest` frames by the config.

    Whatever cannot be paired or read is left out and listed.
    """
    table = read_table(paths.clean_captions(split), CLEAN_COLUMNS, CLEANING)
    if not table["line"].str.fullmatch("[0-9]{1,9}").all():
        raise UserError(f"{paths.clean_captions(split)}: holds lines without a number; run {CLEANING} again")
    source = paths.raw_captions(split).name
    problems = [
        Problem(source, 1, "", f"column {column} is missing")
        for column in CAPTION_COLUMNS
        if len(table) and column not in set(table["column"])
    ]
    if table.empty:
        problems.append(Problem(source, 1, "", "no captions"))
    table = _drop_rows_without_names(table, source, problems)
    table = _drop_repeated_clips(table, source, problems)
    probes = _probe_split(paths, split, table, Fit(fewest, config), problems) if require_audio else {}
    if require_audio:
        table = table[table["file_name"].isin(probes)]
    table = _drop_empty_captions(table, source, problems)
    table = table.assign(fid=[clip_id(split, name) for name in table["file_name"]])
    captions = pd.DataFrame(
        {
            "tid": [f"{row.fid}-{row.column.removeprefix('caption_')}" for row in table.itertuples()],
            "fid": table["fid"],
            "file_name": table["file_name"],
            "raw_text": table["raw_text"],
            "text": table["text"],
            "tokens": [json.dumps(text.split(), ensure_ascii=False) for text in table["text"]],
        },
        columns=TEXT_COLUMNS,
    )
    names = dict(zip(table["fid"], table["file_name"], strict=True))
    found = {fid: probes[name] for fid, name in names.items()} if require_audio else {}
    clips = {fid: probe.clip for fid, probe in found.items()}
    return SplitIndex(captions, clips, {fid: probe.level for fid, probe in found.items()}, problems)


def clip_id(split: str, file_name: str) -> str:
    """fid of a clip: 16 hexadecimal digits that depend on split and name alone (names recur across splits)."""
    return hashlib.sha256(f"{split}/{file_name}".encode()).hexdigest()[:16]


def vocabulary_info(captions: dict[str, pd.DataFrame]) -> dict:
    """The vocabulary (sorted), its words' counts in each split, the hyphenated words, and each split's sizes."""
    counts = {split: Counter(" ".join(table["text"]).split()) for split, table in captions.items()}
    together = sum(counts.values(), Counter())
    return {
        "vocabulary": sorted(together),
        "counts": {split: dict(sorted(words.items())) for split, words in counts.items()},
        "hyphenated": {word: together[word] for word in hyphenated_words(" ".join(sorted(together)))},
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
    """Each split's clips by fid, their number and their seconds in all."""
    return {
        split: {
            "num_clips": len(by_fid),
            "seconds": round(sum(clip.seconds for clip in by_fid.values()), 3),
            "clips": {fid: clip._asdict() for fid, clip in by_fid.items()},
        }
        for split, by_fid in clips.items()
    }


def read_clips(paths: DatasetPaths, split: str) -> dict[str, Clip]:
    """A split's clips by fid, of audio_info.json; where they lie, `paths.clip` checks."""
    try:
        clips = {fid: Clip(**clip) for fid, clip in read_json(paths.audio_info, INDEXING)[split]["clips"].items()}
        for fid, clip in clips.items():
            if not FID.fullmatch(fid) or not SHA256.fullmatch(clip.sha256) or not 0 <= clip.seconds < math.inf:
                raise ValueError
            if not isinstance(clip.sample_rate, int) or not 0 < clip.sample_rate < 2**31:
                raise ValueError
        return clips
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError(f"{paths.audio_info}: not as {INDEXING} writes it for {split}; run that again") from None


def read_vocabulary(paths: DatasetPaths) -> list[str]:
    """The vocabulary of vocab_info.json."""
    words = read_json(paths.vocab_info, INDEXING).get("vocabulary")
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise UserError(f"{paths.vocab_info}: vocabulary is no list of words; run {INDEXING} again")
    return words


def read_table(path: Path, columns: list[str], made_by: str) -> pd.DataFrame:
    """Read these columns of a CSV that a preprocessing step wrote; every cell is text ("NA" is a word, not a gap)."""
    require_file(path, made_by)
    try:
        table = pd.read_csv(path, usecols=lambda name: name in columns, dtype=str, na_filter=False, lineterminator="\n")
    except (ValueError, pd.errors.EmptyDataError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable CSV file ({why}); run {made_by} again") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise UserError(f"{path}: column {missing[0]} is missing; run {made_by} again")
    return table


class Fit(NamedTuple):
    """What a clip has to fit."""

    fewest: int  # frames that its log-mel has
    config: LogMelConfig


def _probe_split(
    paths: DatasetPaths, split: str, table: pd.DataFrame, fit: Fit, problems: list[Problem]
) -> dict[str, Probe]:
    """The clips of the table's rows that can be used, by the name there; what is wrong with others is listed."""
    lines = dict(zip(table["file_name"], map(int, table["line"]), strict=True))
    files = _audio_files(paths, split, set(lines), problems)
    places = match_names(list(lines), files)
    probes = _probe_clips(paths, split, sorted(places.values()), fit, problems)
    claimed = set(places.values())
    problems += [Problem(split, 0, name, "the clip has no captions") for name in sorted(set(files) - claimed)]
    said = {problem.file_name for problem in problems if problem.source == split}
    lying = sorted({path.name for path in paths.audio(split).iterdir()} - claimed)
    source = paths.raw_captions(split).name
    problems += [
        Problem(source, line, name, why_absent(name, lying))
        for name, line in lines.items()
        if name not in places and name not in said
    ]
    return {name: probes[file] for name, file in places.items() if file in probes}


def _audio_files(paths: DatasetPaths, split: str, named: set[str], problems: list[Problem]) -> list[str]:
    """The names of a split's audio files; what is none that can be read, and no caption names, is a problem."""
    files = []
    paths.require_own(split)
    for name, problem in sounds_in(paths.audio(split)):
        if problem is None:
            files.append(name)
        elif problem != CONVERT or name not in named:
            problems.append(Problem(split, 0, name, problem))
    return files


def _probe_clips(
    paths: DatasetPaths, split: str, files: list[str], fit: Fit, problems: list[Problem]
) -> dict[str, Probe]:
    """The clips that can be decoded to their end and fit, by file."""
    probes = {}
    for name in progress(files, f"reading {split}", total=len(files)):
        try:
            probe = probe_clip(paths.clip(split, name))
        except UserError as error:
            problems.append(Problem(split, 0, name, str(error).partition(": ")[2]))
            continue
        if what := _unfit(probe.clip, fit):
            problems.append(Problem(split, 0, name, what))
        else:
            probes[name] = probe
    return probes


def _unfit(clip: Clip, fit: Fit) -> str | None:
    """Why a clip can have no log-mel, or none that is long enough for the model."""
    fewest, config = fit
    try:
        frames = config.frames(clip.samples, clip.sample_rate)
        transform = config.at(clip.sample_rate)
    except ValueError as error:
        resamples = config.sample_rate is None and clip.sample_rate >= LOWEST_RATE
        advice = "audio_logmel.sample_rate resamples all; or " if resamples else ""
        return f"{error}; {advice}take it out, with its row of captions"
    if frames < fewest:
        shortest = (fewest - 1) * transform.hop_length / transform.sample_rate  # s: centred frames begin with the clip
        return f"{clip.seconds:g} s are too short; the model needs {fewest} frames, {shortest:.4g} s"
    return None


def _drop_repeated_clips(table: pd.DataFrame, source: str, problems: list[Problem]) -> pd.DataFrame:
    """Keep the first row of each file name."""
    first_line = table.groupby("file_name")["line"].transform("first")
    repeated = table["line"] != first_line
    for row in table.assign(first_line=first_line)[repeated].drop_duplicates("line").itertuples():
        what = f"the same file name as on line {row.first_line}"
        problems.append(Problem(source, int(row.line), row.file_name, what))
    return table[~repeated]


def _drop_rows_without_names(table: pd.DataFrame, source: str, problems: list[Problem]) -> pd.DataFrame:
    """Keep the rows that name a file; those that hold nothing at all, as spreadsheets leave them, are one problem."""
    nameless = table[table["file_name"].str.strip() == ""]
    has_text = nameless["raw_text"].str.strip() != ""
    written = set(nameless["line"][has_text])
    lines = list(dict.fromkeys(map(int, nameless["line"])))
    problems += [Problem(source, line, "", "the row names no file") for line in lines if str(line) in written]
    if empty := [line for line in lines if str(line) not in written]:
        more = f", and {len(empty) - 1} more are" if len(empty) > 1 else ""
        problems.append(Problem(source, empty[0], "", f"the row is empty{more}; remove what is empty"))
    return table.drop(nameless.index)


def _drop_empty_captions(table: pd.DataFrame, source: str, problems: list[Problem]) -> pd.DataFrame:
    empty = ~table["text"].map(has_words).astype(bool)
    for row in table[empty].itertuples():
        problems.append(Problem(source, int(row.line), row.file_name, f"{row.column} holds no words"))
    return table[~empty]

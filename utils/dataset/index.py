"""The index of a data set: which caption belongs to which clip, and what is wrong with it."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import pandas as pd

from utils.common.errors import UserError
from utils.common.io import progress, read_json, require_file
from utils.common.steps import CLEANING, INDEXING
from utils.dataset.audio import Clip, probe_clip
from utils.dataset.captions import CAPTION_COLUMNS, has_words, hyphenated_words
from utils.dataset.paths import CONVERT, OTHER_SOUNDS, DatasetPaths, sounds_in
from utils.dataset.recipe import LogMelRecipe

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
    problems: list[Problem]


def index_split(
    paths: DatasetPaths, split: str, require_audio: bool, shortest: float, recipe: LogMelRecipe
) -> SplitIndex:
    """Pair a split's cleaned captions with its clips of at least `shortest` seconds that the recipe fits.

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
    table = _drop_repeated_clips(table, source, problems)
    if require_audio:
        names = list(dict.fromkeys(table["file_name"]))
        files = _audio_files(paths, split, set(names), problems)
        places = match_names(names, files)
        readable = _probe_clips(paths, split, sorted(places.values()), shortest, recipe, problems)
        unused = sorted(set(files) - set(places.values()))
        problems += [Problem(split, 0, name, "the clip has no captions") for name in unused]
        table = _drop_clips_without_audio(table, source, places, readable, problems)
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
    clips = {fid: readable[places[name]] for fid, name in names.items()} if require_audio else {}
    return SplitIndex(captions, clips, problems)


def clip_id(split: str, file_name: str) -> str:
    """fid of a clip: 16 hexadecimal digits that depend on split and name alone (names recur across splits)."""
    return hashlib.sha256(f"{split}/{file_name}".encode()).hexdigest()[:16]


def match_names(names: list[str], files: list[str]) -> dict[str, str]:
    """Pair the names in a caption file with audio files: exactly first, then without spaces around stem and suffix,
    then whichever way accents are encoded (a Mac's archive has them apart from their letters).

    Each file serves one name; a name that fits no file, or several, is left out.
    """
    matches = {name: name for name in set(names) & set(files)}
    for key in (_stripped, lambda name: normalize("NFC", _stripped(name))):
        taken = set(matches.values())
        owners = _grouped((name for name in names if name not in matches), key)
        places = _grouped((file for file in files if file not in taken), key)
        unique = [form for form, group in owners.items() if len(group) == len(places.get(form, ())) == 1]
        matches |= {owners[form][0]: places[form][0] for form in unique}
    return matches


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


def _stripped(name: str) -> str:
    """A file name without spaces around stem and suffix."""
    stem, dot, suffix = name.rpartition(".")
    return stem.strip() + dot + suffix.strip()


def _grouped(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    """Names by what the key makes of them."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def _audio_files(paths: DatasetPaths, split: str, named: set[str], problems: list[Problem]) -> list[str]:
    """The names of a split's audio files; what is none that can be read, and no caption names, is a problem."""
    files = []
    for name, problem in sounds_in(paths.audio(split)):
        if problem is None:
            files.append(name)
        elif problem != CONVERT or name not in named:
            problems.append(Problem(split, 0, name, problem))
    return files


def _probe_clips(
    paths: DatasetPaths,
    split: str,
    files: list[str],
    shortest: float,
    recipe: LogMelRecipe,
    problems: list[Problem],
) -> dict[str, Clip]:
    """The clips that can be decoded to their end, last at least `shortest` seconds and fit the recipe, by file."""
    clips = {}
    for name in progress(files, f"reading {split}", total=len(files)):
        try:
            clip = probe_clip(paths.clip(split, name))
        except UserError as error:
            problems.append(Problem(split, 0, name, str(error).partition(": ")[2]))
            continue
        if what := _unfit(clip, shortest, recipe):
            problems.append(Problem(split, 0, name, what))
        else:
            clips[name] = clip
    return clips


def _unfit(clip: Clip, shortest: float, recipe: LogMelRecipe) -> str | None:
    """Why a clip can have no log-mel, or none that is long enough for the model."""
    if clip.seconds < shortest:
        return f"{clip.seconds:g} s are too short; the model needs {shortest:g} s"
    try:
        recipe.at(clip.sample_rate)
    except ValueError as error:
        return f"{error}; audio_logmel.sample_rate resamples all; or take it out, with its row of captions"
    return None


def _drop_repeated_clips(table: pd.DataFrame, source: str, problems: list[Problem]) -> pd.DataFrame:
    """Keep the first row of each file name."""
    first_line = table.groupby("file_name")["line"].transform("first")
    repeated = table["line"] != first_line
    for row in table.assign(first_line=first_line)[repeated].drop_duplicates("line").itertuples():
        what = f"the same file name as on line {row.first_line}"
        problems.append(Problem(source, int(row.line), row.file_name, what))
    return table[~repeated]


def _drop_clips_without_audio(
    table: pd.DataFrame, source: str, places: dict[str, str], readable: dict[str, Clip], problems: list[Problem]
) -> pd.DataFrame:
    for row in table.drop_duplicates("file_name").itertuples():
        if row.file_name not in places:
            what = "no such audio file"
            if Path(row.file_name).name != row.file_name:
                what = "is no file name: clips lie in the split's folder itself"
            elif Path(row.file_name).suffix.lower() in OTHER_SOUNDS:
                what = f"{CONVERT}, and name that here"
            problems.append(Problem(source, int(row.line), row.file_name, what))
    return table[table["file_name"].map(lambda name: places.get(name) in readable).astype(bool)]


def _drop_empty_captions(table: pd.DataFrame, source: str, problems: list[Problem]) -> pd.DataFrame:
    empty = ~table["text"].map(has_words).astype(bool)
    for row in table[empty].itertuples():
        problems.append(Problem(source, int(row.line), row.file_name, f"{row.column} holds no words"))
    return table[~empty]

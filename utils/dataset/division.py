"""Divide one captions file and one folder of sounds into splits, clip by clip."""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.common.csv_rows import csv_rows, refuse_repeated
from utils.common.digests import file_digest
from utils.common.errors import UserError
from utils.common.io import new_folder, progress
from utils.dataset.captions import read_captions
from utils.dataset.clip_names import match_names, why_absent
from utils.dataset.paths import DatasetPaths, sounds_in

SHOWN = 20  # clips without a sound on the terminal


class Collection(NamedTuple):
    """A captions file and its sounds."""

    header: list[str]
    rows: list[list[str]]  # the cells below the header, of the clips alone that have a sound
    sounds: dict[str, Path]  # by the clip's file name in the captions file
    absent: list[str]  # an error line for each clip without a sound
    unnamed: list[str]  # sounds without captions

    def rows_of(self, names: set[str]) -> list[list[str]]:
        """The rows of these clips, in the order of the file."""
        column = self.header.index("file_name")
        return [row for row in self.rows if row[column] in names]

    def sounds_of(self, names: set[str]) -> list[Path]:
        return [self.sounds[name] for name in sorted(names)]


def read_collection(captions: Path, folder: Path) -> Collection:
    """Read a captions file in wide or long form, and pair its clips with the sounds in a folder.

    Raises UserError for an unfit captions file, and for captions without a file name; empty rows are left out.
    """
    if not captions.is_file():
        what = "is a folder; the captions file comes first, then the folder" if captions.is_dir() else "no such file"
        raise UserError(f"{captions}: {what}")
    read_captions(captions)  # refuses other columns
    header, rows = csv_rows(captions, "name the captions file")
    refuse_repeated(captions, header, header)
    lines, cells = {}, []
    for line, row in rows:
        if row["file_name"].strip():
            lines.setdefault(row["file_name"], line)
            cells.append(row)
        elif any(cell.strip() for cell in row.values()):
            raise UserError(f"{captions}: line {line}: the row names no file; name its sound, or remove it")
    problems = dict(sounds_in(folder))
    usable = [name for name, problem in problems.items() if problem is None]
    matches = match_names(lines, usable)
    absent = [
        f"{captions}: line {lines[name]} ({name!r}): {problems.get(name) or why}"
        for name, why in why_absent(lines, matches, folder).items()
    ]
    kept = [list(row.values()) for row in cells if row["file_name"] in matches]
    sounds = {name: folder / matches[name] for name in lines if name in matches}
    return Collection(header, kept, sounds, absent, sorted(set(usable) - set(matches.values())))


def require_sounds(collection: Collection) -> None:
    """Raise UserError if a clip has no sound."""
    absent = collection.absent
    if absent:
        more = f"and {len(absent) - SHOWN} more; " if len(absent) > SHOWN else ""
        advice = f"{more}clips without a sound: {len(absent)}; correct them or set clotho_dataset.on_bad_data=skip"
        raise UserError("\n".join([*absent[:SHOWN], advice]))


def equal_sounds(sounds: dict[str, Path]) -> list[list[str]]:
    """Group the clips whose sounds are the same, byte for byte. Reads only sounds that have the size of another."""
    sizes = {name: path.stat().st_size for name, path in sounds.items()}
    counts, groups = Counter(sizes.values()), {}
    for name in progress(sorted(sounds), "reading sounds", total=len(sounds)):
        content = file_digest(sounds[name]) if counts[sizes[name]] > 1 else name
        groups.setdefault(content, []).append(name)
    return list(groups.values())


def divide(groups: Sequence[list[str]], fractions: Sequence[float], seed: int) -> list[set[str]]:
    """Deal groups of clips to splits in random order. Returns the clips of each split.

    Args:
        groups: clips that stay together. A group goes to the split in which its first clip falls.
        fractions: each split's part of the clips; their sum counts as 1.
    """
    parts = np.cumsum(fractions)
    ends = np.round(parts / parts[-1] * sum(map(len, groups)))  # of the splits, in clips
    splits, dealt = [set() for _ in fractions], 0
    for group in np.random.default_rng(seed).permutation(len(groups)):
        splits[int(np.searchsorted(ends, dealt, side="right"))].update(groups[group])
        dealt += len(groups[group])
    return splits


def refuse_other_split(paths: DatasetPaths, split: str, collection: Collection, names: set[str]) -> None:
    """Raise UserError if the split exists, unless it holds exactly these clips, as an earlier run left them."""
    folder, captions = paths.audio(split), paths.raw_captions(split)
    advice = "and is not what this command writes; move it, or set data_conf.dataset to another folder"
    if captions.exists() or captions.is_symlink():
        header, rows = csv_rows(captions, "is not a file")
        if (header, [list(row.values()) for _, row in rows]) != (collection.header, collection.rows_of(names)):
            raise UserError(f"{captions}: exists, {advice}")
    if folder.is_symlink() or (folder.exists() and not _holds(folder, collection.sounds_of(names))):
        raise UserError(f"{folder}: exists, {advice}")


def _holds(folder: Path, sounds: list[Path]) -> bool:
    """Whether a path is a folder that is empty, or holds these sounds and nothing else."""
    if not folder.is_dir():
        return False
    held = {path.name for path in folder.iterdir()}
    return not held or (
        held == {sound.name for sound in sounds} and all(_same(folder / sound.name, sound) for sound in sounds)
    )


def _same(file: Path, sound: Path) -> bool:
    return file.is_file() and (file.samefile(sound) or file_digest(file) == file_digest(sound))


def write_sounds(folder: Path, sounds: Sequence[Path]) -> Counter:
    """Put sounds into a new folder, which appears once it is complete; leave an existing one that is not empty.

    A sound is a hard link to the same file, or a copy where the file system allows no link. Returns the counts of both.
    """
    if folder.is_dir() and any(folder.iterdir()):
        return Counter()
    counts = Counter()
    with new_folder(folder) as temporary:
        for sound in progress(sounds, str(folder), total=len(sounds)):
            counts[_link_or_copy(sound.resolve(), temporary / sound.name)] += 1
    return counts


def _link_or_copy(sound: Path, target: Path) -> str:
    """Make `target` a hard link or a copy of a sound. Returns which."""
    try:
        os.link(sound, target)
        return "hard link"
    except OSError:  # another file system, one without links, or another user's file
        shutil.copyfile(sound, target)
        return "copied file"

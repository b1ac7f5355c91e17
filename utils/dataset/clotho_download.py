"""Clotho v2.1 from Zenodo: what its files are, their download, and unpacking into a data set's directory."""

import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from utils.common.download import download, downloaded_bytes, file_md5
from utils.common.errors import UserError
from utils.common.io import new_folder, progress
from utils.dataset.paths import DatasetPaths, sounds_in

ADDRESS = "https://zenodo.org/records/4783391/files"


class Published(NamedTuple):
    """A split as Zenodo has it."""

    clips: int
    captions_md5: str
    archive_md5: str
    archive_bytes: int
    unpacked_bytes: int  # about


CLOTHO = {
    "development": Published(
        3839,
        "d4090b39ce9f2491908eebf4d5b09bae",
        "c8b05bc7acdb13895bb3c6a29608667e",
        4_541_582_263,
        7_100_000_000,
    ),
    "validation": Published(
        1045,
        "5879e023032b22a2c930aaa0528bead4",
        "7dba730be08bada48bd15dc4e668df59",
        1_260_701_425,
        2_000_000_000,
    ),
    "evaluation": Published(
        1045,
        "1b16b9e57cf7bdb7f13a13802aeb57e2",
        "4569624ccadf96223f19cb59fe4f849f",
        1_300_000_000,  # about
        2_000_000_000,
    ),
}


@dataclass(frozen=True)
class ClothoSplit:
    """A split of Clotho in a data set's directory."""

    name: str
    paths: DatasetPaths
    published: Published

    @property
    def captions(self) -> Path:
        return self.paths.raw_captions(self.name)

    @property
    def folder(self) -> Path:
        return self.paths.audio(self.name)

    @property
    def archive(self) -> Path:
        return self.paths.root / f"clotho_audio_{self.name}.7z"

    def has_captions(self) -> bool:
        """Whether Clotho's captions are there; raises UserError for another file in their place."""
        return _is_published(self.captions, self.published.captions_md5)

    def has_archive(self) -> bool:
        """Whether Clotho's archive is there; raises UserError for another file in its place."""
        return _is_published(self.archive, self.published.archive_md5)

    def has_clips(self) -> bool:
        """Whether all clips are there; raises UserError for a folder of other content in their place."""
        self.paths.require_own(self.name)
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return False
        if (count := _count_clips(self.folder)) != self.published.clips:
            raise UserError(
                f"{self.folder}: holds {count} sounds, not Clotho's {self.published.clips}, and is not replaced; move "
                "or remove it, or set data_conf.dataset to another folder"
            )
        return True

    def fetch_captions(self) -> None:
        download(f"{ADDRESS}/{self.captions.name}", self.captions, self.published.captions_md5, size=1)

    def fetch_clips(self, keep_archive: bool) -> None:
        """Download the archive, unless it is there, and unpack it."""
        published = self.published
        if not self.has_archive():
            download(f"{ADDRESS}/{self.archive.name}", self.archive, published.archive_md5, published.archive_bytes)
        unpack(self.archive, self.folder, published.clips)
        if not keep_archive:
            self.archive.unlink()


def clotho_splits(paths: DatasetPaths, names: Iterable[str]) -> list[ClothoSplit]:
    """Splits of Clotho by their names; raises UserError for a name that Clotho lacks."""
    for name in names:
        if name not in CLOTHO:
            raise UserError(
                f"data_conf: {name!r} is not a split of Clotho; set train_data, val_data and eval_data to "
                f"{', '.join(CLOTHO)}"
            )
    return [ClothoSplit(name, paths, CLOTHO[name]) for name in names]


def require_room(root: Path, splits: list[ClothoSplit], keep_archives: bool) -> str:
    """Say what the clips of these splits need; raises UserError if a folder's disk has less room."""
    download_bytes, needed = _bytes_needed(splits, keep_archives)
    free = shutil.disk_usage(root).free
    if free < needed:
        raise UserError(
            f"{root}: {needed / 1e9:.1f} GB are needed but {free / 1e9:.1f} GB are free; make room, or set "
            "data_conf.dataset to a folder on another disk"
        )
    names = ", ".join(split.name for split in splits)
    room = f"{needed / 1e9:.1f} GB are needed at most, {free / 1e9:.1f} GB are free"
    return f"{names}: {download_bytes / 1e9:.1f} GB to download; {room}"


def _bytes_needed(splits: Iterable[ClothoSplit], keep_archives: bool) -> tuple[int, int]:
    """Bytes to download for the clips of these splits, and bytes that they take on the disk at most, meanwhile."""
    download_bytes = held = most = 0
    for split in splits:
        present = split.archive.stat().st_size if split.archive.exists() else downloaded_bytes(split.archive)
        missing = max(0, split.published.archive_bytes - present)
        download_bytes += missing
        held += missing + split.published.unpacked_bytes
        most = max(most, held)
        held -= 0 if keep_archives else split.published.archive_bytes
    return download_bytes, most


def unpack(archive: Path, folder: Path, clips: int) -> None:
    """Unpack the .wav files of a .7z archive into `folder`, which appears once complete; the archive's folders go.

    Raises UserError for an entry that is a link or leads out of the folder, and for another number of clips.
    """
    import py7zr

    try:
        with new_folder(folder) as temporary, archive.open("rb") as stream, py7zr.SevenZipFile(stream) as opened:
            names = _clip_entries(archive, opened.list())
            clips_opened = _Clips(temporary, len(names))
            opened.extract(temporary, names, factory=clips_opened)
            next(clips_opened.ticks, None)  # ends the bar
            if (count := _count_clips(temporary)) != clips:
                raise UserError(f"{archive}: holds {count} sounds, not Clotho's {clips}; remove it, and run this again")
    except py7zr.exceptions.ArchiveError as error:
        raise UserError(f"{archive}: could not be unpacked ({error}); remove it, and run this again") from None


def _clip_entries(archive: Path, entries: Iterable) -> list[str]:
    """The names of the .wav files among an archive's entries; raises UserError for links, `..` and repeated files."""
    for entry in entries:
        path = PurePosixPath(entry.filename)
        if path.is_absolute() or ".." in path.parts or not (entry.is_file or entry.is_directory):
            raise UserError(f"{archive}: its entry {entry.filename!r} leads out of the folder; remove the archive")
    names = [entry.filename for entry in entries if entry.is_file and entry.filename.endswith(".wav")]
    for name, count in Counter(PurePosixPath(name).name for name in names).items():
        if count > 1:
            raise UserError(f"{archive}: holds {name!r} twice; remove the archive")
    return names


class _Clips:
    """Opens the files of a folder for py7zr: each under the last part of its entry's name."""

    def __init__(self, folder: Path, count: int):
        self.folder = folder
        self.ticks = progress(repeat(None, count), f"unpacking {folder.name}", total=count)

    def create(self, filename: str) -> BinaryIO:
        next(self.ticks, None)
        return (self.folder / PurePosixPath(filename).name).open("wb")


def _is_published(path: Path, md5: str) -> bool:
    if not path.exists():
        return False
    if file_md5(path) != md5:
        raise UserError(
            f"{path}: is not Clotho's (by its MD5), and is not replaced; move or remove it, or set data_conf.dataset "
            "to another folder"
        )
    return True


def _count_clips(folder: Path) -> int:
    return sum(problem is None for _, problem in sounds_in(folder))

"""Where the files of a data set are."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.common.errors import UserError
from utils.common.steps import SYNTHESIS

AUDIO_SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".caf")
AUDIO_FILES = f"{', '.join(AUDIO_SUFFIXES[:-1])} or {AUDIO_SUFFIXES[-1]}"
OTHER_SOUNDS = (".aac", ".ac3", ".amr", ".ape", ".m4a", ".m4b", ".mka", ".mp2", ".mp4", ".ra", ".webm", ".wma", ".wv")
UNSUPPORTED = "is of an unsupported format; convert it to .wav or .flac"  # one of these
APPLE_DOUBLE = b"\0\5\x16\7"  # what the `._x.wav` begins with that macOS writes beside an `x.wav`


def sounds_in(folder: Path) -> Iterator[tuple[str, str | None]]:
    """The names of a folder's sounds in their order, each with what keeps it from being read, if it shows unread.

    What lies in folders within the folder is left alone, and so are macOS's notes. Raises UserError where there is no
    such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; put the audio files there")
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in AUDIO_SUFFIXES + OTHER_SOUNDS):
        name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
        if name != path.name:
            yield name, "the file's name is not UTF-8; rename it"
        elif not path.is_file():
            yield name, _no_file(path)
        elif not (name.startswith("._") and _begins_with(path, APPLE_DOUBLE)):
            yield name, None if path.suffix.lower() in AUDIO_SUFFIXES else UNSUPPORTED


def _no_file(path: Path) -> str:
    """What lies in a file's place."""
    if not path.exists():
        return "is a link to what is not there; get the file itself (as by `git annex get` or `dvc pull`)"
    return f"is a {'folder' if path.is_dir() else 'pipe, socket or device'}, not a file; rename or remove it"


def _begins_with(path: Path, content: bytes) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(content)) == content
    except OSError:
        return False  # whoever reads the file says so


@dataclass(frozen=True)
class DatasetPaths:
    """Every file of a data set directory, by name, in one place."""

    root: str

    def require(self) -> None:
        """Raise UserError where there is no data set: no such folder, or nothing in it."""
        root = Path(self.root)
        if not root.is_dir() or not any(root.iterdir()):
            raise UserError(
                f"{root}: {'is empty' if root.is_dir() else 'no such folder'}; put the data set's {{split}}/ and "
                "clotho_captions_{split}.csv there, or set data_conf.dataset to where they are "
                f"({SYNTHESIS} makes a demo's)"
            )

    def audio(self, split: str) -> Path:
        return Path(self.root) / split

    def require_own(self, split: str) -> None:
        """Raise UserError where a split's folder is a link out of the data set."""
        if not self._holds(self.audio(split)):
            what = "is a link out of the data set directory, which is not followed; put the folder itself there"
            raise UserError(f"{self.audio(split)}: {what}")

    def _holds(self, path: Path) -> bool:
        return path.resolve().is_relative_to(Path(self.root).resolve())

    def clip(self, split: str, file_name: str) -> Path:
        """A clip by its file name; raises UserError where that is no audio file's, or leads out of the data set."""
        if not isinstance(file_name, str) or "\0" in file_name or Path(file_name).suffix.lower() not in AUDIO_SUFFIXES:
            raise UserError(f"{self.audio(split)}: {file_name!r} is not the name of an audio file")
        path = self.audio(split) / file_name
        if Path(file_name).name != file_name or not self._holds(path):
            self.require_own(split)
            raise UserError(f"{path}: leads out of the data set directory; put the clip itself into {path.parent}")
        return path

    def raw_captions(self, split: str) -> Path:
        return Path(self.root) / f"clotho_captions_{split}.csv"

    def clean_captions(self, split: str) -> Path:
        return Path(self.root) / f"{split}_clean_captions.csv"

    def text(self, split: str) -> Path:
        return Path(self.root) / f"{split}_text.csv"

    def log_mels(self, split: str) -> Path:
        return Path(self.root) / f"{split}_audio_logmels.hdf5"

    @property
    def audio_info(self) -> Path:
        return Path(self.root) / "audio_info.json"

    @property
    def vocab_info(self) -> Path:
        return Path(self.root) / "vocab_info.json"

    @property
    def word_embeds(self) -> Path:
        return Path(self.root) / "word2vec_embeds.npz"

    @property
    def word_extra(self) -> Path:
        return Path(self.root) / "word2vec_extra.npz"

    @property
    def bad_data(self) -> Path:
        return Path(self.root) / "bad_data.csv"

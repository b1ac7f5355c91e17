"""The files of a data set: their names, and the sounds in a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from utils.common.errors import UserError
from utils.common.steps import DOWNLOAD, SYNTHESIS

AUDIO_SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".caf")
AUDIO_FILES = f"{', '.join(AUDIO_SUFFIXES[:-1])} or {AUDIO_SUFFIXES[-1]}"
OTHER_SOUNDS = (".aac", ".ac3", ".amr", ".ape", ".m4a", ".m4b", ".mka", ".mp2", ".mp4", ".ra", ".webm", ".wma", ".wv")
UNSUPPORTED = "is of an unsupported format; convert it to .wav or .flac"  # the problem of OTHER_SOUNDS
CLOTHO_ADVICE = f"python {DOWNLOAD} downloads Clotho's"  # part of the advice where data are missing
APPLE_DOUBLE = b"\0\5\x16\7"  # the first bytes of the `._x.wav` that macOS writes beside an `x.wav`


def sounds_in(folder: Path, advice: str = "put the audio files there") -> Iterator[tuple[str, str | None]]:
    """List a folder's sounds by name, each with the problem that shows without decoding it, if any.

    Skips subfolders and macOS's resource forks. Raises UserError, with the advice, if there is no such folder.
    """
    if folder.is_file():
        raise UserError(f"{folder}: is a file; name the folder that it is in")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {advice}")
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in AUDIO_SUFFIXES + OTHER_SOUNDS):
        name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
        if name != path.name:
            yield name, "the file's name is not UTF-8; rename it"
        elif not path.exists():
            yield name, "is a broken link; get the file itself (as by `git annex get` or `dvc pull`)"
        elif not path.is_file():
            kind = "folder" if path.is_dir() else "pipe, socket or device"
            yield name, f"is a {kind}, not a file; rename or remove it"
        elif not (name.startswith("._") and _is_resource_fork(path)):
            yield name, None if path.suffix.lower() in AUDIO_SUFFIXES else UNSUPPORTED


def _is_resource_fork(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(APPLE_DOUBLE)) == APPLE_DOUBLE
    except OSError:
        return False  # the error is reported when the file is read


class DatasetPaths:
    """The path of every file of a data set."""

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self.audio_info = self.root / "audio_info.json"
        self.vocab_info = self.root / "vocab_info.json"
        self.word_embeds = self.root / "word2vec_embeds.npz"
        self.word_extra = self.root / "word2vec_extra.npz"
        self.sentence_embeds = self.root / "sentence_embeds.npz"
        self.bad_data = self.root / "bad_data.csv"

    def require(self) -> None:
        """Raise UserError if the data set's directory is missing or empty."""
        root = self.root
        if not root.is_dir() or not any(root.iterdir()):
            raise UserError(
                f"{root}: {'is empty' if root.is_dir() else 'no such folder'}; put the data set's {{split}}/ and "
                "clotho_captions_{split}.csv there, or set data_conf.dataset to where they are "
                f"({CLOTHO_ADVICE}, {SYNTHESIS} makes a demo's)"
            )

    def audio(self, split: str) -> Path:
        return self.root / split

    def require_own(self, split: str) -> None:
        """Raise UserError if a split's folder is a link out of the data set."""
        if not self._holds(self.audio(split)):
            raise UserError(
                f"{self.audio(split)}: is a link out of the data set directory, which is not followed; put the folder "
                "itself there"
            )

    def _holds(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())

    def clip(self, split: str, file_name: str) -> Path:
        """The path of a clip; raises UserError if it is not an audio file's name, or leads out of the data set."""
        if not isinstance(file_name, str) or "\0" in file_name or Path(file_name).suffix.lower() not in AUDIO_SUFFIXES:
            raise UserError(f"{self.audio(split)}: {file_name!r} is not the name of an audio file")
        path = self.audio(split) / file_name
        if Path(file_name).name != file_name or not self._holds(path):
            self.require_own(split)
            raise UserError(f"{path}: leads out of the data set directory; put the clip itself into {path.parent}")
        return path

    def raw_captions(self, split: str) -> Path:
        return self.root / f"clotho_captions_{split}.csv"

    def clean_captions(self, split: str) -> Path:
        return self.root / f"{split}_clean_captions.csv"

    def text(self, split: str) -> Path:
        return self.root / f"{split}_text.csv"

    def log_mels(self, split: str) -> Path:
        return self.root / f"{split}_audio_logmels.hdf5"

    def audio_features(self, split: str) -> Path:
        return self.root / f"{split}_audio_features.hdf5"

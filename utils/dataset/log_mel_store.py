"""The log-mels of a split: computed clip by clip, kept through a kill, and put together in one HDF5 file.

Until all are there, each worker process appends the log-mels that it has finished to a file of its own.
"""

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

import h5py
import torch

from utils.common.chunks import Place, append_part, appended_parts, make_folder, read_place
from utils.common.errors import UserError
from utils.common.hdf5 import get_dataset, require_room_for, texts_of, write_dataset
from utils.common.io import atomic_write, is_plain_file, read_json, write_json
from utils.common.memory import keep_freed_memory
from utils.common.steps import INDEXING, LOG_MELS
from utils.dataset.audio import Clip, read_audio
from utils.dataset.log_mel import read_log_mel
from utils.dataset.log_mel_config import LogMelConfig

SOUND = "audio_sha256"  # attribute of a clip's data set: the content of the file that it was made from
SHA256 = 64  # its hexadecimal digits


class Sound(NamedTuple):
    """A clip whose log-mel there has to be."""

    fid: str
    clip: Clip
    path: Path
    is_done: bool  # stored or finished earlier: the sound alone is looked at


def part_name(fid: str, clip: Clip) -> str:
    """A finished log-mel tells by its name of which clip and sound it is."""
    return f"{fid} {clip.sha256}"


class LogMelStore:
    """A split's HDF5 file of log-mels, a (T, n_mels) float32 data set by fid, and what is finished on its way there.

    Args:
        path: the HDF5 file.
        config: what was made by another one does not count as finished.
    """

    def __init__(self, path: Path, config: LogMelConfig):
        self.path, self.config = path, config
        self.parts = path.with_name(f".{path.stem}.parts")
        self.run = token_hex(8)  # its part files are none that an earlier run may have left incomplete

    def stored(self) -> dict[str, str]:
        """The clips in the HDF5 file and the sounds (SHA-256) that they were made from, in the file's order of names.

        By which config they were made stands in provenance.json.
        """
        try:
            with h5py.File(self.path, "r") as store:
                return texts_of(store, SOUND, SHA256)
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError):
            return {}  # absent, damaged or of another making

    def prepare(self) -> str | None:
        """Drop finished parts of another config, and make room for new ones; what was dropped, for the user."""
        mark, config = self.parts / "recipe.json", asdict(self.config)
        dropped = None
        make_folder(self.parts)
        if list(self.parts.iterdir()) and (not is_plain_file(mark) or read_json(mark, LOG_MELS) != config):
            self.clear()
            dropped = "log-mels that were begun with other settings are dropped"
            make_folder(self.parts)
        write_json(mark, config)
        return dropped

    def finished(self) -> dict[str, Place]:
        """Where the log-mels are that an earlier run finished, by `part_name`."""
        return {name: place for file in sorted(self.parts.glob("*.part")) for name, place in appended_parts(file)}

    def finish(self, batch: list[Sound]) -> list[Place | None]:
        """Compute the log-mels of some clips into this process's part file; where each lies, None where it was done.

        Raises UserError where a sound is not the one that was indexed, or cannot be decoded or transformed.
        """
        keep_freed_memory()
        file = self.parts / f"{self.run}-{os.getpid()}.part"
        with _one_thread(), file.open("ab", buffering=0) as part:
            return [self._finish(sound, part) for sound in batch]

    def _finish(self, sound: Sound, part: FileIO) -> Place | None:
        content, sha256 = read_audio(sound.path) if sound.path.is_file() else (None, None)
        if sha256 != sound.clip.sha256:
            raise UserError(f"{sound.path}: has changed since {INDEXING} read it; run that again")
        if sound.is_done:
            return None
        return append_part(part, part_name(sound.fid, sound.clip), read_log_mel(sound.path, self.config, content))

    def assemble(self, clips: dict[str, Clip], stored: dict[str, str], finished: dict[str, Place]) -> int:
        """Write the HDF5 file from what is stored in the old one and from the parts; the number of frames."""
        places = [finished[part_name(fid, clip)] for fid, clip in clips.items() if stored.get(fid) != clip.sha256]
        nbytes = sum(4 * math.prod(place.shape) for place in places) + (self.path.stat().st_size if stored else 0)
        require_room_for(self.path, nbytes, len(clips))
        frames = 0
        old_file = h5py.File(self.path, "r") if stored else nullcontext()
        with old_file as old, atomic_write(self.path) as temporary, h5py.File(temporary, "w") as store:
            for fid, clip in clips.items():
                if stored.get(fid) == clip.sha256:
                    log_mel = get_dataset(old, fid, LOG_MELS)[()]
                else:
                    log_mel = read_place(finished[part_name(fid, clip)])
                # of fixed length: see utils/common/hdf5.py
                write_dataset(store, fid, log_mel, SOUND, clip.sha256)
                frames += len(log_mel)
        return frames

    def clear(self) -> None:
        """Remove the parts."""
        shutil.rmtree(self.parts, ignore_errors=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within it torch computes with one thread, for the same bits whoever does it; the others are at other clips."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

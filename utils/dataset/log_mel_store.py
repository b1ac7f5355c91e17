"""The log-mels of a split: computed clip by clip, kept if the process is killed, and assembled in one HDF5 file.

Until all are computed, each worker process appends its finished log-mels to a file of its own.
"""

import math
import os
import shutil
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
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

SOUND = "audio_sha256"  # attribute of a clip's log-mel: the SHA-256 of its audio file
SHA256 = 64  # hexadecimal digits


class Sound(NamedTuple):
    """A clip that needs a log-mel."""

    fid: str
    clip: Clip
    path: Path
    is_done: bool  # by an earlier run: only check that the audio file has not changed


def part_name(fid: str, clip: Clip) -> str:
    """The name of a finished log-mel: its clip and the content of its audio file."""
    return f"{fid} {clip.sha256}"


class LogMelStore:
    """A split's HDF5 file of log-mels, a (T, n_mels) float32 data set by fid, and the finished parts of the next one.

    Args:
        path: the HDF5 file.
        config: log-mels by another config do not count as finished.
    """

    def __init__(self, path: Path, config: LogMelConfig):
        self.path, self.config = path, config
        self.parts = path.with_name(f".{path.stem}.parts")
        self.run = token_hex(8)  # never append to a file that an earlier run may have left incomplete

    def stored(self) -> dict[str, str]:
        """{fid: SHA-256 of the audio file} of the HDF5 file, in its order; provenance.json records its config."""
        try:
            with h5py.File(self.path, "r") as store:
                return texts_of(store, SOUND, SHA256)
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError):
            return {}  # missing, damaged or not a file of log-mels

    def prepare(self) -> bool:
        """Make room for parts; returns whether it dropped parts of another config."""
        config_file, config = self.parts / "recipe.json", asdict(self.config)
        make_folder(self.parts)
        is_stale = any(self.parts.iterdir()) and (
            not is_plain_file(config_file) or read_json(config_file, LOG_MELS) != config
        )
        if is_stale:
            self.clear()
            make_folder(self.parts)
        write_json(config_file, config)
        return is_stale

    def finished(self) -> dict[str, Place]:
        """The places of log-mels that an earlier run finished, by `part_name`."""
        return {name: place for file in sorted(self.parts.glob("*.part")) for name, place in appended_parts(file)}

    def finish(self, batch: list[Sound]) -> list[Place | None]:
        """Compute the log-mels of a batch into this process's part file; returns their places, None if done earlier.

        Raises UserError if an audio file has changed since it was indexed, or cannot be decoded or transformed.
        """
        keep_freed_memory()
        file = self.parts / f"{self.run}-{os.getpid()}.part"
        places: list[Place | None] = []
        with ExitStack() as stack, file.open("ab", buffering=0) as part:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)  # the result must not depend on how many workers share the cores
            for fid, clip, path, is_done in batch:
                content, sha256 = read_audio(path) if path.is_file() else (None, None)
                if sha256 != clip.sha256:
                    raise UserError(f"{path}: has changed since {INDEXING} read it; run that again")
                if is_done:
                    places.append(None)
                else:
                    places.append(append_part(part, part_name(fid, clip), read_log_mel(path, self.config, content)))
        return places

    def assemble(self, clips: dict[str, Clip], stored: dict[str, str], finished: dict[str, Place]) -> int:
        """Write the HDF5 file from the old one's log-mels and the finished parts; returns the number of frames."""
        places = {
            fid: finished[part_name(fid, clip)] for fid, clip in clips.items() if stored.get(fid) != clip.sha256
        }
        nbytes = sum(4 * math.prod(place.shape) for place in places.values())
        require_room_for(self.path, nbytes + (self.path.stat().st_size if stored else 0), len(clips))
        frames = 0
        old_file = h5py.File(self.path, "r") if stored else nullcontext()
        with old_file as old, atomic_write(self.path) as temporary, h5py.File(temporary, "w") as store:
            for fid, clip in clips.items():
                log_mel = read_place(places[fid]) if fid in places else get_dataset(old, fid, LOG_MELS)[()]
                write_dataset(store, fid, log_mel, SOUND, clip.sha256)
                frames += len(log_mel)
        return frames

    def clear(self) -> None:
        """Remove the parts."""
        shutil.rmtree(self.parts, ignore_errors=True)

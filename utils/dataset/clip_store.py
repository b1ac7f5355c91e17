"""Arrays of a split's clips, such as log-mels: computed clip by clip, kept through a kill, assembled in one HDF5 file.

Until all are computed, each worker process appends its finished arrays to a file of its own.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch

from utils.common.chunks import Place, append_part, appended_parts, make_folder, read_place
from utils.common.errors import UserError
from utils.common.hdf5 import get_dataset, require_room_for, texts_of, write_dataset
from utils.common.io import atomic_write, is_plain_file, read_json, write_json
from utils.common.memory import keep_freed_memory
from utils.common.steps import INDEXING, Stage
from utils.dataset.audio import Clip, read_audio

SOUND = "audio_sha256"  # attribute of a clip's array: the SHA-256 of its audio file
SHA256 = 64  # hexadecimal digits


class Sound(NamedTuple):
    """A clip that needs an array."""

    fid: str
    clip: Clip
    path: Path
    is_done: bool  # by an earlier run: only check that the audio file has not changed


def part_name(fid: str, clip: Clip) -> str:
    """The name of a finished array: its clip and the content of its audio file."""
    return f"{fid} {clip.sha256}"


@dataclass(frozen=True)
class ClipStore:
    """A split's HDF5 file of arrays, (frames, columns) float32 by fid, and the finished parts of the next file.

    `compute(path, content=None)` makes the array of an audio file, or of its content. It raises UserError if the file
    cannot be decoded or transformed. It is small to pickle, for the workers.
    """

    path: Path  # the HDF5 file
    made_by: Stage
    noun: str  # of the arrays, plural, for messages
    columns: int  # of each array
    unit: str  # of the columns, plural
    compute: Callable[..., np.ndarray]
    recipe: dict[str, Any]  # decides the arrays, as JSON; arrays by another recipe do not count as finished
    attributes: dict[str, Any] = field(default_factory=dict)  # a file with others does not count as finished
    run: str = field(default_factory=lambda: token_hex(8))  # never append to an earlier run's file, perhaps incomplete

    @property
    def parts(self) -> Path:
        return self.path.with_name(f".{self.path.stem}.parts")

    def stored(self) -> dict[str, str]:
        """{fid: SHA-256 of the audio file} of the HDF5 file, in its order; provenance.json records its settings."""
        try:
            with h5py.File(self.path, "r") as store:
                is_ours = all(store.attrs[name] == value for name, value in self.attributes.items())
                return texts_of(store, SOUND, SHA256) if is_ours else {}
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError):
            return {}  # missing, damaged or not a file of such arrays

    def prepare(self) -> bool:
        """Make room for parts; returns whether it dropped parts by another recipe."""
        recipe_file = self.parts / "recipe.json"
        make_folder(self.parts)
        is_stale = any(self.parts.iterdir()) and (
            not is_plain_file(recipe_file) or read_json(recipe_file, self.made_by) != self.recipe
        )
        if is_stale:
            self.clear()
            make_folder(self.parts)
        write_json(recipe_file, self.recipe)
        return is_stale

    def finished(self) -> dict[str, Place]:
        """The places of arrays that an earlier run finished, by `part_name`."""
        return {name: place for file in sorted(self.parts.glob("*.part")) for name, place in appended_parts(file)}

    def finish(self, batch: list[Sound]) -> list[Place | None]:
        """Compute the arrays of a batch into this process's part file; returns their places, None if done earlier.

        Raises UserError if an audio file has changed since it was indexed, or cannot be decoded or transformed.
        """
        keep_freed_memory()
        file = self.parts / f"{self.run}-{os.getpid()}.part"
        places: list[Place | None] = []
        with _one_thread(), file.open("ab", buffering=0) as part:
            for fid, clip, path, is_done in batch:
                content, sha256 = read_audio(path) if path.is_file() else (None, None)
                if sha256 != clip.sha256:
                    raise UserError(f"{path}: has changed since {INDEXING} read it; run that again")
                if is_done:
                    places.append(None)
                else:
                    places.append(append_part(part, part_name(fid, clip), self.compute(path, content=content)))
        return places

    def assemble(self, clips: dict[str, Clip], stored: dict[str, str], finished: dict[str, Place]) -> int:
        """Write the HDF5 file from the old one's arrays and the finished parts; returns the number of frames."""
        places = {fid: finished[part_name(fid, clip)] for fid, clip in clips.items() if stored.get(fid) != clip.sha256}
        nbytes = sum(4 * math.prod(place.shape) for place in places.values())
        require_room_for(self.path, nbytes + (self.path.stat().st_size if stored else 0), len(clips))
        frames = 0
        old_file = h5py.File(self.path, "r") if stored else nullcontext()
        with old_file as old, atomic_write(self.path) as temporary, h5py.File(temporary, "w") as store:
            store.attrs.update(self.attributes)
            for fid, clip in clips.items():
                array = read_place(places[fid]) if fid in places else get_dataset(old, fid, self.made_by)[()]
                write_dataset(store, fid, array, SOUND, clip.sha256)
                frames += len(array)
        return frames

    def clear(self) -> None:
        """Remove the parts."""
        shutil.rmtree(self.parts, ignore_errors=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one torch thread: the result does not depend on the number of workers, which use the other cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

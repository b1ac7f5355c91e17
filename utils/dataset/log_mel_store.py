"""The log-mels of a split: computed clip by clip, kept through a kill, and put together in one HDF5 file.

Each clip's finished log-mel lies in a file of its own, named by the clip and its sound, until all are there.
"""

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path

import h5py
import numpy as np
import torch

from utils.common.digests import file_digest
from utils.common.errors import UserError
from utils.common.hdf5 import data_set, require_room_for
from utils.common.io import read_json, whole_file, write_json
from utils.common.parts import is_whole, save_part
from utils.common.steps import INDEXING, LOG_MELS
from utils.dataset.audio import Clip
from utils.dataset.log_mel import read_log_mel
from utils.dataset.recipe import LogMelRecipe

SOUND = "audio_sha256"  # attribute of a clip's data set: the content of the file that it was made from


class LogMelStore:
    """A split's HDF5 file of log-mels, a (T, n_mels) float32 data set by fid, and what is finished on its way there.

    Args:
        path: the HDF5 file.
        recipe: what was made by another one does not count as finished.
    """

    def __init__(self, path: Path, recipe: LogMelRecipe):
        self.path, self.recipe = path, recipe
        self.parts = path.with_name(f".{path.stem}.parts")

    def stored(self) -> dict[str, str]:
        """The clips in the HDF5 file and the sounds (SHA-256) that they were made from, in the file's order of names.

        By which recipe they were made stands in provenance.json.
        """
        try:
            with h5py.File(self.path, "r") as store:
                return {fid: store[fid].attrs[SOUND].decode() for fid in store}
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError):
            return {}  # absent, damaged or of another making

    def prepare(self) -> str | None:
        """Drop finished parts of another recipe, and make room for new ones; what was dropped, for the user."""
        mark, recipe = self.parts / "recipe.json", asdict(self.recipe)
        dropped = None
        if self.parts.exists() and (not mark.is_file() or read_json(mark, LOG_MELS) != recipe):
            self.clear()
            dropped = "log-mels that were begun with other settings are dropped"
        self.parts.mkdir(exist_ok=True)
        write_json(mark, recipe)
        return dropped

    def part(self, fid: str, clip: Clip) -> Path:
        """Where a clip's finished log-mel lies until all are there."""
        return self.parts / f"{fid}-{clip.sha256[:16]}.npy"

    def finish(self, fid: str, clip: Clip, audio: Path, is_stored: bool) -> bool:
        """Compute a clip's log-mel into its part, unless it is stored or its part is whole; whether it was computed.

        Raises UserError where the sound is not the one that was indexed, or cannot be decoded or transformed.
        """
        if not audio.is_file() or file_digest(audio) != clip.sha256:
            raise UserError(f"{audio}: has changed since {INDEXING} read it; run that again")
        if is_stored or is_whole(self.part(fid, clip)):
            return False
        save_part(self.part(fid, clip), read_log_mel(audio, self.recipe))
        return True

    def assemble(self, clips: dict[str, Clip], stored: dict[str, str]) -> int:
        """Write the HDF5 file from what is stored in the old one and from the parts; the number of frames."""
        parts = [self.part(fid, clip) for fid, clip in clips.items() if stored.get(fid) != clip.sha256]
        nbytes = sum(part.stat().st_size for part in parts) + (self.path.stat().st_size if stored else 0)
        require_room_for(self.path, nbytes, len(clips))
        frames = 0
        old_file = h5py.File(self.path, "r") if stored else nullcontext()
        with old_file as old, whole_file(self.path) as temporary, h5py.File(temporary, "w") as store:
            for fid, clip in clips.items():
                if stored.get(fid) == clip.sha256:
                    log_mel = data_set(old, fid, LOG_MELS)[()]
                else:
                    log_mel = np.load(self.part(fid, clip), allow_pickle=False)
                # of fixed length: see utils/common/hdf5.py
                store.create_dataset(fid, data=log_mel).attrs[SOUND] = np.bytes_(clip.sha256)
                frames += len(log_mel)
        return frames

    def clear(self) -> None:
        """Remove the parts."""
        shutil.rmtree(self.parts, ignore_errors=True)


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that compute parts. Ctrl-C ends them at once; what they have finished is kept.

    Raises UserError where one of them was killed.
    """
    try:
        with ProcessPoolExecutor(workers, initializer=start_worker) as pool:
            try:
                yield pool
            except (KeyboardInterrupt, SystemExit):
                pool.shutdown(wait=False, cancel_futures=True)
                for process in multiprocessing.active_children():  # else the pool would wait for them
                    process.terminate()
                raise
    except BrokenProcessPool:
        raise UserError(
            f"a process was killed, perhaps for want of memory; {LOG_MELS} keeps what is finished: run it again, with "
            "fewer audio_logmel.workers"
        ) from None


def start_worker() -> None:
    """Set up a process of the pool: one thread of torch, and an end with its parent, even where that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C comes to all of them: the parent sees to it
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()

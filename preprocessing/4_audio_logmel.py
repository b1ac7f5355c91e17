"""Step 4: log-mel energies. Reads audio_info.json and the clips, writes {split}_audio_logmels.hdf5.

Keeps the log-mels that an earlier run computed by the same settings from the same sounds."""

import os
import sys
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.counts import counted
from utils.common.errors import UserError, begin_command, run_command

if __name__ == "__main__":
    begin_command()

from utils.common.chunks import Place
from utils.common.io import progress
from utils.common.steps import CLEANING, INDEXING, LOG_MELS
from utils.common.workers import results_of
from utils.conf.command import conf_from_command
from utils.conf.schema import Conf
from utils.dataset.audio import Clip
from utils.dataset.index import read_clips
from utils.dataset.log_mel_store import LogMelStore, Sound, part_name
from utils.dataset.paths import DatasetPaths
from utils.trial.dataset_provenance import check_steps, holds, record_step_outputs

BATCH = 8  # clips in a worker's task
CLIPS_PER_WORKER = 256  # a worker takes seconds to start, a clip some milliseconds
KILLED = f"{LOG_MELS} keeps finished clips: run it again, with fewer audio_logmel.workers"


def main() -> None:
    conf = conf_from_command(__doc__)
    paths = DatasetPaths(conf.data_conf.dataset)
    check_steps(conf, CLEANING, INDEXING)
    splits = {split: read_clips(paths, split) for split in conf.data_conf.splits}
    for split, clips in splits.items():
        if not clips:
            raise UserError(f"{paths.audio_info}: {split} was indexed without audio; run {INDEXING} with it")
    useful_workers = 1 + sum(map(len, splits.values())) // CLIPS_PER_WORKER
    workers = conf.audio_logmel.workers or min(os.cpu_count(), useful_workers)
    # One record for all splits: a partial one would vouch for the other splits' older files
    with record_step_outputs(conf, LOG_MELS):
        begun = [SplitLogMels(conf, split, clips) for split, clips in splits.items()]
        tasks = [partial(log_mels.store.finish, batch) for log_mels in begun for batch in log_mels.batches]
        with results_of(tasks, workers, KILLED) as places:
            for log_mels in begun:  # workers compute the next split while this one is written
                log_mels.write(places)
    for log_mels in begun:
        log_mels.store.clear()


class SplitLogMels:
    """A split's log-mels: those of earlier runs, and the batches that workers compute or check."""

    def __init__(self, conf: Conf, split: str, clips: dict[str, Clip]):
        paths = DatasetPaths(conf.data_conf.dataset)
        self.split, self.clips = split, clips
        self.store = LogMelStore(paths.log_mels(split), conf.audio_logmel.config)
        self.stored = {}
        if holds(conf, LOG_MELS, self.store.path):
            self.stored = self.store.stored()
        elif self.store.path.exists():
            print(f"{self.store.path}: not as {LOG_MELS} recorded it, or made by other settings; it is made anew")
        if self.store.prepare():
            print(f"{split}: log-mels that were begun with other settings are dropped")
        self.finished = self.store.finished()
        sounds = [
            Sound(fid, clip, paths.clip(split, clip.file_name), self._is_done(fid, clip)) for fid, clip in clips.items()
        ]
        self.batches = [sounds[start : start + BATCH] for start in range(0, len(sounds), BATCH)]

    def _is_done(self, fid: str, clip: Clip) -> bool:
        return self.stored.get(fid) == clip.sha256 or part_name(fid, clip) in self.finished

    def write(self, places: Iterator[list[Place | None]]) -> None:
        """Write the log-mels once `places` yields those of this split's batches."""
        split, clips, store = self.split, self.clips, self.store
        clip_places = chain.from_iterable(islice(places, len(self.batches)))
        results = zip(clips.items(), progress(clip_places, f"log-mel {split}", total=len(clips)), strict=True)
        computed = {part_name(fid, clip): place for (fid, clip), place in results if place is not None}
        if self.stored == {fid: clip.sha256 for fid, clip in clips.items()}:
            print(f"{split}: {counted(len(clips), 'clip')}, as they are in {store.path}")
            return
        frames = store.assemble(clips, self.stored, self.finished | computed)
        kept = f" ({len(clips) - len(computed)} kept from an earlier run)" if len(computed) < len(clips) else ""
        sizes = f"{counted(len(clips), 'clip')}{kept}, {frames} frames of {store.config.n_mels} bands"
        print(f"{split}: {sizes} -> {store.path}")


if __name__ == "__main__":
    run_command(main)

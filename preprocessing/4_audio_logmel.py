"""Step 4: log-mel energies. Reads audio_info.json and the clips, writes {split}_audio_logmels.hdf5.

Clips that an earlier run finished, by the same settings and from the same sounds, are kept."""

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

BATCH = 8  # clips that a worker takes at a time
WORTH = 256  # clips for which another worker is started: it takes seconds to be ready, and a clip some milliseconds
KILLED = f"{LOG_MELS} keeps what is finished: run it again, with fewer audio_logmel.workers"


def main() -> None:
    conf = conf_from_command(__doc__)
    paths = DatasetPaths(conf.data_conf.dataset)
    check_steps(conf, CLEANING, INDEXING)
    splits = {split: read_clips(paths, split) for split in conf.data_conf.splits}
    for split, clips in splits.items():
        if not clips:
            raise UserError(f"{paths.audio_info}: {split} was indexed without audio; run {INDEXING} with it")
    worth = 1 + sum(map(len, splits.values())) // WORTH
    workers = conf.audio_logmel.workers or min(os.cpu_count(), worth)
    # All splits in one: a record of a part would take in the other splits' files of before
    with record_step_outputs(conf, LOG_MELS):
        begun = [SplitLogMels(conf, split, clips) for split, clips in splits.items()]
        tasks = [partial(log_mels.store.finish, batch) for log_mels in begun for batch in log_mels.batches]
        with results_of(tasks, workers, KILLED) as places:
            for log_mels in begun:  # one is written while the other workers are at the next
                log_mels.write(places)
    for log_mels in begun:
        log_mels.store.clear()


class SplitLogMels:
    """A split's log-mels on their way: what there is of them, and what the workers have to see to."""

    def __init__(self, conf: Conf, split: str, clips: dict[str, Clip]):
        paths = DatasetPaths(conf.data_conf.dataset)
        self.split, self.clips = split, clips
        self.store = LogMelStore(paths.log_mels(split), conf.audio_logmel.config)
        self.stored = {}
        if holds(conf, LOG_MELS, self.store.path):
            self.stored = self.store.stored()
        elif self.store.path.exists():
            print(f"{self.store.path}: not as {LOG_MELS} recorded it, or by other settings; it is made anew")
        if dropped := self.store.prepare():
            print(f"{split}: {dropped}")
        self.finished = self.store.finished()
        self.is_stored = [self.stored.get(fid) == clip.sha256 for fid, clip in clips.items()]
        sounds = [
            Sound(fid, clip, paths.clip(split, clip.file_name), is_stored or part_name(fid, clip) in self.finished)
            for (fid, clip), is_stored in zip(clips.items(), self.is_stored, strict=True)
        ]
        self.batches = [sounds[start : start + BATCH] for start in range(0, len(sounds), BATCH)]

    def write(self, places: Iterator[list[Place | None]]) -> None:
        """Take what came of this split's batches, write the log-mels, and say so."""
        split, clips, store = self.split, self.clips, self.store
        of_clips = chain.from_iterable(islice(places, len(self.batches)))
        found = zip(clips.items(), progress(of_clips, f"log-mel {split}", total=len(clips)), strict=True)
        computed = {part_name(fid, clip): place for (fid, clip), place in found if place is not None}
        if all(self.is_stored) and len(self.stored) == len(clips):
            print(f"{split}: {counted(len(clips), 'clip')}, as they are in {store.path}")
            return
        frames = store.assemble(clips, self.stored, self.finished | computed)
        kept = f" ({len(clips) - len(computed)} kept from an earlier run)" if len(computed) < len(clips) else ""
        sizes = f"{counted(len(clips), 'clip')}{kept}, {frames} frames of {store.config.n_mels} bands"
        print(f"{split}: {sizes} -> {store.path}")


if __name__ == "__main__":
    run_command(main)

"""Step 4: compute log-mel energies. Reads audio_info.json and the clips, writes {split}_audio_logmels.hdf5.

Reuses log-mels that an earlier run computed from the same sounds with the same settings."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.errors import begin_command, run_command
from utils.conf.command import conf_from_command

if __name__ == "__main__":
    begin_command(lambda: conf_from_command(__doc__))

from utils.dataset.log_mel import log_mel_store
from utils.dataset.paths import DatasetPaths
from utils.trial.clip_arrays import indexed_clips, write_clip_arrays

CLIPS_PER_WORKER = 256  # a worker takes seconds to start, a clip some milliseconds


def main() -> None:
    conf = conf_from_command(__doc__)
    paths, config = DatasetPaths(conf.data_conf.dataset), conf.audio_logmel.config
    splits = indexed_clips(conf)
    useful_workers = 1 + sum(map(len, splits.values())) // CLIPS_PER_WORKER
    workers = conf.audio_logmel.workers or min(os.cpu_count(), useful_workers)
    stores = {split: log_mel_store(paths.log_mels(split), config) for split in splits}
    write_clip_arrays(conf, splits, stores, workers)


if __name__ == "__main__":
    run_command(main)

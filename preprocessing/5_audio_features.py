"""Step 5: encode the clips with a pretrained network. Reads audio_info.json and the clips.

Writes {split}_audio_features.hdf5. Reuses features that an earlier run computed from the same sounds with the same
weights. With audio_features.model=own, only checks the files that you wrote."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.counts import counted
from utils.common.errors import begin_command, run_command
from utils.conf.command import conf_from_command

if __name__ == "__main__":
    begin_command(lambda: conf_from_command(__doc__))

from utils.common.processes import pick_device
from utils.common.steps import FEATURES
from utils.conf.schema import Conf
from utils.dataset.audio import Clip
from utils.dataset.audio_features import check_own_features, feature_store, find_model, refuse_to_replace
from utils.dataset.paths import DatasetPaths
from utils.trial.clip_arrays import indexed_clips, write_clip_arrays
from utils.trial.dataset_provenance import record_step_outputs

SECONDS_PER_WORKER = 1000  # of audio; a worker takes seconds to start, as encoding that much does


def main() -> None:
    conf = conf_from_command(__doc__)
    paths, splits = DatasetPaths(conf.data_conf.dataset), indexed_clips(conf)
    if conf.audio_features.model == "own":
        check_own(conf, paths, splits)
        return
    for split in splits:
        refuse_to_replace(paths.audio_features(split))
    model = find_model(conf.audio_features.model, conf.audio_features.weights)
    workers = conf.audio_features.workers or useful_workers(splits)
    stores = {split: feature_store(paths.audio_features(split), model) for split in splits}
    write_clip_arrays(conf, splits, stores, workers, *model.files)


def useful_workers(splits: dict[str, dict[str, Clip]]) -> int:
    """One process for a GPU; else one per core, unless the clips are few."""
    if pick_device().type == "cuda":
        return 1
    seconds = sum(clip.seconds for clips in splits.values() for clip in clips.values())
    return min(os.cpu_count(), 1 + int(seconds / SECONDS_PER_WORKER))


def check_own(conf: Conf, paths: DatasetPaths, splits: dict[str, dict[str, Clip]]) -> None:
    """Check the features that the user wrote, and record them."""
    with record_step_outputs(conf, FEATURES):
        sizes = check_own_features({paths.audio_features(split): clips for split, clips in splits.items()})
    for (split, clips), (path, (frames, size)) in zip(splits.items(), sizes.items(), strict=True):
        print(f"{split}: {counted(len(clips), 'clip')}, {frames} frames of {size} dimensions, as they are in {path}")


if __name__ == "__main__":
    run_command(main)

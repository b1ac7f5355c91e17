"""Step 0: make a demo data set of synthesised sounds. Writes {split}/*.wav and clotho_captions_{split}.csv."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.counts import counted
from utils.common.errors import begin_command, run_command
from utils.conf.command import conf_from_command

if __name__ == "__main__":
    begin_command(lambda: conf_from_command(__doc__))

from utils.common.io import progress
from utils.dataset.demo import plan_split, refuse_foreign_data, write_split
from utils.dataset.paths import DatasetPaths


def main() -> None:
    conf = conf_from_command(__doc__)
    paths, demo = DatasetPaths(conf.data_conf.dataset), conf.demo_dataset
    plans = {split: plan_split(split, count, demo.seed) for split, count in demo.num_clips.items()}
    for split, scenes in plans.items():  # before anything is written
        refuse_foreign_data(paths, split, scenes)
    for split, scenes in plans.items():
        clips = write_split(paths, split, scenes, demo.sample_rate, demo.seed)
        seconds = sum(progress(clips, split, total=len(scenes)))
        clips = counted(len(scenes), "clip")
        print(f"{split}: {clips} with five captions each, {seconds:.0f} s -> {paths.audio(split)}")


if __name__ == "__main__":
    run_command(main)

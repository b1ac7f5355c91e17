"""Compute the retrieval metrics of each split, in both directions.

Reads {split}_word_scores.hdf5 and writes retrieval_metrics.json into the trial directory."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.errors import begin_command, run_command
from utils.conf.command import trial_args

if __name__ == "__main__":
    begin_command(lambda: trial_args(__doc__))

from utils.trial.directory import trial_from_command
from utils.trial.retrieval import measure_trial


def main() -> None:
    measure_trial(trial_from_command(__doc__))


if __name__ == "__main__":
    run_command(main)

"""Retrieval metrics of each split, in both directions.

Reads {split}_xmodal_scores.hdf5, writes retrieval_metrics.json into the trial directory."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.io_utils import run_command
from utils.retrieval_utils import measure_trial
from utils.trial_utils import trial_from_command


def main() -> None:
    measure_trial(*trial_from_command(__doc__))


if __name__ == "__main__":
    run_command(main)

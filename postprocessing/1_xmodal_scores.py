"""Score every clip with every caption of each split, each at its own length.

Writes {split}_xmodal_scores.hdf5 into the trial directory, and {split}_word_scores.hdf5, every clip with every word of
the vocabulary, for 4_search.py and 5_explore.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.errors import begin_command, run_command

if __name__ == "__main__":
    begin_command()

from utils.trial.directory import trial_from_command
from utils.trial.retrieval import score_trial


def main() -> None:
    score_trial(*trial_from_command(__doc__))


if __name__ == "__main__":
    run_command(main)

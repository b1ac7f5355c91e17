"""Score every clip with every caption of each split, each at its own length.

Writes {split}_xmodal_scores.hdf5 into the trial directory, and {split}_word_scores.hdf5, every clip with every word of
the vocabulary, for 4_search.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.io_utils import run_command
from utils.retrieval_utils import score_trial
from utils.trial_utils import trial_from_command


def main() -> None:
    score_trial(*trial_from_command(__doc__))


if __name__ == "__main__":
    run_command(main)

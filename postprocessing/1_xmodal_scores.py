"""Score every clip of each split with every word of the vocabulary and with every caption, each at its own length.

Writes {split}_word_scores.hdf5 into the trial directory, which the scripts after it read; and for its user
{split}_xmodal_scores.hdf5, clips x captions, where that takes 2 GB at most (or always, or never: xmodal_scores)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.errors import begin_command, run_command

if __name__ == "__main__":
    begin_command()

from utils.trial.directory import trial_from_command
from utils.trial.retrieval import score_trial


def main() -> None:
    score_trial(trial_from_command(__doc__))


if __name__ == "__main__":
    run_command(main)

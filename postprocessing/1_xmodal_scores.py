"""Score every clip of each split with every word of the vocabulary and with every caption, without padding.

Writes two files into the trial directory: {split}_word_scores.hdf5, which the later scripts read, and for your own
analysis {split}_xmodal_scores.hdf5, the scores of clips x captions. By default, the second is written only if it takes
at most 2 GB; the setting xmodal_scores changes this."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.errors import begin_command, run_command
from utils.conf.command import trial_args

if __name__ == "__main__":
    begin_command(lambda: trial_args(__doc__))

from utils.trial.directory import trial_from_command
from utils.trial.retrieval import score_trial


def main() -> None:
    score_trial(trial_from_command(__doc__))


if __name__ == "__main__":
    run_command(main)

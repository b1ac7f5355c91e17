"""Write a live page that searches a split's clips as you type, and plays them: TRIAL/explore/index.html.

The page opens from disk. Reads the split's sounds and log-mels, and {split}_word_scores.hdf5, which
1_xmodal_scores.py writes."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.errors import begin_command, run_command
from utils.conf.command import conf_unless, parse_command, trial_parser


def read_command() -> argparse.Namespace:
    parser = trial_parser(__doc__)
    parser.add_argument("--split", metavar="NAME", help="split to explore (default: data_conf.eval_data)")
    what = "copy the clips as Ogg Vorbis, or link to the data set's files (default: %(default)s)"
    parser.add_argument("--clips", choices=("copy", "link"), default="copy", help=what)
    args = parse_command(parser)
    conf_unless(args, "trial")
    return args


if __name__ == "__main__":
    begin_command(read_command)

from utils.explore.page import write_explore
from utils.trial.directory import trial_of


def main() -> None:
    args = read_command()
    print(f"-> {write_explore(trial_of(args), args.split, args.clips == 'copy')}")


if __name__ == "__main__":
    run_command(main)

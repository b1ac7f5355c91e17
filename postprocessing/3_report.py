"""Write a trial's report, with figures and sounds (TRIAL/report/report.html), or compare several trials.

A report reads the trial's scores and its best checkpoint. A comparison reads each trial's metrics and scores."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.errors import UserError, begin_command, run_command
from utils.conf.command import conf_unless, is_given, parse_command, path_argument, trial_parser


def read_command() -> argparse.Namespace:
    parser = trial_parser(__doc__)
    where = "with --compare: the comparison's folder (default: comparison/, beside the first trial)"
    unfinished = "with --compare: include unfinished trials and mark them"
    parser.add_argument("--compare", type=path_argument, nargs="+", metavar="TRIAL_DIR", help="compare these trials")
    parser.add_argument("--out", type=path_argument, metavar="DIR", help=where)
    parser.add_argument("--unfinished", action="store_true", help=unfinished)
    args = parse_command(parser)
    if args.compare is None:
        if args.out:
            raise UserError(f"--out {args.out}: goes with --compare; a report is written into its trial")
        if args.unfinished:
            raise UserError("--unfinished: goes with --compare; a report says so itself: leave it out")
        conf_unless(args, "trial")
    elif args.trial or args.conf or args.overrides:
        raise UserError("--compare: uses each trial's saved configuration; leave out --trial, --conf and settings")
    return args


if __name__ == "__main__":
    begin_command(read_command)

from utils.report.comparison import write_comparison
from utils.report.report import write_report
from utils.trial.directory import trial_of
from utils.trial.relevance import SETTING


def main() -> None:
    args = read_command()
    if args.compare is None:
        page = write_report(trial_of(args), is_given(args.overrides, SETTING))
    else:
        out = args.out or args.compare[0].resolve().parent / "comparison"
        page = write_comparison(args.compare, out, args.unfinished)
    print(f"-> {page}")


if __name__ == "__main__":
    run_command(main)

"""Write a live page that searches the sounds of a split or of a folder as you type, and plays them.

The page opens from disk: TRIAL/explore/index.html. Reads the split's sounds and log-mels, and
{split}_word_scores.hdf5, which 1_xmodal_scores.py writes. With --model and --folder it needs no trial and no data set.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.errors import UserError, begin_command, run_command
from utils.conf.command import conf_unless, parse_command, path_argument, trial_parser


def read_command() -> argparse.Namespace:
    args = parse_command(explore_parser())
    if args.clips not in ("copy", "link"):
        if not args.model or args.folder:
            raise UserError(f"--clips {args.clips}: must be copy or link; with --model, it may be a folder of sounds")
        args.folder, args.clips = path_argument(args.clips), "copy"
    if not args.model and not args.folder:
        for name in ("cache", "out"):
            if getattr(args, name):
                raise UserError(f"--{name}: goes with --folder; a trial's page is written into its trial: leave it out")
        conf_unless(args, "trial")
        return args
    for name in ("model", "folder"):
        if not getattr(args, name):
            raise UserError(f"--{name} is missing: --model FILE and --folder DIR go together")
    for name in ("trial", "conf", "split"):
        if getattr(args, name):
            raise UserError(f"--{name}: plays no part beside --model; leave it out")
    return args


def explore_parser() -> argparse.ArgumentParser:
    parser = trial_parser(__doc__)
    parser.add_argument("--split", metavar="NAME", help="split to explore (default: data_conf.eval_data)")
    what = "copy the clips as Ogg Vorbis, or link to the original files (default: %(default)s); DIR: as --folder DIR"
    parser.add_argument("--clips", metavar="copy|link|DIR", default="copy", help=what)
    exported = "with --folder: use a model that 6_export.py wrote, instead of a trial"
    parser.add_argument("--model", type=path_argument, metavar="FILE", help=exported)
    of_folder = "with --model: explore the sounds of this folder"
    parser.add_argument("--folder", type=path_argument, metavar="DIR", help=of_folder)
    kept = "with --folder: folder that keeps the encoded sounds (default: DIR_word_scores, beside DIR)"
    parser.add_argument("--cache", type=path_argument, metavar="DIR", help=kept)
    where = "with --folder: the page's folder (default: DIR_explore, beside DIR)"
    parser.add_argument("--out", type=path_argument, metavar="OUT", help=where)
    return parser


if __name__ == "__main__":
    begin_command(read_command)

from utils.explore.page import explore_folder, write_explore
from utils.search.folder_search import beside
from utils.search.model_file import ExportedScorer
from utils.trial.directory import trial_of


def main() -> None:
    args = read_command()
    if args.model:
        model, folder = ExportedScorer(args.model, args.overrides), args.folder
        cache, out = args.cache or beside(folder), args.out or beside(folder, "explore")
        page = explore_folder(model, folder, cache, out, args.clips == "copy")
    else:
        page = write_explore(trial_of(args), args.split, args.clips == "copy")
    print(f"-> {page}")


if __name__ == "__main__":
    run_command(main)

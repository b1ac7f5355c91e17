"""Write a trial's best model into one file, MODEL.safetensors, that needs neither the trial nor its data set.

Writes a model card, MODEL.md, beside it: data, settings, metrics. Use the model with 4_search.py --model,
5_explore.py --model, or from Python (utils/search/retrieval_model.py)."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.errors import begin_command, run_command
from utils.conf.command import conf_unless, parse_command, trial_parser


def read_command() -> argparse.Namespace:
    parser = trial_parser(__doc__, {"model": "file to write, *.safetensors"})
    what = "also export N words that no caption contains; same as word2vec_embeddings.extra_words=N"
    parser.add_argument("--extra-words", type=int, metavar="N", help=what)
    args = parse_command(parser)
    if args.extra_words is not None:
        args.overrides.append(f"word2vec_embeddings.extra_words={args.extra_words}")
    conf_unless(args, "trial")
    return args


if __name__ == "__main__":
    begin_command(read_command)

from utils.export.export import export_model
from utils.trial.directory import trial_of


def main() -> None:
    args = read_command()
    export_model(trial_of(args), args.model)


if __name__ == "__main__":
    run_command(main)

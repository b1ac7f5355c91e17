"""Step 0: divide one captions file and one folder of sounds into three splits, clip by clip, at random.

Writes {split}/ and clotho_captions_{split}.csv into data_conf.dataset, for the splits that data_conf names."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.counts import counted
from utils.common.errors import UserError, begin_command, run_command
from utils.conf.command import command_parser, conf_of, parse_command


def read_command() -> tuple[argparse.Namespace, "Conf"]:
    from utils.dataset.captions import FORMS  # here, as imports follow the command line

    parser = command_parser(__doc__, {"captions": f"CSV file of {FORMS}", "sounds": "folder with its sounds"})
    parts = "shares of the clips for data_conf.train_data, val_data and eval_data (default: 0.8 0.1 0.1)"
    parser.add_argument(
        "--fractions", type=float, nargs=3, default=(0.8, 0.1, 0.1), metavar=("TRAIN", "VAL", "EVAL"), help=parts
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random division (default: 0)")
    args = parse_command(parser)
    conf = conf_of(args)
    if not (min(args.fractions) > 0 and abs(sum(args.fractions) - 1) < 1e-6):
        given = " ".join(f"{part:g}" for part in args.fractions)
        raise UserError(f"--fractions {given}: must be three numbers above 0 whose sum is 1")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: must be 0 or greater")
    if len(conf.data_conf.splits) < 3:
        raise UserError("data_conf: train_data, val_data and eval_data must name three splits; two are the same")
    return args, conf


if __name__ == "__main__":
    begin_command(read_command)

from utils.common.io import write_csv
from utils.conf.schema import Conf
from utils.dataset import division
from utils.dataset.division import Collection
from utils.dataset.paths import DatasetPaths


def main() -> None:
    args, conf = read_command()
    collection = division.read_collection(args.captions, args.sounds)
    if conf.clotho_dataset.on_bad_data == "refuse":
        division.require_sounds(collection)
    clips = division.divide(division.equal_sounds(collection.sounds), args.fractions, args.seed)
    write_splits(DatasetPaths(conf.data_conf.dataset), collection, dict(zip(conf.data_conf.splits, clips, strict=True)))
    for noun, left_out in (("clip without a sound", collection.absent), ("sound without captions", collection.unnamed)):
        if left_out:
            print(f"left out, {noun}: {len(left_out)}, e.g. {left_out[0]}")


def write_splits(paths: DatasetPaths, collection: Collection, splits: dict[str, set[str]]) -> None:
    """Write the splits, {split: names of its clips}: all sounds, then the captions.

    Raises UserError, before anything is written, if a split gets no clip or exists with other content.
    """
    for split, names in splits.items():
        if not names:
            clips = counted(len(collection.sounds), "clip")
            raise UserError(f"{split}: gets none of {clips}; a larger part in --fractions, or more clips, are needed")
        division.refuse_other_split(paths, split, collection, names)
    counts = {
        split: division.write_sounds(paths.audio(split), collection.sounds_of(names)) for split, names in splits.items()
    }
    for split, names in splits.items():
        write_csv(paths.raw_captions(split), collection.header, collection.rows_of(names))
        what = ", ".join(counted(count, noun) for noun, count in counts[split].items()) or "there already"
        print(f"{split}: {counted(len(names), 'clip')} -> {paths.audio(split)} ({what}), {paths.raw_captions(split)}")


if __name__ == "__main__":
    run_command(main)

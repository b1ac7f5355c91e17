"""Step 0: download Clotho v2.1 (7 GB) and unpack it (11 GB). Writes {split}/*.wav and clotho_captions_{split}.csv.

Resumes an interrupted download. Skips splits that are complete.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.errors import begin_command, run_command
from utils.conf.command import command_parser, conf_of, parse_command


def read_command() -> tuple[argparse.Namespace, "Conf"]:
    parser = command_parser(__doc__)
    parser.add_argument("--captions", action="store_true", help="download only the captions")
    parser.add_argument("--keep-archives", action="store_true", help="keep the .7z archives after unpacking them")
    args = parse_command(parser)
    return args, conf_of(args)


if __name__ == "__main__":
    begin_command(read_command)

from utils.common.lock import held
from utils.conf.schema import Conf
from utils.dataset.clotho_download import clotho_splits, require_room
from utils.dataset.paths import DatasetPaths


def main() -> None:
    args, conf = read_command()
    paths = DatasetPaths(conf.data_conf.dataset)
    splits = clotho_splits(paths, conf.data_conf.splits)
    paths.root.mkdir(parents=True, exist_ok=True)
    with held(paths.root / ".download.lock", f"{paths.root}: another command downloads Clotho to it; wait for its end"):
        without_captions = [split for split in splits if not split.has_captions()]
        without_clips = [split for split in splits if not args.captions and not split.has_clips()]
        if without_clips:
            print(require_room(paths.root, without_clips, args.keep_archives), flush=True)
        for split in splits:
            if split in without_captions:
                split.fetch_captions()
            print(f"{split.name}: captions -> {split.captions}", flush=True)
        for split in [] if args.captions else splits:
            if split in without_clips:
                split.fetch_clips(args.keep_archives)
            print(f"{split.name}: {split.published.clips} clips -> {split.folder}", flush=True)


if __name__ == "__main__":
    run_command(main)

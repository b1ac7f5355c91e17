"""Find a split's clips by a text, or its captions by a sound; or rank a folder's sounds for each caption of a file.

Put QUERY in quotes. An argument that starts with a section of the configuration, such as data_conf.dataset=DIR, is a
setting. Reads {split}_word_scores.hdf5, which 1_xmodal_scores.py writes; ranking a folder needs no scores."""

import argparse
import json
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.counts import counted
from utils.common.errors import UserError, begin_command, run_command
from utils.conf.command import conf_unless, is_setting, parse_command, path_argument, trial_parser

CHALLENGE = ("queries", "clips", "csv")  # options that are given together
SEARCH = ("audio", "split", "json", "play_list")  # options of a search in a split


def read_command() -> tuple[argparse.Namespace, list[str]]:
    """The arguments and the queries, which stand among the settings."""
    args = parse_command(search_parser())
    queries = [text for text in args.overrides if not is_setting(text)]
    args.overrides = [text for text in args.overrides if is_setting(text)]
    if any(getattr(args, name) for name in CHALLENGE):
        require_challenge(args, queries)
    else:
        require_query(args, queries)
    conf_unless(args, "trial")
    return args, queries


def search_parser() -> argparse.ArgumentParser:
    parser = trial_parser(__doc__)
    what = "(QUERY | --audio FILE | --queries FILE --clips DIR --csv OUT)"
    parser.usage = f"%(prog)s {what} [options] [section.key=value ...]"
    parser.add_argument("--audio", type=path_argument, metavar="FILE", help="sound (file) to find captions for")
    parser.add_argument("--queries", type=path_argument, metavar="FILE", help="CSV file of captions to rank sounds for")
    parser.add_argument("--clips", type=path_argument, metavar="DIR", help="with --queries: folder of the sounds")
    parser.add_argument("--csv", type=path_argument, metavar="OUT", help="with --queries: CSV file for the ranking")
    parser.add_argument("--top", type=int, metavar="K", help="number of results (default: 5; with --queries 10)")
    parser.add_argument("--split", metavar="NAME", help="split to search (default: data_conf.eval_data)")
    parser.add_argument("--json", action="store_true", help="print the results as a JSON list")
    parser.add_argument("--play-list", type=path_argument, metavar="FILE", help="write the clips to this play list")
    return parser


def require_challenge(args: argparse.Namespace, queries: list[str]) -> None:
    """Raise UserError unless a folder is to be ranked, and nothing else is asked for."""
    for name in CHALLENGE:
        if not getattr(args, name):
            raise UserError(f"--{name} is missing: --queries FILE, --clips DIR and --csv OUT go together")
    others = [*map(repr, queries), *(f"--{name.replace('_', '-')}" for name in SEARCH if getattr(args, name))]
    if others:
        raise UserError(f"{others[0]}: plays no part beside --queries; leave it out")


def require_query(args: argparse.Namespace, queries: list[str]) -> None:
    """Raise UserError unless one text or one sound is given."""
    if len(queries) != (0 if args.audio else 1):
        given = f"{counted(len(queries), 'text')}: {', '.join(map(repr, queries))}" if queries else "none"
        raise UserError(f"either one QUERY, in quotes, or --audio FILE is needed, but there are {given}")
    if args.audio and args.play_list:
        raise UserError("--play-list: a list of clips; --audio finds captions, so leave one of the two out")


if __name__ == "__main__":
    begin_command(read_command)

from utils.common.streams import visible
from utils.search.challenge import rank_folder
from utils.search.clip_search import CaptionHit, ClipHit, ClipSearch, write_play_list
from utils.trial.directory import trial_of


def main() -> None:
    args, queries = read_command()
    if args.queries:
        rank_folder(trial_of(args), args.queries, args.clips, args.csv, *([] if args.top is None else [args.top]))
    else:
        search_split(args, queries)


def search_split(args: argparse.Namespace, queries: list[str]) -> None:
    search, top = ClipSearch(trial_of(args), args.split), 5 if args.top is None else args.top
    hits = search.by_audio(args.audio, top) if args.audio else search.by_text(*queries, top)
    if not args.audio and (unknown := search.unknown_words(*queries)):
        print(f"unknown words, left out: {', '.join(unknown)}", file=sys.stderr)
    print(json.dumps([as_json(hit) for hit in hits], indent=2) if args.json else table(hits))
    if args.play_list:
        write_play_list(args.play_list, hits)
        print(f"{counted(len(hits), 'clip')} -> {args.play_list}", file=sys.stderr if args.json else sys.stdout)


def as_json(hit: ClipHit | CaptionHit) -> dict:
    fields = hit._asdict()
    return fields | {"path": str(hit.path)} if isinstance(hit, ClipHit) else fields


def table(hits: list[ClipHit] | list[CaptionHit]) -> str:
    """A line for each hit, under a header."""
    columns = ("fid", "file_name", "captions") if isinstance(hits[0], ClipHit) else ("tid", "caption")
    rows = [("rank", "score", *columns)]
    for hit in hits:
        if isinstance(hit, ClipHit):
            texts = (hit.fid, hit.path.name, textwrap.shorten(" | ".join(hit.captions), 100, placeholder=" ..."))
        else:
            texts = (hit.tid, hit.text)
        rows.append((str(hit.rank), f"{hit.score:.4f}", *(visible(text, kept="") for text in texts)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


if __name__ == "__main__":
    run_command(main)

"""Search clips by a text or captions by a sound in a split, or sounds by texts in a folder.

Put QUERY in quotes. An argument that starts with a section of the configuration, such as data_conf.dataset=DIR, is a
setting. A search in a split reads {split}_word_scores.hdf5, which 1_xmodal_scores.py writes. A search in a folder needs
no scores; with --model, it needs neither a trial nor a data set."""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

from utils.common.counts import counted
from utils.common.errors import UserError, begin_command, run_command
from utils.conf.command import conf_unless, is_setting, parse_command, path_argument, trial_parser


def read_command() -> tuple[argparse.Namespace, list[str]]:
    """The arguments and the queries, which stand among the settings."""
    args = parse_command(search_parser())
    queries = [text for text in args.overrides if not is_setting(text)]
    args.overrides = [text for text in args.overrides if is_setting(text)]
    if args.top is not None and args.top < 1:
        raise UserError(f"--top {args.top}: must be at least 1")
    if args.model and args.audio:
        raise UserError("--audio: finds captions of a data set; use a trial, not --model")
    require_one_task(args, queries)
    if not args.model:
        conf_unless(args, "trial")
    elif args.trial or args.conf:
        raise UserError(f"--model {args.model}: has its own configuration; leave out --trial and --conf")
    return args, queries


def search_parser() -> argparse.ArgumentParser:
    parser = trial_parser(__doc__)
    what = "(QUERY [--clips DIR] | --audio FILE | --queries FILE --clips DIR --csv OUT)"
    parser.usage = f"%(prog)s {what} [options] [section.key=value ...]"
    parser.add_argument("--audio", type=path_argument, metavar="FILE", help="sound file to find captions for")
    parser.add_argument("--queries", type=path_argument, metavar="FILE", help="CSV file of captions to rank sounds for")
    parser.add_argument("--clips", type=path_argument, metavar="DIR", help="search in this folder of sounds")
    parser.add_argument("--csv", type=path_argument, metavar="OUT", help="with --queries: CSV file for the ranking")
    exported = "with --clips: use a model that 6_export.py wrote, instead of a trial"
    parser.add_argument("--model", type=path_argument, metavar="FILE", help=exported)
    kept = "with --clips: folder for the encoded sounds (default: beside DIR; for a trial with --csv: beside OUT)"
    parser.add_argument("--cache", type=path_argument, metavar="DIR", help=kept)
    parser.add_argument("--top", type=int, metavar="K", help="number of results (default: 5; with --queries 10)")
    parser.add_argument("--split", metavar="NAME", help="split to search (default: data_conf.eval_data)")
    parser.add_argument("--json", action="store_true", help="print the results as a JSON list")
    parser.add_argument("--play-list", type=path_argument, metavar="FILE", help="write the clips to this play list")
    return parser


def require_one_task(args: argparse.Namespace, queries: list[str]) -> None:
    """Raise UserError unless there is one query, or a file of them, and the options go with it."""
    if args.queries or args.csv:
        for name in ("queries", "clips", "csv"):
            if not getattr(args, name):
                raise UserError(f"--{name} is missing: --queries FILE, --clips DIR and --csv OUT go together")
        refuse_beside("--queries", args, ("audio", "split", "json", "play_list"), queries)
    elif args.clips:
        refuse_beside("--clips", args, ("audio", "split"))
        if len(queries) != 1:
            raise UserError(f"--clips {args.clips}: needs one QUERY, in quotes, but there are {len(queries)}")
    elif args.model or args.cache:
        raise UserError(f"--{'model' if args.model else 'cache'}: searches in a folder; add --clips DIR")
    elif len(queries) != (0 if args.audio else 1):
        given = f"{counted(len(queries), 'text')}: {', '.join(map(repr, queries))}" if queries else "none"
        raise UserError(f"either one QUERY, in quotes, or --audio FILE is needed, but there are {given}")
    elif args.audio and args.play_list:
        raise UserError("--play-list: a list of clips; --audio finds captions, so leave one of the two out")


def refuse_beside(option: str, args: argparse.Namespace, names: tuple[str, ...], queries: Iterable[str] = ()) -> None:
    """Raise UserError where a query or one of these options is given beside another option."""
    given = [*map(repr, queries), *(f"--{name.replace('_', '-')}" for name in names if getattr(args, name))]
    if given:
        raise UserError(f"{given[0]}: plays no part beside {option}; leave it out")


if __name__ == "__main__":
    begin_command(read_command)

from utils.common.streams import visible
from utils.search.challenge import rank_folder
from utils.search.clip_search import CaptionHit, ClipHit, ClipSearch, write_play_list
from utils.search.folder_search import CACHE, FolderSearch, SoundHit, beside
from utils.search.model_file import ExportedScorer
from utils.search.scorer import Scorer, TrialScorer
from utils.trial.directory import trial_of

Hits = list[ClipHit] | list[CaptionHit] | list[SoundHit]


def main() -> None:
    args, queries = read_command()
    top = args.top if args.top is not None else 10 if args.queries else 5
    if args.queries:
        default = beside(args.clips) if args.model else args.csv.with_name(f"{args.csv.stem}_{CACHE}")
        rank_folder(scorer_of(args), args.queries, args.clips, args.csv, args.cache or default, top)
    elif args.clips:
        search = FolderSearch(scorer_of(args), args.clips, args.cache or beside(args.clips), queries)
        show(args, search.by_text(*queries, top), search.unknown_words(*queries))
    else:
        search = ClipSearch(trial_of(args), args.split)
        hits = search.by_audio(args.audio, top) if args.audio else search.by_text(*queries, top)
        show(args, hits, [] if args.audio else search.unknown_words(*queries))


def scorer_of(args: argparse.Namespace) -> Scorer:
    """The exported model, or the trial's best, that the arguments name."""
    return ExportedScorer(args.model, args.overrides) if args.model else TrialScorer(trial_of(args))


def show(args: argparse.Namespace, hits: Hits, unknown: list[str]) -> None:
    if unknown:
        print(f"unknown words, left out: {', '.join(unknown)}", file=sys.stderr)
    print(json.dumps([hit._asdict() for hit in hits], indent=2, default=str) if args.json else table(hits))
    if args.play_list:
        write_play_list(args.play_list, hits)
        print(f"{counted(len(hits), 'clip')} -> {args.play_list}", file=sys.stderr if args.json else sys.stdout)


def table(hits: Hits) -> str:
    """A line for each hit, under a header."""
    rows = [("rank", "score", *texts_of(hits[0]))]
    for hit in hits:
        texts = (visible(text, kept="") for text in texts_of(hit).values())
        rows.append((str(hit.rank), f"{hit.score:.4f}", *texts))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def texts_of(hit: ClipHit | CaptionHit | SoundHit) -> dict[str, str]:
    """A hit's texts, by the names of their columns."""
    if isinstance(hit, CaptionHit):
        return {"tid": hit.tid, "caption": hit.text}
    if isinstance(hit, SoundHit):
        return {"file_name": hit.path.name}
    captions = textwrap.shorten(" | ".join(hit.captions), 100, placeholder=" ...")
    return {"fid": hit.fid, "file_name": hit.path.name, "captions": captions}


if __name__ == "__main__":
    run_command(main)

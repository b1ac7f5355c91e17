"""Measure how well a model retrieves by words that no caption has; print a Markdown table.

usage: python -m benchmarks.studies.synonyms --trial DIR [--split NAME] [--table FILE.csv]

Text-to-audio mAP of the captions of a split that contain a word: as they are, with the word replaced by a synonym that
the model never saw, and without the word; and of either word alone. Relevant is a caption's own clip, and for a word
every clip with such a caption. The trial has to be scored with the synonyms among its extra words.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.harness import Table, arguments
from utils.common.csv_rows import csv_rows
from utils.common.errors import run_command
from utils.common.steps import INDEXING
from utils.dataset.index import read_table, read_vocabulary
from utils.metric_utils import retrieval_metrics
from utils.search.clip_search import ClipSearch

TABLE = Path(__file__).with_name("synonyms.csv")  # for the classes of ESC-10
COLUMNS = ("word", "in its place", "captions", "as they are", "replaced", "left out", "the word", "the other")


def unseen_synonyms(search: ClipSearch, table: Path) -> list[tuple[str, str]]:
    """Read the pairs (word, synonym) whose synonym has scores but occurs in no caption."""
    _, rows = csv_rows(table, "name a CSV file of word,synonym")
    pairs = [(row["word"], row["synonym"]) for _, row in rows]
    seen, chosen = set(read_vocabulary(search.paths)), []
    for word, other in pairs:
        why = "a caption has it" if other in seen else "it has no scores" if search.unknown_words(other) else None
        if why:
            print(f"{word} -> {other}: left out, {why}")
        else:
            chosen.append((word, other))
    return chosen


def mean_average_precision(search: ClipSearch, queries: Iterable[list[str]], relevant: Iterable[set[str]]) -> float:
    """mAP of queries, lists of words, each with the fids of its relevant clips."""
    scores, relevance = [], []
    for words, fids in zip(queries, relevant, strict=True):
        found = {hit.fid: hit.score for hit in search.by_text(" ".join(words), top=2**31)}
        scores.append([found[fid] for fid in sorted(found)])
        relevance.append([fid in fids for fid in sorted(found)])
    return retrieval_metrics(np.array(scores), np.array(relevance))["mAP"]


def measured(search: ClipSearch, captions: list[list[str]], fids: list[str], swaps: dict[str, str]) -> list[float]:
    """Count the captions that contain a word to swap, and compute their mAP as they are, replaced and left out."""
    chosen = [i for i, words in enumerate(captions) if swaps.keys() & set(words)]
    relevant = [{fids[i]} for i in chosen]
    as_they_are = [captions[i] for i in chosen]
    replaced = [[swaps.get(word, word) for word in words] for words in as_they_are]
    left_out = [[word for word in words if word not in swaps] for words in as_they_are]
    return [
        len(chosen),
        *(mean_average_precision(search, words, relevant) for words in (as_they_are, replaced, left_out)),
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--trial", type=Path, required=True, metavar="DIR", help="scored with its extra words")
    parser.add_argument("--split", metavar="NAME", help="default: the trial's data_conf.eval_data")
    parser.add_argument("--table", type=Path, default=TABLE, metavar="FILE.csv", help="columns word,synonym")
    args = parser.parse_args()
    search = ClipSearch.open(args.trial, args.split)
    table = read_table(search.paths.text(search.split), ["fid", "text"], INDEXING)
    captions, fids = [text.split() for text in table["text"]], table["fid"].tolist()
    held = {word for words in captions for word in words}
    pairs = [pair for pair in unseen_synonyms(search, args.table) if pair[0] in held]
    output = Table(COLUMNS, first=10, width=12)

    def print_row(word: str, other: str, values: list[float]) -> None:
        output.row(word, other, values[0], *(f"{value:.3f}" for value in values[1:]))

    for word, other in pairs:
        relevant = {fid for fid, words in zip(fids, captions, strict=True) if word in words}
        alone = [mean_average_precision(search, [[query]], [relevant]) for query in (word, other)]
        print_row(word, other, [*measured(search, captions, fids, {word: other}), *alone])
    first = dict(reversed(pairs))  # of each word
    print_row("any", "the first", measured(search, captions, fids, first))


if __name__ == "__main__":
    run_command(main)

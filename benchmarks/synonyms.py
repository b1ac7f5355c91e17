"""What a model finds by words that no caption has: prints one Markdown table.

usage: python -m benchmarks.synonyms --trial DIR [--split NAME] [--table FILE.csv]

In the captions of a split that hold a word, the word is replaced by a synonym that the model was never shown, or left
out; and each of the two is asked for alone. Text-to-audio mAP of all five: of the captions their own clip is the right
one, of the words every clip with such a caption. The trial has to be scored with the synonyms among its extra words.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from utils.common.csv_rows import csv_rows
from utils.common.errors import run_command
from utils.common.steps import INDEXING
from utils.dataset.index import read_table, read_vocabulary
from utils.metric_utils import retrieval_metrics
from utils.search.clip_search import ClipSearch

TABLE = Path(__file__).with_name("synonyms.csv")  # for the classes of ESC-10
COLUMNS = ("word", "in its place", "captions", "as they are", "replaced", "left out", "the word", "the other")


def unseen_synonyms(search: ClipSearch, table: Path) -> list[tuple[str, str]]:
    """The table's pairs of a word and a synonym that the trial can be asked for, though no caption has it."""
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


def mean_average_precision(search: ClipSearch, queries: Iterable[list[str]], right: Iterable[set[str]]) -> float:
    """mAP of queries, lists of words, each with the fids of its right clips."""
    scores, relevance = [], []
    for words, fids in zip(queries, right, strict=True):
        found = {hit.fid: hit.score for hit in search.by_text(" ".join(words), top=2**31)}
        scores.append([found[fid] for fid in sorted(found)])
        relevance.append([fid in fids for fid in sorted(found)])
    return retrieval_metrics(np.array(scores), np.array(relevance))["mAP"]


def measured(search: ClipSearch, captions: list[list[str]], fids: list[str], swaps: dict[str, str]) -> list[float]:
    """How many captions hold one of the words to be swapped, and the mAP of these: as they are, replaced, left out."""
    chosen = [i for i, words in enumerate(captions) if swaps.keys() & set(words)]
    own = [{fids[i]} for i in chosen]
    as_they_are = [captions[i] for i in chosen]
    replaced = [[swaps.get(word, word) for word in words] for words in as_they_are]
    left_out = [[word for word in words if word not in swaps] for words in as_they_are]
    return [len(chosen), *(mean_average_precision(search, some, own) for some in (as_they_are, replaced, left_out))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trial", type=Path, required=True, metavar="DIR", help="scored with its extra words")
    parser.add_argument("--split", metavar="NAME", help="default: the trial's data_conf.eval_data")
    parser.add_argument("--table", type=Path, default=TABLE, metavar="FILE.csv", help="columns word,synonym")
    args = parser.parse_args()
    search = ClipSearch.open(args.trial, args.split)
    table = read_table(search.paths.text(search.split), ["fid", "text"], INDEXING)
    captions, fids = [text.split() for text in table["text"]], table["fid"].tolist()
    held = {word for words in captions for word in words}
    pairs = [pair for pair in unseen_synonyms(search, args.table) if pair[0] in held]
    print(f"| {' | '.join(COLUMNS)} |\n|---|---|{'---:|' * (len(COLUMNS) - 2)}")
    for word, other in pairs:
        right = {fid for fid, words in zip(fids, captions, strict=True) if word in words}
        alone = [mean_average_precision(search, [[query]], [right]) for query in (word, other)]
        show(word, other, [*measured(search, captions, fids, {word: other}), *alone])
    first = dict(reversed(pairs))  # of each word
    show("any", "the first", measured(search, captions, fids, first))


def show(word: str, other: str, values: list[float]) -> None:
    """Print a row: how many captions, then mAP."""
    cells = [word, other, str(values[0]), *(f"{value:.3f}" for value in values[1:])]
    print(f"| {' | '.join(cells + [''] * (len(COLUMNS) - len(cells)))} |", flush=True)


if __name__ == "__main__":
    run_command(main)

"""Measure how the cost of scoring and metrics grows with the number of clips (five captions each); print a table.

usage: python -m benchmarks.growth [--clips C ...]      (what `make bench` runs second)

Scoring writes the scores of every clip with every word into a file; a stand-in encodes the clips at no cost. Metrics of
both directions are computed from such a file, read from the system's cache. One thread.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.harness import Table, amount, arguments, isolated, one_thread, peak_memory, seconds
from benchmarks.inputs import WORDS, encoded_model, synthetic_split, write_random_word_scores
from utils.metric_utils import averages, relevant_pairs
from utils.retrieval_utils import per_query_both_directions
from utils.score_utils import Score
from utils.trial.checkpoint import Trained
from utils.trial.retrieval import write_word_scores
from utils.trial.score_files import load_scores

CLIPS = (500, 1045, 3839, 20_000)
COLUMNS = {"word scores": "s", "its peak": "GB", "metrics": "s", "their peak": "GB"}  # and their units


def scoring(clips: int) -> list[float]:
    """Seconds to score a split's clips with all words, as postprocessing does, and peak memory in GB."""
    split, best = synthetic_split(clips), Trained(encoded_model().train(False), Score(), WORDS, epoch=0)
    with TemporaryDirectory() as folder:
        return [seconds(lambda: write_word_scores(Path(folder) / "scores.hdf5", split, best)), peak_memory()]


def metrics(clips: int) -> list[float]:
    """Seconds of the metrics in both directions from stored word scores, and peak memory in GB."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scores.hdf5"
        isolated(write_random_word_scores, path, clips)
        return isolated(_metrics, path)


def _metrics(path: Path) -> list[float]:
    def measure() -> None:
        stored = load_scores(path, epoch=0)
        values = per_query_both_directions(stored.scores, relevant_pairs(stored.caption_clips))
        print(*(f"{side} {averages(queries)['mAP']:.2g}" for side, queries in values.items()), file=sys.stderr)

    return [seconds(measure), peak_memory()]


def exponent(clips: Sequence[int], values: Sequence[float]) -> float:
    """Fit the power law a * clips^b. Returns b: 1 is linear growth, 2 quadratic."""
    return float(np.polyfit(np.log(clips), np.log(values), 1)[0])


def main() -> None:
    args = arguments(__doc__, CLIPS).parse_args()
    one_thread()
    table, measured = Table(["clips", "captions", *COLUMNS], width=13), []
    for clips in args.clips:
        measured.append([*isolated(scoring, clips), *metrics(clips)])
        table.row(clips, 5 * clips, *map(amount, measured[-1], COLUMNS.values()))
    if len(measured) > 1:
        fits = zip(COLUMNS.values(), zip(*measured, strict=True), strict=True)
        cells = [f"~ clips^{exponent(args.clips, values):.2f}" if unit == "s" else "" for unit, values in fits]
        table.row("growth", "", *cells)


if __name__ == "__main__":
    main()

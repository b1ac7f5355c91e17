"""How scoring and metrics grow with the number of clips (five captions each): prints one Markdown table.

usage: python -m benchmarks.growth [--clips C ...]      (what `make bench` runs second)

Scoring is timed after encoding, which a stand-in does at no cost: every clip with every word, into a file. Metrics are
those of both directions, from such a file, read from the system's cache. One thread.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from utils.place_utils import per_query_both_directions

from benchmarks.inputs import WORDS, encoded_model, write_random_word_scores
from benchmarks.measure import isolated, one_thread, peak_memory, seconds
from benchmarks.synthetic import synthetic_split
from utils.metric_utils import averages, right_pairs
from utils.score_utils import Score
from utils.trial.checkpoint import Trained
from utils.trial.retrieval import write_word_scores
from utils.trial.score_files import load_scores

CLIPS = (500, 1045, 3839, 20_000)
COLUMNS = ("word scores", "peak", "metrics", "peak")


def scoring(clips: int) -> list[float]:
    """Seconds of scoring a split's clips with all words, as postprocessing does it, and the peak memory in GB."""
    split, best = synthetic_split(clips), Trained(encoded_model().train(False), Score(), WORDS, epoch=0)
    with TemporaryDirectory() as folder:
        return [seconds(lambda: write_word_scores(Path(folder) / "scores.hdf5", split, best)), peak_memory()]


def metrics(clips: int) -> list[float]:
    """Seconds of the metrics in both directions from stored word scores, and the peak memory in GB."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scores.hdf5"
        isolated(write_random_word_scores, path, clips)
        return isolated(_metrics, path)


def _metrics(path: Path) -> list[float]:
    def measure() -> None:
        stored = load_scores(path, epoch=0)
        values = per_query_both_directions(stored.scores, right_pairs(stored.caption_clips))
        print(*(f"{side} {averages(queries)['mAP']:.2g}" for side, queries in values.items()), file=sys.stderr)

    return [seconds(measure), peak_memory()]


def exponent(clips: Sequence[int], values: Sequence[float]) -> float:
    """b of the power law a * clips^b that fits best: 1 is linear growth, 2 quadratic."""
    return float(np.polyfit(np.log(clips), np.log(values), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=CLIPS, metavar="C", help="default: %(default)s")
    args = parser.parse_args()
    one_thread()
    print(f"| {'clips':>6} | {'captions':>8} | {' | '.join(f'{name:>14}' for name in COLUMNS)} |")
    print(f"| {'-' * 5}: | {'-' * 7}: | {' | '.join('-' * 13 + ':' for _ in COLUMNS)} |")
    measured: dict[int, list[float]] = {}
    for clips in args.clips:
        measured[clips] = [*isolated(scoring, clips), *metrics(clips)]
        units = ("GB" if name == "peak" else "s" for name in COLUMNS)
        cells = [f"{value:.3g} {unit}" for value, unit in zip(measured[clips], units, strict=True)]
        print(f"| {clips:>6} | {5 * clips:>8} | {' | '.join(f'{cell:>14}' for cell in cells)} |", flush=True)
    print_exponents(measured)


def print_exponents(measured: dict[int, list[float]]) -> None:
    """The last line of the table: the fitted exponent of each time."""
    cells = []
    for name, values in zip(COLUMNS, zip(*measured.values(), strict=True), strict=True):
        fits = name != "peak" and len(values) > 1
        cells.append(f"~ clips^{exponent(list(measured), values):.2f}" if fits else "")
    print(f"| {'growth':>6} | {'':>8} | {' | '.join(f'{cell:>14}' for cell in cells)} |")


if __name__ == "__main__":
    main()

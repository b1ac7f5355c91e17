"""How scoring and metrics grow with the number of clips (five captions each): prints one Markdown table.

usage: python -m benchmarks.growth [--clips C ...] [--memory GB]      (what `make bench` runs second)

Scoring is timed after encoding, in its two parts: word scores, a clip at a time, and caption scores, clips x captions.
"""

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.inputs import encoded_model, synthetic_scores
from benchmarks.measure import GB, isolated, peak_memory, seconds
from benchmarks.synthetic import synthetic_split
from utils.evaluation_utils import score_words
from utils.metric_utils import both_directions
from utils.score_utils import caption_word_weights
from utils.split_score_utils import caption_sums

CLIPS = (500, 1045, 3839, 20_000)
COLUMNS = ("word scores", "caption scores", "scoring, peak", "metrics", "metrics, peak")


def scoring(clips: int) -> list[float]:
    """Seconds of the word scores and of the caption scores, as in `score_split`, and the peak memory in GB."""
    split, model = synthetic_split(clips), encoded_model().train(False)
    times = [time.perf_counter()]
    words, weights = caption_word_weights([ids.numpy() for ids in split.captions])
    times.append(time.perf_counter())
    by_word, _ = score_words(model, split, [model.text_branch(torch.from_numpy(words).unsqueeze(0))[0]])
    times.append(time.perf_counter())
    caption_sums(weights, by_word).T.contiguous()
    times.append(time.perf_counter())
    weighing, by_words, by_captions = np.diff(times).tolist()
    return [by_words, weighing + by_captions, peak_memory()]


def metrics(clips: int) -> list[float]:
    """Seconds of the metrics in both directions, and the peak memory in GB."""
    scores, caption_clips = synthetic_scores(clips)
    return [seconds(lambda: both_directions(scores, caption_clips)), peak_memory()]


def within(memory: float, measurement: Callable[[int], list[float]], clips: int) -> list[float] | None:
    """The measurement, or None where it needs more memory (GB)."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory * GB), resource.RLIM_INFINITY))
    try:
        return measurement(clips)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):  # PyTorch's way to say it
            raise
        return None


def exponent(clips: list[int], values: list[float]) -> float:
    """b of the power law a * clips^b that fits best: 1 is linear growth, 2 quadratic."""
    return float(np.polyfit(np.log(clips), np.log(values), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=CLIPS, metavar="C", help="default: %(default)s")
    parser.add_argument("--memory", type=float, default=20, metavar="GB", help="most to take (default: %(default)s)")
    args = parser.parse_args()
    print(f"| {'clips':>6} | {'captions':>8} | {' | '.join(f'{name:>14}' for name in COLUMNS)} |")
    print(f"| {'-' * 5}: | {'-' * 7}: | {' | '.join('-' * 13 + ':' for _ in COLUMNS)} |")
    measured: dict[int, list[float | None]] = {}
    for clips in args.clips:
        parts = [isolated(within, args.memory, scoring, clips), isolated(within, args.memory, metrics, clips)]
        measured[clips] = [*(parts[0] or [None] * 3), *(parts[1] or [None] * 2)]
        cells = [
            f"> {args.memory:g} GB" if value is None else f"{value:.3g} {'GB' if 'peak' in name else 's'}"
            for name, value in zip(COLUMNS, measured[clips], strict=True)
        ]
        print(f"| {clips:>6} | {5 * clips:>8} | {' | '.join(f'{cell:>14}' for cell in cells)} |", flush=True)
    print_exponents(measured)


def print_exponents(measured: dict[int, list[float | None]]) -> None:
    """The last line of the table: the fitted exponent of each time."""
    cells = []
    for i, name in enumerate(COLUMNS):
        points = {clips: values[i] for clips, values in measured.items() if values[i] is not None}
        fits = "peak" not in name and len(points) > 1
        cells.append(f"~ clips^{exponent(list(points), list(points.values())):.2f}" if fits else "")
    print(f"| {'growth':>6} | {'':>8} | {' | '.join(f'{cell:>14}' for cell in cells)} |")


if __name__ == "__main__":
    main()

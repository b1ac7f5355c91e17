"""The percentile bootstrap over a split's clips: intervals of metrics, and of their differences between trials.

A draw takes C clips of the split with replacement. Its queries are, for text-to-audio, all captions of the drawn clips,
and for audio-to-text the drawn clips themselves, each as often as it was drawn. What is resampled is the queries'
values: every query has ranked all items of the split, once, and ranks them no other way in a draw.

Percentile intervals: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13. Pairs: Koehn,
"Statistical Significance Tests for Machine Translation Evaluation", EMNLP 2004; Sakai, "Evaluating Evaluation Metrics
based on the Bootstrap", SIGIR 2006.

Shapes: Q queries, C clips of a split; B draws.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from utils.metric_utils import averages
from utils.report.numbers import METRICS
from utils.report.rankings import Queries

DRAWS = 1000
BOTH = "both"  # the mean of both directions, beside these
_ROUNDING = 1e-9  # what a mean over seeds may be off


class Estimate(NamedTuple):
    """A metric of a split, or a difference, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """Whether the interval of a difference does: the two are not told apart."""
        return self.low <= _ROUNDING and self.high >= -_ROUNDING


def estimates(values: dict[str, np.ndarray], query_clips: np.ndarray, clips: int, seed: int = 0) -> dict[str, Estimate]:
    """Each of METRICS with its interval.

    Args:
        values: (Q,) each, of `metric_utils.per_query_metrics`.
        query_clips: (Q,) the clip, in [0, C), that each query is, or describes.
        clips: C.
    """
    draws, point = draw_clips(clips, seed), averages(values)

    def resampled(name: str) -> ArrayLike:
        if name == "MedR":
            return [np.median(np.repeat(values["first_rank"], draw[query_clips])) for draw in draws]
        return means(values[name], query_clips, draws)

    return {name: _estimate(point[name], resampled(name)) for name in METRICS}


def differences(
    one: Sequence[Queries], other: Sequence[Queries], metric: str = "mAP", seed: int = 0
) -> dict[str, Estimate]:
    """How far one group of trials is above another: in each direction, and in the mean of BOTH.

    Seeds are pooled: a query's value is the mean of those that a group's trials give it. Pairs: a draw's clips are the
    same for both groups. So the interval is that of other clips for these trials, not of other seeds.

    Args:
        one, other: of each trial of a group, all of the same clips and captions; as many as the group has.
        metric: one of metric_utils.AVERAGED.
    """
    draws = draw_clips(len(one[0].fids), seed)
    value, resampled = {}, {}
    for side, query_clips in one[0].query_clips.items():
        pooled = [np.mean([trial.values[side][metric] for trial in group], axis=0) for group in (one, other)]
        gaps = pooled[0] - pooled[1]  # (Q,): a mean of differences is the difference of the means
        value[side], resampled[side] = float(np.mean(gaps)), means(gaps, query_clips, draws)
    value[BOTH], resampled[BOTH] = np.mean(list(value.values())).item(), np.mean(list(resampled.values()), axis=0)
    return {side: _estimate(value[side], resampled[side]) for side in value}


def draw_clips(clips: int, seed: int) -> np.ndarray:
    """(B, C) how often each of C clips was drawn."""
    return np.random.default_rng(seed).multinomial(clips, np.full(clips, 1 / clips), size=DRAWS)


def means(values: np.ndarray, query_clips: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """(B,) the mean of the queries' values in each draw; (Q,) values and the queries' clips, (B, C) draws."""
    clips = draws.shape[1]
    queries = draws @ np.bincount(query_clips, minlength=clips)  # (B,)
    return draws @ np.bincount(query_clips, weights=values, minlength=clips) / queries


def _estimate(value: float, resampled: ArrayLike) -> Estimate:
    return Estimate(value, *np.percentile(resampled, [2.5, 97.5]).tolist())

"""The percentile bootstrap over a split's clips: intervals of metrics and of their differences between trials.

A draw takes C clips with replacement, each with all of its captions. So it draws the queries of both directions. Each
query keeps the values of its one ranking of the whole split.

Percentile intervals: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13. Paired differences:
Koehn, "Statistical Significance Tests for Machine Translation Evaluation", EMNLP 2004; Sakai, "Evaluating Evaluation
Metrics based on the Bootstrap", SIGIR 2006.

Shapes: Q queries, C clips, B draws.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.metric_utils import averages
from utils.report.numbers import METRICS
from utils.report.rankings import Queries

DRAWS = 1000
SEED = 0
BOTH = "both"  # the mean of both directions
_ROUNDING = 1e-9  # of a mean over seeds


class Estimate(NamedTuple):
    """A metric, or a difference of metrics, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """Whether the interval contains zero: a difference is not significant."""
        return self.low <= _ROUNDING and self.high >= -_ROUNDING


def estimates(queries: Queries, side: str) -> dict[str, Estimate]:
    """Each of METRICS in one direction, with its interval."""
    values, query_clips = queries.values[side], queries.query_clips[side]
    draws, metrics = _draw_clips(len(queries.fids), DRAWS), averages(values)
    resampled = {name: _means(values[name], query_clips, draws) for name in METRICS if name != "MedR"}
    resampled["MedR"] = [np.median(np.repeat(values["first_rank"], draw[query_clips])) for draw in draws]
    return {name: Estimate(metrics[name], *_interval(resampled[name])) for name in METRICS}


def differences(one: Sequence[Queries], other: Sequence[Queries], draws: int = DRAWS) -> dict[str, Estimate]:
    """How far the mAP of one group of trials is above another's: in each direction, and in the mean of BOTH.

    A query's value is the mean over a group's trials (seeds). Each draw takes the same clips for both groups. So the
    interval covers other clips, not other seeds.

    Args:
        one, other: the queries of each trial of a group, all of the same clips and captions.
    """
    drawn = _draw_clips(len(one[0].fids), draws)
    value, resampled = {}, {}
    for side, query_clips in one[0].query_clips.items():
        pooled = [np.mean([trial.values[side]["mAP"] for trial in group], axis=0) for group in (one, other)]
        gaps = pooled[0] - pooled[1]  # (Q,): a mean of differences is the difference of the means
        value[side], resampled[side] = float(np.mean(gaps)), _means(gaps, query_clips, drawn)
    value[BOTH], resampled[BOTH] = np.mean(list(value.values())).item(), np.mean(list(resampled.values()), axis=0)
    return {side: Estimate(value[side], *_interval(resampled[side])) for side in value}


def _draw_clips(clips: int, draws: int) -> np.ndarray:
    """(B, C) how often each draw takes each clip."""
    return np.random.default_rng(SEED).multinomial(clips, np.full(clips, 1 / clips), size=draws)


def _means(values: np.ndarray, query_clips: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """(B,) the mean of the queries' values (Q,) in each draw (B, C)."""
    clips = draws.shape[1]
    queries = draws @ np.bincount(query_clips, minlength=clips)  # (B,)
    return draws @ np.bincount(query_clips, weights=values, minlength=clips) / queries


def _interval(resampled: Sequence[float]) -> list[float]:
    return np.percentile(resampled, [2.5, 97.5]).tolist()

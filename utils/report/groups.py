"""Trials in groups: those that differ only in their seeds are one experiment."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from utils.common.errors import UserError
from utils.conf.schema import Conf, result_settings, role_of
from utils.criterion_utils import CRITERIA
from utils.report.bootstrap import BOTH
from utils.report.numbers import plain, shown
from utils.report.rankings import Queries
from utils.sampling_utils import STRATEGIES
from utils.trial.caveats import Caveat
from utils.trial.dataset_provenance import WORD_VECTORS

COLLAPSED = "collapsed"


@dataclass(frozen=True)
class TrialResult:
    """What a finished trial has to show."""

    trial: Path
    conf: Conf
    metrics: dict[str, dict[str, float]]  # of its eval_data split, by direction, as in retrieval_metrics.json
    history: list[dict[str, float]]  # an entry an epoch, as in metrics.jsonl
    sources: dict[str, str]  # of its data set: utils.trial.dataset_provenance.sources
    queries: Queries  # of its eval_data split
    caveat: Caveat | None = None

    @property
    def strategy(self) -> str:
        """The sampling strategy, or the criterion that has none."""
        return self.conf.objective

    @property
    def seed(self) -> int:
        return self.conf.param_conf.seed

    @property
    def collapsed(self) -> bool:
        """Whether every query ties a right with a wrong item: nothing is told apart."""
        return all(values["tied"].all() for values in self.queries.values.values())

    @property
    def marks(self) -> list[str]:
        """What is to be said of it, each in a word."""
        return [*([COLLAPSED] if self.collapsed else []), *([self.caveat.mark] if self.caveat else [])]

    @property
    def experiment(self) -> dict[str, str]:
        """The settings that tell it from another experiment, as text, by dotted key."""
        settings = result_settings(self.conf)
        return {key: plain(value) for key, value in settings.items() if role_of(key).tells_experiments_apart}


@dataclass(frozen=True)
class Group:
    """Trials that differ only in their seeds, in the order of these."""

    label: str  # the strategy, and what else tells the group from others
    results: list[TrialResult]

    @property
    def queries(self) -> list[Queries]:
        return [result.queries for result in self.results]

    @property
    def mark(self) -> str:
        """What is to be said of its trials, in a word or two."""
        counts, seeds = Counter(mark for result in self.results for mark in result.marks), len(self.results)
        return ", ".join(mark if count == seeds else f"{count} of {seeds} {mark}" for mark, count in counts.items())

    def mean(self, direction: str, metric: str) -> float:
        """The mean over seeds, in one direction or in the mean of BOTH."""
        return float(np.mean(self._values(direction, metric)))

    def std(self, direction: str, metric: str) -> float | None:
        """The sample standard deviation over seeds; None for one seed."""
        return float(np.std(self._values(direction, metric), ddof=1)) if len(self.results) > 1 else None

    def _values(self, direction: str, metric: str) -> list[float]:
        return [of_direction(result.metrics, direction, metric) for result in self.results]


def group_trials(results: Iterable[TrialResult]) -> list[Group]:
    """Groups of trials that differ only in their seeds, in the strategies' order.

    Raises UserError where two trials of a group have one seed, which would count twice, or other word vectors.
    """
    by_experiment: dict[tuple, list[TrialResult]] = {}
    for result in results:
        by_experiment.setdefault(tuple(sorted(result.experiment.items())), []).append(result)
    members = [sorted(group, key=lambda result: result.seed) for group in by_experiment.values()]
    for group in members:
        for one, other in pairwise(group):
            if one.seed == other.seed:
                raise UserError(f"{other.trial}: the same settings and the same seed as {one.trial}; leave one out")
            if one.sources.get(WORD_VECTORS) != other.sources.get(WORD_VECTORS):
                raise UserError(f"{other.trial}: has other word vectors than {one.trial}, by the same settings")
    groups = [Group(label, group) for label, group in zip(_labels(members), members, strict=True)]
    order = [*STRATEGIES, *CRITERIA]
    return sorted(groups, key=lambda group: (order.index(group.results[0].strategy), group.label))


def _labels(members: list[list[TrialResult]]) -> list[str]:
    """Each group's strategy and, where several share it, the settings in which those differ."""
    labels = []
    for group in members:
        own = group[0].experiment
        alike = [other[0].experiment for other in members if other[0].strategy == group[0].strategy]
        keys = sorted({key for experiment in alike for key in experiment})
        differing = [key for key in keys if len({experiment.get(key) for experiment in alike}) > 1]
        names = [key.rpartition(".")[2] for key in differing]
        parts = [
            f"{name if names.count(name) == 1 else key}={own.get(key, 'null')}"
            for key, name in zip(differing, names, strict=True)
        ]
        labels.append(", ".join([group[0].strategy, *parts]))
    return labels


def highest(groups: list[Group]) -> Group:
    """The group with the highest mAP, mean of both directions and of the seeds; the first where some tie."""
    return max(groups, key=lambda group: group.mean(BOTH, "mAP"))


def best_groups(groups: list[Group], direction: str, metric: str) -> set[str]:
    """The labels of the groups with the best mean, to the digits that tables show; none where there is one group."""
    means = {group.label: float(shown(metric, group.mean(direction, metric))) for group in groups}
    best = (min if metric == "MedR" else max)(means.values())
    return {label for label, value in means.items() if value == best and len(groups) > 1}


def of_direction(metrics: dict[str, dict[str, float]], direction: str, metric: str) -> float:
    """A metric in one direction, or its mean over BOTH."""
    return float(np.mean([of[metric] for of in metrics.values()])) if direction == BOTH else metrics[direction][metric]

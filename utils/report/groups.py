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
from utils.metric_utils import AVERAGED, averages
from utils.report.bootstrap import BOTH
from utils.report.numbers import plain, shown
from utils.report.rankings import Queries
from utils.sampling_utils import STRATEGIES
from utils.trial.checks import Caveat
from utils.trial.dataset_provenance import OWN_FEATURES, WORD_VECTORS

COLLAPSED = "collapsed"


@dataclass(frozen=True)
class TrialResult:
    """A trial's results on its eval_data split."""

    trial: Path
    conf: Conf
    metrics: dict[str, dict[str, float]]  # by direction, as in retrieval_metrics.json
    history: list[dict[str, float]]  # by epoch, as in metrics.jsonl
    sources: dict[str, str]  # of the data set: utils.trial.dataset_provenance.sources
    queries: Queries
    caveat: Caveat | None = None

    @property
    def seed(self) -> int:
        return self.conf.param_conf.seed

    @property
    def marks(self) -> list[str]:
        """Warnings in a word each; a trial collapsed if every query ties a relevant with an irrelevant item."""
        collapsed = all(values["tied"].all() for values in self.queries.values.values())
        return [*([COLLAPSED] if collapsed else []), *([self.caveat.mark] if self.caveat else [])]

    @property
    def experiment(self) -> dict[str, str]:
        """The settings that distinguish experiments, as text, by dotted key."""
        settings = result_settings(self.conf)
        return {key: plain(value) for key, value in settings.items() if role_of(key).tells_experiments_apart}


@dataclass(frozen=True)
class Group:
    """Trials that differ only in their seeds, by seed; or chance: random rankings of the same queries, of no trials."""

    label: str  # the strategy, and the settings that distinguish the group
    strategy: str  # or the criterion if it has none
    results: list[TrialResult]
    metrics: list[dict[str, dict[str, float]]]  # of each trial, by direction; chance has no MedR
    queries: list[Queries]

    @property
    def mark(self) -> str:
        """The warnings of its trials, with counts where they differ."""
        counts, seeds = Counter(mark for result in self.results for mark in result.marks), len(self.results)
        return ", ".join(mark if count == seeds else f"{count} of {seeds} {mark}" for mark, count in counts.items())

    def mean(self, side: str, metric: str) -> float | None:
        """The mean over seeds, in one direction or of BOTH; None for chance's median rank, which has no closed form."""
        values = self._values(side, metric)
        return float(np.mean(values)) if values else None

    def std(self, side: str, metric: str) -> float | None:
        """The sample standard deviation over seeds; None for one seed and for chance."""
        values = self._values(side, metric)
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def _values(self, side: str, metric: str) -> list[float]:
        if side == BOTH:
            return [float(np.mean([values[metric] for values in by_side.values()])) for by_side in self.metrics]
        return [by_side[side][metric] for by_side in self.metrics if metric in by_side[side]]


def chance_of(queries: Queries) -> Group:
    """The expected metrics of random rankings."""
    expected = queries.by_chance()
    averaged = {side: averages(values) for side, values in expected.values.items()}
    metrics = {side: {name: values[name] for name in AVERAGED} for side, values in averaged.items()}
    return Group("chance", "chance", [], [metrics], [expected])


def group_trials(results: Iterable[TrialResult]) -> list[Group]:
    """Group trials that differ only in their seeds, in the order of the strategies.

    Raises UserError where two trials of a group have the same seed, or different word vectors or features.
    """
    by_experiment: dict[tuple, list[TrialResult]] = {}
    for result in results:
        by_experiment.setdefault(tuple(sorted(result.experiment.items())), []).append(result)
    members = [sorted(group, key=lambda result: result.seed) for group in by_experiment.values()]
    for group in members:
        for one, other in pairwise(group):
            if one.seed == other.seed:
                raise UserError(f"{other.trial}: same settings and seed as {one.trial}; leave one out")
            for source in (WORD_VECTORS, OWN_FEATURES):
                if one.sources.get(source) != other.sources.get(source):
                    raise UserError(f"{other.trial}: {source} differ from those of {one.trial}, but not the settings")
    groups = [
        Group(
            label,
            group[0].conf.objective,
            group,
            [result.metrics for result in group],
            [result.queries for result in group],
        )
        for label, group in zip(_labels(members), members, strict=True)
    ]
    order = [*STRATEGIES, *CRITERIA]
    return sorted(groups, key=lambda group: (order.index(group.strategy), group.label))


def _labels(members: list[list[TrialResult]]) -> list[str]:
    """Each group's strategy and, where several share it, the settings in which they differ."""
    labels = []
    for first, *_ in members:
        peers = [other.experiment for other, *_ in members if other.conf.objective == first.conf.objective]
        keys = [key for key in sorted(set().union(*peers)) if len({peer.get(key) for peer in peers}) > 1]
        names = {key: key.rpartition(".")[2] for key in keys}
        counts = Counter(names.values())  # where two keys end alike, labels have the whole keys
        settings = [
            f"{name if counts[name] == 1 else key}={first.experiment.get(key, 'null')}" for key, name in names.items()
        ]
        labels.append(", ".join([first.conf.objective, *settings]))
    return labels


def highest(groups: list[Group]) -> Group:
    """The group with the highest mAP, mean of both directions and of the seeds; of ties, the first."""
    return max(groups, key=lambda group: group.mean(BOTH, "mAP"))


def best_groups(groups: list[Group], direction: str, metric: str) -> set[str]:
    """The labels of the groups with the best mean, to the digits that tables show; none if there is one group only."""
    means = {group.label: float(shown(metric, group.mean(direction, metric))) for group in groups}
    best = (min if metric == "MedR" else max)(means.values())
    return {label for label, value in means.items() if value == best and len(groups) > 1}

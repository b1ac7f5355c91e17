"""The tables of a comparison: groups and chance, their metrics, and their differences; in Markdown and CSV."""

from typing import NamedTuple

import pandas as pd

from utils.metric_utils import AVERAGED, averages
from utils.report.bootstrap import BOTH, Estimate, differences
from utils.report.groups import Group, TrialResult, best_groups, group_trials, highest, of_direction
from utils.report.numbers import METRICS, shown, signed
from utils.report.page import DIRECTIONS
from utils.report.rankings import Queries

SIDES = DIRECTIONS | {BOTH: "Mean of both directions"}
COLUMNS = dict.fromkeys(DIRECTIONS, METRICS) | {BOTH: AVERAGED}  # two median ranks have no meaningful mean
NOT_APART = "not told apart"


class Chance:
    """Random rankings of the same queries: a row as a Group is one, of no seeds."""

    label = strategy = "chance"
    mark = ""
    results = ()

    def __init__(self, queries: Queries):
        self.queries = [queries.by_chance()]
        self.metrics = {side: averages(values) for side, values in self.queries[0].values.items()}

    def mean(self, side: str, metric: str) -> float | None:
        """The expected value; None for a median rank, which has no closed form."""
        return of_direction(self.metrics, side, metric) if metric in AVERAGED else None

    def std(self, side: str, metric: str) -> None:
        """None: an expected value has no seeds."""


Row = Group | Chance


class Comparison(NamedTuple):
    """The content of the tables."""

    rows: list[Row]  # the groups, then chance
    best: dict[tuple[str, str], set[str]]  # by side and metric: the labels of the groups with the best mean
    references: dict[str, Group]  # "best": the highest mAP, mean of both directions; "first": the first trial's group
    differences: dict[str, dict[str, dict[str, Estimate]]]  # of mAP from each reference, by label and side

    @property
    def groups(self) -> list[Group]:
        """The rows without chance."""
        return self.rows[:-1]

    def titled_references(self) -> dict[str, str]:
        """The keys of the references by their titles; one for both if they are the same."""
        best, first = (self.references[name].label for name in ("best", "first"))
        if best != first:
            return {f"{best}, the best": "best", f"{first}, the first": "first"}
        return {f"{best}, {'the best and the first' if len(self.groups) > 1 else 'the only one'}": "best"}


def compare(results: list[TrialResult]) -> Comparison:
    """Compare trials that were measured on the same clips and captions."""
    groups = group_trials(results)
    rows = [*groups, Chance(results[0].queries)]
    references = {"best": highest(groups), "first": next(group for group in groups if results[0] in group.results)}
    return Comparison(
        rows,
        {(side, metric): best_groups(groups, side, metric) for side in SIDES for metric in COLUMNS[side]},
        references,
        {
            name: {row.label: differences(row.queries, reference.queries) for row in rows if row is not reference}
            for name, reference in references.items()
        },
    )


# --- Markdown --------------------------------------------------------------------------------------------


def comparison_markdown(comparison: Comparison) -> str:
    """A table for each side: mean ± standard deviation over seeds, the best mean in bold; then the differences."""
    lines = []
    for side, title in SIDES.items():
        rows = [[_label(row), str(len(row.results) or ""), *_spreads(comparison, row, side)] for row in comparison.rows]
        lines += [f"**{title}**", "", *table_lines(["", "seeds", *COLUMNS[side]], rows), ""]
    for title, name in comparison.titled_references().items():
        apart = comparison.differences[name]
        rows = [
            [_label(row), *(difference_cell(apart[row.label][side]) for side in SIDES)]
            for row in comparison.rows
            if row.label in apart
        ]
        lines += [f"**mAP less that of {escaped(title)}**", "", *table_lines(["", *SIDES.values()], rows), ""]
    lines += [
        f"In brackets: 95 % intervals by paired bootstrap over clips. ≈ {NOT_APART}: the interval contains zero.",
        "",
    ]
    return "\n".join(lines)


def table_lines(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    lines = [f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in (header, *rows)]
    return [lines[0], "|---" * len(header) + "|", *lines[1:]]


def _label(row: Row) -> str:
    return escaped(row.label) + (f" ({row.mark})" if row.mark else "")


def escaped(label: str) -> str:
    """Escape Markdown's special characters."""
    return "".join(f"\\{sign}" if sign in "\\|*_`<>[]" else sign for sign in label)


def _spreads(comparison: Comparison, row: Row, side: str) -> list[str]:
    cells = {metric: spread_cell(row, side, metric) for metric in COLUMNS[side]}
    return [f"**{cell}**" if row.label in comparison.best[side, metric] else cell for metric, cell in cells.items()]


def spread_cell(row: Row, side: str, metric: str) -> str:
    """Mean ± standard deviation over seeds."""
    mean, std = row.mean(side, metric), row.std(side, metric)
    return shown(metric, mean) + ("" if std is None else f" ± {shown(metric, std)}")


def difference_cell(estimate: Estimate) -> str:
    """A difference and its interval."""
    value, low, high = map(signed, estimate)
    return f"{value} [{low}, {high}]" + (f" ≈ {NOT_APART}" if estimate.holds_zero else "")


# --- CSV -------------------------------------------------------------------------------------------------


def comparison_frame(comparison: Comparison) -> pd.DataFrame:
    """A row for each group and side, chance last; missing where there is no value.

    One seed has no standard deviation, both directions have no median rank, a group has no difference to itself.
    """
    records = []
    for row in comparison.rows:
        for side in SIDES:
            record = {"strategy": row.strategy, "trials": row.label, "direction": side}
            record["seeds"] = len(row.results) or None
            for metric in METRICS:
                has_metric = metric in COLUMNS[side]
                record[f"{metric}_mean"] = row.mean(side, metric) if has_metric else None
                record[f"{metric}_std"] = row.std(side, metric) if has_metric else None
            record["mark"] = row.mark
            for name, apart in comparison.differences.items():
                record |= _difference(f"mAP_minus_{name}", name, apart.get(row.label, {}).get(side))
            records.append(record)
    return pd.DataFrame(records).astype({"seeds": "Int64"})


def _difference(column: str, name: str, estimate: Estimate | None) -> dict[str, object]:
    """The columns of a difference to a reference, and its verdict in words; None: the row is the reference."""
    value, low, high = estimate or (None, None, None)
    verdict = f"the {name}" if estimate is None else NOT_APART if estimate.holds_zero else "told apart"
    return {column: value, f"{column}_low": low, f"{column}_high": high, f"{column}_verdict": verdict}

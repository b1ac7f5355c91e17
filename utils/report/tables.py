"""The tables of a comparison: groups and chance, their metrics, and their differences; in Markdown and CSV."""

import pandas as pd

from utils.metric_utils import AVERAGED
from utils.report.bootstrap import BOTH, Estimate, differences
from utils.report.groups import Group, TrialResult, best_groups, chance_of, group_trials, highest
from utils.report.numbers import METRICS, shown, signed
from utils.report.page import DIRECTIONS

SIDES = DIRECTIONS | {BOTH: "Mean of both directions"}
COLUMNS = dict.fromkeys(DIRECTIONS, METRICS) | {BOTH: AVERAGED}  # two median ranks have no meaningful mean
NOT_APART = "not told apart"


class Comparison:
    """The content of the tables, from trials that were measured on the same clips and captions."""

    def __init__(self, results: list[TrialResult]):
        self.groups = group_trials(results)
        self.rows = [*self.groups, chance_of(results[0].queries)]
        # labels of the groups with the best mean, by side and metric
        self.best = {(side, name): best_groups(self.groups, side, name) for side in SIDES for name in COLUMNS[side]}
        first = next(group for group in self.groups if results[0] in group.results)
        self.references = {"best": highest(self.groups), "first": first}
        self.differences = {  # of mAP from each reference, by label and side
            name: {row.label: differences(row.queries, group.queries) for row in self.rows if row is not group}
            for name, group in self.references.items()
        }

    def titled_references(self) -> dict[str, str]:
        """The keys of the references by their titles; one for both if they are the same."""
        best, first = (self.references[name].label for name in ("best", "first"))
        if best != first:
            return {f"{best}, the best": "best", f"{first}, the first": "first"}
        return {f"{best}, {'the best and the first' if len(self.groups) > 1 else 'the only one'}": "best"}


# --- Markdown --------------------------------------------------------------------------------------------


def comparison_markdown(comparison: Comparison) -> str:
    """A table for each side: mean ± standard deviation over seeds, the best mean in bold; then the differences."""
    labels = {row.label: escaped(row.label) + (f" ({row.mark})" if row.mark else "") for row in comparison.rows}
    lines = []
    for side, title in SIDES.items():
        rows = []
        for row in comparison.rows:
            cells = {metric: spread_cell(row, side, metric) for metric in COLUMNS[side]}
            best = {metric for metric in cells if row.label in comparison.best[side, metric]}
            spreads = [f"**{cell}**" if metric in best else cell for metric, cell in cells.items()]
            rows.append([labels[row.label], str(len(row.results) or ""), *spreads])
        lines += [f"**{title}**", "", *table_lines(["", "seeds", *COLUMNS[side]], rows), ""]
    for title, name in comparison.titled_references().items():
        apart = comparison.differences[name]
        rows = [[labels[label], *(difference_cell(apart[label][side]) for side in SIDES)] for label in apart]
        lines += [f"**mAP less that of {escaped(title)}**", "", *table_lines(["", *SIDES.values()], rows), ""]
    note = f"In brackets: 95 % intervals by paired bootstrap over clips. ≈ {NOT_APART}: the interval contains zero."
    return "\n".join([*lines, note, ""])


def table_lines(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    lines = [f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in (header, *rows)]
    return [lines[0], "|---" * len(header) + "|", *lines[1:]]


def escaped(label: str) -> str:
    """Escape Markdown's special characters."""
    return "".join(f"\\{sign}" if sign in "\\|*_`<>[]" else sign for sign in label)


def spread_cell(row: Group, side: str, metric: str) -> str:
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
            seeds = len(row.results) or None
            record = {"strategy": row.strategy, "trials": row.label, "direction": side, "seeds": seeds}
            for metric in COLUMNS[side]:
                record |= {f"{metric}_mean": row.mean(side, metric), f"{metric}_std": row.std(side, metric)}
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

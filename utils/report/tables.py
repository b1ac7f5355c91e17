"""What a comparison shows: groups, the best, chance, and how far they are apart; its tables in Markdown and CSV."""

from typing import NamedTuple

from utils.metric_utils import AVERAGED, averages
from utils.report.bootstrap import BOTH, Estimate, differences
from utils.report.groups import Group, TrialResult, best_groups, group_trials, highest, of_direction
from utils.report.numbers import METRICS, shown, signed
from utils.report.page import DIRECTIONS
from utils.report.rankings import Queries

SIDES = DIRECTIONS | {BOTH: "Mean of both directions"}
COLUMNS = dict.fromkeys(DIRECTIONS, METRICS) | {BOTH: AVERAGED}  # the mean of two median ranks is none
CHANCE = "chance"  # the label of random rankings
NOT_APART = "not told apart"


class Reference(NamedTuple):
    """A group that others are compared with."""

    label: str
    differences: dict[str, dict[str, Estimate]]  # by the others' label and by side: mAP above the reference's


class Comparison(NamedTuple):
    """What the tables show."""

    groups: list[Group]
    best: dict[tuple[str, str], set[str]]  # by side and metric: the labels of the groups with the best mean
    chance: dict[tuple[str, str], float]  # of AVERAGED, whose expected values are exact; a median rank has none
    references: dict[str, Reference]  # "best": of the highest mAP, mean of both directions; "first": of the first trial

    @property
    def marks(self) -> dict[str, str]:
        """What is to be said of each row's trials, by its label."""
        return {group.label: group.mark for group in self.groups} | {CHANCE: ""}

    def titled_references(self) -> dict[str, Reference]:
        """Each of the references once, by its label and what it is."""
        best, first = self.references["best"], self.references["first"]
        if best.label != first.label:
            return {f"{best.label}, the best": best, f"{first.label}, the first": first}
        return {f"{best.label}, {'the best and the first' if len(self.groups) > 1 else 'the only one'}": best}


def compare(results: list[TrialResult]) -> Comparison:
    """Compare finished trials, all of the same clips and captions."""
    groups = group_trials(results)
    by_chance = results[0].queries.by_chance()
    chance = {side: averages(values) for side, values in by_chance.values.items()}
    references = {
        "best": highest(groups),
        "first": next(group for group in groups if any(result is results[0] for result in group.results)),
    }
    return Comparison(
        groups,
        {(side, metric): best_groups(groups, side, metric) for side in SIDES for metric in COLUMNS[side]},
        {(side, metric): of_direction(chance, side, metric) for side in SIDES for metric in AVERAGED},
        {what: _reference(group, groups, by_chance) for what, group in references.items()},
    )


def _reference(reference: Group, groups: list[Group], by_chance: Queries) -> Reference:
    others = {group.label: group.queries for group in groups if group is not reference} | {CHANCE: [by_chance]}
    return Reference(reference.label, {label: differences(other, reference.queries) for label, other in others.items()})


# --- Markdown --------------------------------------------------------------------------------------------


def comparison_markdown(comparison: Comparison) -> str:
    """A table for each side: mean ± standard deviation over seeds, the best mean in bold; then the differences."""
    lines = []
    for side, title in SIDES.items():
        rows = [
            [_label(group.label, group.mark), str(len(group.results)), *_spreads(comparison, group, side)]
            for group in comparison.groups
        ]
        chance = [comparison.chance.get((side, metric)) for metric in COLUMNS[side]]
        rows.append([CHANCE, "", *("–" if value is None else f"{value:.3f}" for value in chance)])
        lines += [f"**{title}**", "", *table_lines(["", "seeds", *COLUMNS[side]], rows), ""]
    for title, reference in comparison.titled_references().items():
        rows = [
            [_label(label, comparison.marks[label]), *(difference_cell(estimates[side]) for side in SIDES)]
            for label, estimates in reference.differences.items()
        ]
        lines += [f"**mAP less that of {_label(title)}**", "", *table_lines(["", *SIDES.values()], rows), ""]
    lines += [f"In brackets 95 % intervals by paired bootstrap over clips; ≈ {NOT_APART}: the interval holds zero.", ""]
    return "\n".join(lines)


def table_lines(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in (header, *rows)]
    return [lines[0], "|---" * len(header) + "|", *lines[1:]]


def _label(label: str, mark: str = "") -> str:
    return f"{escaped(label)} ({mark})" if mark else escaped(label)


def escaped(label: str) -> str:
    """A label as Markdown shows it to the letter."""
    return "".join(f"\\{sign}" if sign in "\\|*_`<>[]" else sign for sign in label)


def _spreads(comparison: Comparison, group: Group, side: str) -> list[str]:
    cells = {metric: spread_cell(group, side, metric) for metric in COLUMNS[side]}
    return [f"**{cell}**" if group.label in comparison.best[side, metric] else cell for metric, cell in cells.items()]


def spread_cell(group: Group, side: str, metric: str) -> str:
    mean, std = group.mean(side, metric), group.std(side, metric)
    return shown(metric, mean) + ("" if std is None else f" ± {shown(metric, std)}")


def difference_cell(estimate: Estimate) -> str:
    value, low, high = map(signed, estimate)
    return f"{value} [{low}, {high}]" + (f" ≈ {NOT_APART}" if estimate.holds_zero else "")


# --- CSV -------------------------------------------------------------------------------------------------


def comparison_csv(comparison: Comparison) -> tuple[list[str], list[list[object]]]:
    """Header and rows, a row for each group and side, chance last; what there is none of is empty.

    That is the standard deviation of one seed, a median rank of both directions, and a group's difference to itself.
    """
    header = ["strategy", "trials", "direction", "seeds"]
    header += [f"{metric}_{what}" for metric in METRICS for what in ("mean", "std")] + ["mark"]
    for what in comparison.references:
        header += [f"mAP_minus_{what}{end}" for end in ("", "_low", "_high", "_verdict")]
    rows = []
    for group in comparison.groups:
        for side in SIDES:
            row = [group.results[0].strategy, group.label, side, len(group.results)]
            for metric in METRICS:
                row += [group.mean(side, metric), group.std(side, metric)] if metric in COLUMNS[side] else [None, None]
            rows.append([*row, group.mark, *_verdicts(comparison, group.label, side)])
    for side in SIDES:
        row = [CHANCE, CHANCE, side, None]
        for metric in METRICS:
            row += [comparison.chance.get((side, metric)), None]
        rows.append([*row, "", *_verdicts(comparison, CHANCE, side)])
    return header, rows


def _verdicts(comparison: Comparison, label: str, side: str) -> list[object]:
    """The last columns: the differences to both references, and in words what they say."""
    cells = []
    for what, reference in comparison.references.items():
        if label == reference.label:
            cells += [None, None, None, f"the {what}"]
        else:
            estimate = reference.differences[label][side]
            cells += [*estimate, NOT_APART if estimate.holds_zero else "told apart"]
    return cells

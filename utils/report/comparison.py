"""The comparison of several trials: comparison.html, .md and .csv."""

from pathlib import Path

import numpy as np

from utils.common.errors import UserError
from utils.common.folders import whole_folder
from utils.common.io import read_json, write_csv
from utils.common.steps import MEASURING, SCORING
from utils.report import figures
from utils.report.figures import Line, Picture
from utils.report.groups import Group, TrialResult, best_groups, group_trials
from utils.report.numbers import METRICS, shown
from utils.report.page import DIRECTIONS, PANELS, Page, line_of
from utils.trial.directory import trial_conf
from utils.trial.history import read_history
from utils.trial.identity import check_made, diverged, warn_diverged
from utils.trial.names import RETRIEVAL_METRICS
from utils.trial.preprocessing import WORD_VECTORS
from utils.trial.provenance import read_provenance
from utils.trial.relevance import RIGHT_PAIRS, as_measured

COMPARISON = "comparison.html"


def write_comparison(trials: list[Path], out: Path) -> Path:
    """Write comparison.html, .md and .csv of finished trials into the folder `out`; the page's path.

    Metrics are those of the trials' data_conf.eval_data split; trials that differ only in their seeds are one row.

    Raises UserError where a trial has no metrics, or its data are not those of the first.
    """
    results = [read_result(trial) for trial in dict.fromkeys(trial.resolve() for trial in trials)]
    for result in results[1:]:
        _require_same_data(results[0], result)
    groups = group_trials(results)
    best = {(side, metric): best_groups(groups, side, metric) for side in DIRECTIONS for metric in METRICS}
    with whole_folder(out, COMPARISON) as folder:
        page = Page(folder)
        page.render(
            "comparison.html",
            COMPARISON,
            split=results[0].conf.data_conf.eval_data,
            queries={side: results[0].metrics[side]["queries"] for side in DIRECTIONS},
            directions=DIRECTIONS,
            metrics=METRICS,
            groups=groups,
            best=best,
            strokes=[_stroke(i) for i in range(len(groups))],
            diverged=_diverged(groups),
            curves=[page.picture(picture) for picture in _compared_curves(groups)],
        )
        (folder / "comparison.md").write_text(comparison_markdown(groups, best), encoding="utf-8")
        write_csv(folder / "comparison.csv", *comparison_csv(groups))
    return out / COMPARISON


def read_result(trial: Path) -> TrialResult:
    """What a comparison needs of a trial; UserError where it is not there."""
    conf = trial_conf(trial, [])
    path, split = trial / RETRIEVAL_METRICS, conf.data_conf.eval_data
    check_made(trial, SCORING, MEASURING, reads=[path])
    made = read_provenance(trial)
    content = read_json(path, MEASURING)
    try:
        metrics = {
            side: {key: float(content[split][side][key]) for key in (*METRICS, "queries")} for side in DIRECTIONS
        }
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: not all metrics of the split {split}; run {MEASURING} again") from None
    warn_diverged(trial)
    sources = {RIGHT_PAIRS: "none"} | made[SCORING].sources | made[MEASURING].sources
    conf = as_measured(conf, made[MEASURING])
    return TrialResult(trial, conf, metrics, read_history(trial), sources, diverged(trial))


def _require_same_data(one: TrialResult, other: TrialResult) -> None:
    splits = [result.conf.data_conf.eval_data for result in (one, other)]
    if splits[0] != splits[1]:
        raise UserError(f"{other.trial}: measured on {splits[1]}, but {one.trial} on {splits[0]}; compare one split")
    for source in one.sources.keys() & other.sources.keys() - {WORD_VECTORS}:
        if one.sources[source] != other.sources[source]:
            raise UserError(f"{other.trial}: has other {source} than {one.trial}; compare trials of one data set")


def comparison_markdown(groups: list[Group], best: dict[tuple[str, str], set[str]]) -> str:
    """A table for each direction: mean ± standard deviation over seeds, the best mean in bold."""
    lines = []
    for side, title in DIRECTIONS.items():
        lines += [f"**{title}**", "", f"| | seeds | {' | '.join(METRICS)} |", "|---" * (len(METRICS) + 2) + "|"]
        for group in groups:
            cells = [_spread(group, side, metric) for metric in METRICS]
            cells = [
                f"**{cell}**" if group.label in best[side, metric] else cell
                for metric, cell in zip(METRICS, cells, strict=True)
            ]
            label = "".join(f"\\{sign}" if sign in "\\|*_`<>[]" else sign for sign in group.label)
            lines.append(f"| {label} | {len(group.results)} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, *_diverged(groups)])


def _diverged(groups: list[Group]) -> list[str]:
    return [result.diverged for group in groups for result in group.results if result.diverged]


def _spread(group: Group, direction: str, metric: str) -> str:
    mean, std = group.mean(direction, metric), group.std(direction, metric)
    return shown(metric, mean) + ("" if std is None else f" ± {shown(metric, std)}")


def comparison_csv(groups: list[Group]) -> tuple[list[str], list[list[object]]]:
    """Header and rows, a row for each group and direction; the standard deviation of one seed is empty."""
    header = ["strategy", "trials", "direction", "seeds"]
    header += [f"{metric}_{what}" for metric in METRICS for what in ("mean", "std")]
    rows = []
    for group in groups:
        for side in DIRECTIONS:
            row = [group.results[0].strategy, group.label, side, len(group.results)]
            for metric in METRICS:
                row += [group.mean(side, metric), group.std(side, metric)]
            rows.append(row)
    return header, rows


def _compared_curves(groups: list[Group]) -> list[Picture]:
    pictures = []
    for title, key, log in PANELS:
        drawn = []
        for style, group in enumerate(groups):
            seeds = [line_of(result.history, group.label, key, style, faint=True) for result in group.results]
            drawn += [*seeds, _mean_line(seeds)]
        pictures.append(figures.curves(title, drawn, log))
    return pictures


def _stroke(style: int) -> dict[str, str]:
    """How a line of STYLES is drawn in the page's own legend."""
    colour, dashes = figures.STYLES[style % len(figures.STYLES)]
    width = 1.8  # as in `figures.curves`, whose dashes are in widths
    return {"colour": figures.variable(colour), "dashes": " ".join(f"{width * dash:g}" for dash in dashes)}


def _mean_line(seeds: list[Line]) -> Line:
    """The mean over seeds, of the epochs that all of them have."""
    by_epoch = [dict(zip(line.epochs, line.values, strict=True)) for line in seeds]
    epochs = sorted(set.intersection(*map(set, by_epoch)))
    values = [float(np.mean([values[epoch] for values in by_epoch])) for epoch in epochs]
    return seeds[0]._replace(epochs=epochs, values=values, faint=False)

"""The comparison of several trials: comparison.html, .md and .csv."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.common.errors import UserError
from utils.common.folders import atomic_folder
from utils.common.io import read_json
from utils.common.steps import MEASURING, SCORING
from utils.report.bootstrap import DRAWS
from utils.report.curves import STYLES, WIDTH, Line, curves, line_of, panels_of
from utils.report.figures import Picture, variable
from utils.report.groups import COLLAPSED, Group, TrialResult
from utils.report.numbers import METRICS
from utils.report.page import DIRECTIONS, Page
from utils.report.rankings import split_queries
from utils.report.tables import COLUMNS, NOT_APART, SIDES, Comparison, comparison_frame, comparison_markdown
from utils.trial.checks import UNFINISHED, caveat_of, check_made, check_metrics
from utils.trial.dataset_provenance import OWN_FEATURES, WORD_VECTORS
from utils.trial.directory import open_trial
from utils.trial.history import best_of
from utils.trial.names import RETRIEVAL_METRICS
from utils.trial.provenance import read_provenance
from utils.trial.relevance import as_measured
from utils.trial.score_files import load_scores, word_scores_path

COMPARISON = "comparison.html"


def write_comparison(trials: list[Path], out: Path, unfinished: bool = False) -> Path:
    """Write comparison.html, .md and .csv of trials into the folder `out`. Returns the page's path.

    Metrics are those of the data_conf.eval_data split. Trials that differ only in their seeds share a row.

    Args:
        unfinished: whether to include unfinished trials, with a mark.

    Raises UserError where a trial has no metrics or scores, or other data than the first.
    """
    results = [read_result(trial, unfinished=unfinished) for trial in dict.fromkeys(map(Path.resolve, trials))]
    for result in results[1:]:
        require_same_data(results[0], result)
    comparison = Comparison(results)
    groups = comparison.groups
    caveats = [result.caveat.line for group in groups for result in group.results if result.caveat]
    with atomic_folder(out, COMPARISON) as folder:
        page = Page(folder)
        page.render(
            "comparison.html",
            COMPARISON,
            split=results[0].conf.data_conf.eval_data,
            queries={side: results[0].metrics[side]["queries"] for side in DIRECTIONS},
            sides=SIDES,
            columns=COLUMNS,
            comparison=comparison,
            not_apart=NOT_APART,
            draws=DRAWS,
            strokes=[_stroke(i) for i in range(len(groups))],
            collapsed=any(COLLAPSED in result.marks for result in results),
            caveats=caveats,
            curves=[page.picture(picture) for picture in _compared_curves(groups)],
        )
        markdown = "\n".join([comparison_markdown(comparison), *caveats])
        (folder / "comparison.md").write_text(markdown, encoding="utf-8")
        comparison_frame(comparison).to_csv(folder / "comparison.csv", index=False, lineterminator="\n")
    return out / COMPARISON


def read_result(path: Path, overrides: Sequence[str] = (), unfinished: bool = False) -> TrialResult:
    """Read a trial's results, with changes to its configuration. A caveat is printed as a warning.

    Raises UserError where results are missing, and for an unfinished trial unless `unfinished`.
    """
    trial = open_trial(path, list(overrides))
    check_metrics(trial)
    caveat = caveat_of(trial)
    if caveat and caveat.mark == UNFINISHED and not unfinished:
        raise UserError(f"{caveat.line}; resume it, leave it out, or include it with --unfinished")
    measured, split = path / RETRIEVAL_METRICS, trial.conf.data_conf.eval_data
    scores = word_scores_path(path, split)
    check_made(trial, SCORING, MEASURING, reads=[measured])
    conf, history = as_measured(trial).conf, trial.history
    content = read_json(measured, MEASURING)
    try:
        metrics = {
            side: {key: float(content[split][side][key]) for key in (*METRICS, "queries")} for side in DIRECTIONS
        }
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{measured}: lacks metrics of the split {split}; run {MEASURING} again") from None
    check_made(trial, SCORING, reads=[scores])
    queries = split_queries(conf, split, load_scores(scores, best_of(history, conf)["epoch"]))
    if caveat:
        warnings.warn(caveat.line, stacklevel=2)
    return TrialResult(path, conf, metrics, history, read_provenance(path)[SCORING].sources, queries, caveat)


def require_same_data(one: TrialResult, other: TrialResult) -> None:
    """Raise UserError unless two trials were measured on the same clips and captions."""
    splits = [result.conf.data_conf.eval_data for result in (one, other)]
    if splits[0] != splits[1]:
        raise UserError(f"{other.trial}: measured on {splits[1]}, but {one.trial} on {splits[0]}; compare one split")
    for source in one.sources.keys() & other.sources.keys() - {WORD_VECTORS, OWN_FEATURES}:
        if one.sources[source] != other.sources[source]:
            raise UserError(f"{other.trial}: {source} differ from those of {one.trial}; compare trials of one data set")
    if not one.queries.same_items(other.queries):
        raise UserError(f"{other.trial}: scored other clips or captions than {one.trial}; score both again ({SCORING})")
    if not np.array_equal(one.queries.pairs, other.queries.pairs):
        what = f"relevant pairs differ from those of {one.trial}"
        raise UserError(f"{other.trial}: {what}; measure both with one file ({MEASURING})")


def _compared_curves(groups: list[Group]) -> list[Picture]:
    pictures = []
    for title, key, log in panels_of(*(result.history for group in groups for result in group.results)):
        lines = []
        for style, group in enumerate(groups):
            seeds = [line_of(result.history, group.label, key, style, faint=True) for result in group.results]
            lines += [*seeds, _mean_line(seeds)]
        pictures.append(curves(title, lines, log))
    return pictures


def _stroke(style: int) -> dict[str, str]:
    """A line of STYLES in the page's legend."""
    colour, dashes = STYLES[style % len(STYLES)]
    return {"colour": variable(colour), "dashes": " ".join(f"{WIDTH * dash:g}" for dash in dashes)}


def _mean_line(seeds: list[Line]) -> Line:
    """The mean over seeds, of the epochs that all seeds have."""
    by_epoch = [dict(zip(line.epochs, line.values, strict=True)) for line in seeds]
    epochs = sorted(set.intersection(*map(set, by_epoch)))
    values = [float(np.mean([values[epoch] for values in by_epoch])) for epoch in epochs]
    return seeds[0]._replace(epochs=epochs, values=values, faint=False)

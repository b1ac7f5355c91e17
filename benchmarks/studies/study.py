"""Compare variants of the published setting without mistaking chance or selection for progress.

    python main.py --sweep --conf benchmarks/studies/study.yaml data_conf.dataset=DIR ...
    python -m benchmarks.studies.study TRIAL [TRIAL ...] [--evaluate SPLIT]

Trials that differ only in their seeds are one variant; the first trial's variant is the published setting. Variants are
compared on the validation split, each trial at the epoch that its `select_by` chose, with intervals by paired bootstrap
over clips. The variant with the highest mAP (mean of both directions and all seeds) is chosen. This overestimates it on
the validation split, so --evaluate compares it once, at the end, on a split that played no part in the choice.
"""

from pathlib import Path

from benchmarks.harness import arguments
from utils.common.errors import run_command
from utils.report.bootstrap import BOTH, differences
from utils.report.comparison import read_result, require_same_data
from utils.report.groups import Group, group_trials, highest
from utils.report.page import DIRECTIONS
from utils.report.tables import difference_cell, escaped, spread_cell, table_lines
from utils.trial.directory import open_trial
from utils.trial.history import best_of
from utils.trial.retrieval import measure_trial, score_trial

SIDES = DIRECTIONS | {BOTH: "mean of both"}


def groups_on(trials: list[Path], split: str) -> list[Group]:
    """Group trials by their settings, with their results on a split; the first trial's group comes first."""
    results = [read_result(trial, [f"data_conf.eval_data={split}"]) for trial in trials]
    for result in results[1:]:
        require_same_data(results[0], result)
    return sorted(group_trials(results), key=lambda group: results[0] not in group.results)


def score_on(trial: Path, split: str) -> None:
    """Score and measure a trial on a split."""
    opened = open_trial(trial, [f"data_conf.eval_data={split}"])
    score_trial(opened)
    measure_trial(opened)


def name_of(group: Group, first: Group) -> str:
    """Name a variant by the settings that differ from the first variant's, or by its strategy if none do."""
    settings, published = group.results[0].experiment, first.results[0].experiment
    changes = [f"{key.rpartition('.')[2]}={value}" for key, value in settings.items() if published.get(key) != value]
    return escaped(", ".join(changes) or group.strategy)


def variants_table(groups: list[Group], chosen: Group) -> list[str]:
    """A row for each variant: its mAP, and the difference from the first variant's."""
    header = ["validation mAP", "seeds", "epochs", *SIDES.values(), "less the first's"]
    rows = []
    for group in groups:
        epochs = [best_of(result.history, result.conf)["epoch"] for result in group.results]
        difference = "" if group is groups[0] else difference_cell(differences(group.queries, groups[0].queries)[BOTH])
        cells = [spread_cell(group, side, "mAP") for side in SIDES]
        name = name_of(group, groups[0])
        name = f"**{name}**" if group is chosen else name
        rows.append([name, str(len(group.results)), ", ".join(map(str, epochs)), *cells, difference])
    return table_lines(header, rows)


def result_table(published: Group, chosen: Group, split: str) -> list[str]:
    """mAP of the chosen variant and of the published setting on a split that played no part in the choice."""
    by_side = differences(chosen.queries, published.queries)
    rows = [
        [name_of(group, published), *(spread_cell(group, side, "mAP") for side in SIDES)]
        for group in (published, chosen)
    ]
    rows.append(["difference", *(difference_cell(by_side[side]) for side in SIDES)])
    rows.append(["ratio", *(f"{chosen.mean(side, 'mAP') / published.mean(side, 'mAP'):.2f}" for side in SIDES)])
    before = {result.seed: result.metrics for result in published.results}
    if before.keys() == {result.seed for result in chosen.results}:
        better = [
            sum(result.metrics[side]["mAP"] > before[result.seed][side]["mAP"] for result in chosen.results)
            for side in DIRECTIONS
        ]
        rows.append(["seeds in which it is better", *(f"{count} of {len(before)}" for count in better), ""])
    return table_lines([f"{split} mAP", *SIDES.values()], rows)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("trials", type=Path, nargs="+", metavar="TRIAL", help="scored and measured; published first")
    parser.add_argument("--evaluate", metavar="SPLIT", help="score the published and the chosen variant on this split")
    args = parser.parse_args()
    trials = [trial.resolve() for trial in args.trials]
    variants = groups_on(trials, open_trial(trials[0], []).conf.data_conf.val_data)
    chosen = highest(variants)
    lines = variants_table(variants, chosen)
    if args.evaluate and chosen is not variants[0]:
        both = [result.trial for group in (variants[0], chosen) for result in group.results]
        for trial in both:
            score_on(trial, args.evaluate)
        lines += ["", *result_table(*groups_on(both, args.evaluate), args.evaluate)]
    print(*lines, sep="\n")


if __name__ == "__main__":
    run_command(main)

"""A study: variants of the published setting, compared so that neither chance nor choice can pass for progress.

    python main.py --sweep --conf benchmarks/study.yaml data_conf.dataset=DIR ...
    python -m benchmarks.study TRIAL [TRIAL ...]

Trials that differ only in their seeds are a variant; that of the first trial is the published setting. Epoch and
variant are chosen on the validation split, by the mean of both directions' mAP, and there every variant is compared
with the published setting by a paired bootstrap over clips. The evaluation split is looked at once, for the chosen one.
"""

import argparse
from pathlib import Path

from utils.report.bootstrap import BOTH, differences
from utils.report.tables import difference_cell, spread_cell, table_lines

from utils.common.errors import run_command
from utils.report.comparison import read_result, require_same_data
from utils.report.groups import Group, group_trials
from utils.report.page import DIRECTIONS
from utils.trial.directory import trial_conf
from utils.trial.history import best_of

SIDES = DIRECTIONS | {BOTH: "mean of both"}


def groups_on(trials: list[Path], role: str) -> list[Group]:
    """Trials in groups, with what they reach on the split that has a role in `data_conf`; the first trial's first."""
    results = []
    for trial in trials:
        split = getattr(trial_conf(trial, []).data_conf, role)
        results.append(read_result(trial, [f"data_conf.eval_data={split}"]))
        require_same_data(results[0], results[-1])
    return sorted(group_trials(results), key=lambda group: results[0] not in group.results)


def choose(groups: list[Group]) -> Group:
    """The variant with the highest mAP, mean of both directions and of the seeds; the first where some tie."""
    return max(groups, key=lambda group: group.mean(BOTH, "mAP"))


def variants_table(groups: list[Group], chosen: Group) -> list[str]:
    """A row a variant: what it reaches, and how far that is above the first."""
    header = ["validation mAP", "seeds", "epochs", *SIDES.values(), "less the first's"]
    rows = []
    for group in groups:
        epochs = [best_of(result.history, result.conf)["epoch"] for result in group.results]
        apart = "" if group is groups[0] else difference_cell(differences(group.queries, groups[0].queries)[BOTH])
        cells = [spread_cell(group, side, "mAP") for side in SIDES]
        label = f"**{group.label}**" if group is chosen else group.label
        rows.append([label, str(len(group.results)), ", ".join(map(str, epochs)), *cells, apart])
    return table_lines(header, rows)


def result_table(published: Group, chosen: Group) -> list[str]:
    """What the chosen variant reaches on the evaluation split, beside the published setting."""
    apart = differences(chosen.queries, published.queries)
    rows = [[group.label, *(spread_cell(group, side, "mAP") for side in SIDES)] for group in (published, chosen)]
    rows.append(["difference", *(difference_cell(apart[side]) for side in SIDES)])
    rows.append(["ratio", *(f"{chosen.mean(side, 'mAP') / published.mean(side, 'mAP'):.2f}" for side in SIDES)])
    before = {result.seed: result.metrics for result in published.results}
    if before.keys() == {result.seed for result in chosen.results}:
        better = [
            sum(result.metrics[side]["mAP"] > before[result.seed][side]["mAP"] for result in chosen.results)
            for side in DIRECTIONS
        ]
        rows.append(["seeds in which it is better", *(f"{count} of {len(before)}" for count in better), ""])
    return table_lines(["evaluation mAP", *SIDES.values()], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=Path, nargs="+", metavar="TRIAL", help="scored and measured; published first")
    trials = [trial.resolve() for trial in parser.parse_args().trials]
    variants = groups_on(trials, "val_data")
    chosen = choose(variants)
    print("\n".join(variants_table(variants, chosen)))
    if chosen is not variants[0]:
        both = [result.trial for group in (variants[0], chosen) for result in group.results]
        print("", *result_table(*groups_on(both, "eval_data")), sep="\n")


if __name__ == "__main__":
    run_command(main)

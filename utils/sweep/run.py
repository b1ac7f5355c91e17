"""A sweep: train, score and evaluate a trial at every point of the grid, then compare them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from utils.common.counts import counted
from utils.common.errors import UserError, out_of_memory
from utils.common.processes import leave
from utils.common.steps import SWEEPING
from utils.sweep.points import hold, read_point, read_points
from utils.sweep.ray_tune import run_on_ray
from utils.trial.directory import training_lock
from utils.trial.retrieval import measure_trial, score_trial
from utils.trial.training_data import TrainingData, load_training_data
from utils.trial.trial import Trial

COMPARISON = "comparison"

Train = Callable[[Trial, TrainingData], None]  # main.train


def run_sweep(sweep: Path, train: Train) -> None:
    """Run every point that is not finished, then compare all finished trials.

    Args:
        sweep: the directory of `create_sweep` or `resume_sweep`.
        train: trains a trial on its data.

    Raises UserError with one line for each point that failed, after the comparison.
    """
    points = read_points(sweep)
    waiting = [index for index, point in enumerate(points) if not point.finished]
    print(f"{sweep}: {counted(len(points), 'trial')}, {len(points) - len(waiting)} of them finished", flush=True)
    resume = f"python {SWEEPING} --resume {sweep}"
    try:
        failures = run_on_ray(sweep, points, waiting, partial(run_point, sweep, train)) if waiting else {}
    except KeyboardInterrupt:
        print(f"stopped; to resume: {resume}")
        leave(130)  # not sys.exit: if Ray is interrupted during its start, it aborts at the interpreter's exit
    trials = [point.trial for point in read_points(sweep) if point.finished]
    if trials:
        from utils.report.comparison import write_comparison  # imports matplotlib, which training does not need

        write_comparison(trials, sweep / COMPARISON)
        print(f"{counted(len(trials), 'trial')} -> {sweep / COMPARISON}")
    if failures:
        lines = [f"{points[index]}: {' '.join(message.split())}" for index, message in sorted(failures.items())]
        raise UserError("\n".join([*lines, f"{counted(len(failures), 'trial')} failed; to try again: {resume}"]))


def run_point(sweep: Path, train: Train, index: int) -> str | None:
    """Train, score and evaluate the trial of one point, in a worker. Returns the error that the user has to correct."""
    hold(sweep)
    point = read_point(sweep, index)
    torch.set_num_threads(point.conf.ray_conf.trial_resources.cpu)
    try:
        data = load_training_data(point.conf)
        trial = point.open_trial(data.files)
        with training_lock(trial.path):
            train(trial, data)
        score_trial(trial)
        measure_trial(trial)
    except (UserError, MemoryError, RuntimeError) as error:
        if isinstance(error, UserError) or out_of_memory(error):  # another attempt would fail as well
            return str(error) or "there is not enough memory"
        raise
    point.finish()
    return None

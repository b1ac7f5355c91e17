"""A sweep: an ordinary trial at every point of sweep_conf's grid, side by side on Ray Tune."""

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
    """Train, score and measure a trial at every point that is not finished, then compare all trials.

    Args:
        sweep: the directory of `create_sweep` or `resume_sweep`.
        train: trains a trial on its data.

    Raises UserError with a line for each point that failed, after the others are done and compared.
    """
    points = read_points(sweep)
    waiting = [i for i, point in enumerate(points) if not point.finished]
    print(f"{sweep}: {counted(len(points), 'trial')}, {len(points) - len(waiting)} of them finished", flush=True)
    again = f"python {SWEEPING} --resume {sweep}"
    try:
        failures = run_on_ray(sweep, points, waiting, partial(run_point, sweep, train)) if waiting else {}
    except KeyboardInterrupt:
        print(f"stopped; to go on: {again}")
        leave(130)  # not by sys.exit: interrupted while it starts, Ray aborts at the interpreter's end
    trials = [point.trial for point in read_points(sweep) if point.finished]
    if trials:
        from utils.report.comparison import write_comparison  # matplotlib: training does without

        write_comparison(trials, sweep / COMPARISON)
        print(f"{counted(len(trials), 'trial')} -> {sweep / COMPARISON}")
    if failures:
        lines = [f"{points[i]}: {' '.join(message.split())}" for i, message in sorted(failures.items())]
        raise UserError("\n".join([*lines, f"{counted(len(failures), 'trial')} failed; to try again: {again}"]))


def run_point(sweep: Path, train: Train, index: int) -> str | None:
    """What a worker does: train, score and measure one point's trial. Returns what the user has to mend."""
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
        if isinstance(error, UserError) or out_of_memory(error):  # trying again would not help
            return str(error) or "there is not enough memory"
        raise
    point.finish()
    return None

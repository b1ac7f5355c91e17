"""A sweep: train, score and evaluate a trial at every point of the grid in parallel on Ray Tune, then compare them."""

import logging
import os
import signal
import textwrap
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from utils.common.counts import counted
from utils.common.errors import UserError, out_of_memory
from utils.common.processes import leave
from utils.common.steps import SWEEPING
from utils.conf.schema import RayConf
from utils.sweep.points import Point, hold, read_points
from utils.trial.directory import training_lock
from utils.trial.retrieval import measure_trial, score_trial
from utils.trial.start import TrainingData, load_training_data
from utils.trial.trial import Trial

COMPARISON = "comparison"
MAX_FAILURES = 3  # restarts of a trial whose process died, each from its last checkpoint

Train = Callable[[Trial, TrainingData], None]  # main.train


def run_sweep(sweep: Path, train: Train) -> None:
    """Run every point that is not finished, then compare all finished trials.

    Raises UserError with one line for each point that failed, after the comparison.
    """
    points = read_points(sweep)
    waiting = [index for index, point in enumerate(points) if not point.finished]
    print(f"{sweep}: {counted(len(points), 'trial')}, {len(points) - len(waiting)} of them finished", flush=True)
    resume = f"python {SWEEPING} --resume {sweep}"
    try:
        failures = run_on_ray(sweep, points, waiting, train) if waiting else {}
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
    point = read_points(sweep)[index]
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


# --- Ray Tune -------------------------------------------------------------------------------------------


def run_on_ray(sweep: Path, points: list[Point], waiting: list[int], train: Train) -> dict[int, str]:
    """Run the point of each waiting index. Returns {index: message} of the points that failed."""
    import ray
    from ray import tune

    settings, repository = points[0].conf.ray_conf, Path.cwd()

    def trainable(config: dict[str, int]) -> dict[str, str | None]:
        os.chdir(repository)  # Ray starts workers in another directory
        return {"failure": run_point(sweep, train, config["point"])}

    try:
        _start_ray(settings)
        results = tune.Tuner(
            tune.with_resources(trainable, settings.trial_resources.model_dump()),
            param_space={"point": tune.grid_search(waiting)},
            run_config=tune.RunConfig(
                name=time.strftime("%Y-%m-%d_%H-%M-%S"),
                storage_path=str(sweep.resolve() / "ray"),
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                callbacks=[_progress(points, len(points) - len(waiting))],
                verbose=0,
            ),
        ).fit()
    finally:
        ray.shutdown()
    failures = {}
    for result in results:
        if result.error:
            file = Path(result.path) / "error.txt"
            failures[result.config["point"]] = f"died {MAX_FAILURES + 1} times; {file}: {_last_line(file)}"
        elif result.metrics["failure"]:
            failures[result.config["point"]] = result.metrics["failure"]
    return failures


def _start_ray(settings: RayConf) -> None:
    """Start Ray on this machine or join a cluster. From then on SIGTERM stops the sweep as ctrl-C does."""
    import ray

    init, trial = settings.init_args, settings.trial_resources
    warnings.filterwarnings("ignore", "Tip:", FutureWarning)  # about gpu: 0 in later versions of Ray
    try:
        ray.init(
            address=init.address or "local",
            num_cpus=init.num_cpus,
            num_gpus=init.num_gpus,
            include_dashboard=False,
            log_to_driver=False,  # train.log has the output
            logging_level=logging.ERROR,
        )
    except ConnectionError as error:
        reason = str(error) or "it does not answer"
        raise UserError(f"ray_conf.init_args.address: no Ray cluster at {init.address!r} ({reason})") from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # _progress reports failures
    resources = ray.cluster_resources()
    for name, needed in trial.model_dump().items():
        available = resources.get(name.upper(), 0)
        if needed > available:  # Ray would wait forever
            raise UserError(f"ray_conf.trial_resources.{name}: is {needed:g}, but Ray has {available:g} here")
    if resources.get("GPU") and not trial.gpu:
        print("ray_conf.trial_resources.gpu is 0: the trials train on the CPU, although there is a GPU")


def _progress(points: list[Point], finished: int):
    """Make a Tune callback that prints one line when a trial starts, dies, fails or is finished."""
    from ray.tune.progress_reporter import TrialProgressCallback

    class Progress(TrialProgressCallback):
        def report(self, event: str, trial, detail: str = "") -> None:
            print(f"{event:8}  {points[trial.config['point']]}{detail}", flush=True)

        def on_trial_start(self, trial, **info) -> None:
            self.report("started", trial)

        def on_trial_result(self, **info) -> None:
            pass

        def on_trial_recover(self, trial, **info) -> None:
            self.report("died", trial, f"; resumes from its checkpoint ({_last_line(Path(trial.error_file))})")

        def on_trial_error(self, trial, **info) -> None:
            self.report("failed", trial)

        def on_trial_complete(self, trial, **info) -> None:
            nonlocal finished
            if trial.last_result["failure"]:
                return self.report("failed", trial)
            finished += 1
            self.report("finished", trial, f" ({finished} of {len(points)})")

    return Progress()


def _last_line(error_file: Path) -> str:
    """The last line of a worker's traceback, shortened."""
    line = error_file.read_text(encoding="utf-8").strip().splitlines()[-1]
    return textwrap.shorten(line, 120, placeholder=" ...")

"""Ray Tune, which runs a sweep's points side by side: started, followed on the terminal, and stopped."""

import logging
import os
import signal
import textwrap
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from utils.common.errors import UserError
from utils.conf.schema import RayConf
from utils.sweep.points import Point

MAX_FAILURES = 3  # of one trial; it goes on from its checkpoint each time

RunPoint = Callable[[int], str | None]  # trains, scores and measures a point; what the user has to mend, if anything


def run_on_ray(sweep: Path, points: list[Point], waiting: list[int], run_point: RunPoint) -> dict[int, str]:
    """Run the waiting points on Ray Tune, each by `run_point` of its index; {index: message} of those that failed."""
    import ray
    from ray import tune

    settings, repository = points[0].conf.ray_conf, Path.cwd()

    def trainable(config: dict[str, int]) -> dict[str, str | None]:
        os.chdir(repository)  # Ray's workers start elsewhere
        return {"failure": run_point(config["point"])}

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
            error = Path(result.path) / "error.txt"
            failures[result.config["point"]] = f"died {MAX_FAILURES + 1} times; {error}: {_cause(error)}"
        elif result.metrics["failure"]:
            failures[result.config["point"]] = result.metrics["failure"]
    return failures


def _start_ray(settings: RayConf) -> None:
    """Start Ray on this machine, or join a cluster; from here on SIGTERM ends a sweep as ctrl-C does."""
    import ray

    init, trial = settings.init_args, settings.trial_resources
    warnings.filterwarnings("ignore", "Tip:", FutureWarning)  # of what gpu: 0 will mean to later versions of Ray
    try:
        ray.init(
            address=init.address or "local",
            num_cpus=init.num_cpus,
            num_gpus=init.num_gpus,
            include_dashboard=False,
            log_to_driver=False,  # train.log has it
            logging_level=logging.ERROR,
        )
    except ConnectionError as error:
        why = str(error) or "it does not answer"
        raise UserError(f"ray_conf.init_args.address: no Ray cluster at {init.address!r} ({why})") from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # _progress reports what failed, in a line
    there = ray.cluster_resources()
    for name, needed, found in (("cpu", trial.cpu, there.get("CPU", 0)), ("gpu", trial.gpu, there.get("GPU", 0))):
        if needed > found:
            raise UserError(f"ray_conf.trial_resources.{name}: is {needed:g}, but Ray has {found:g} here")
    if there.get("GPU") and not trial.gpu:
        print("ray_conf.trial_resources.gpu is 0: the trials train on the CPU, although there is a GPU")


def _progress(points: list[Point], finished: int):
    """A Tune callback that prints a line where a trial begins, begins again or ends, in the place of Tune's own."""
    from ray.tune.progress_reporter import TrialProgressCallback

    class Progress(TrialProgressCallback):
        def report(self, what: str, trial, why: str = "") -> None:
            print(f"{what:8}  {points[trial.config['point']]}{why}", flush=True)

        def on_trial_start(self, trial, **info) -> None:
            self.report("started", trial)

        def on_trial_result(self, **info) -> None:
            pass

        def on_trial_recover(self, trial, **info) -> None:
            self.report("died", trial, f"; goes on from its checkpoint ({_cause(Path(trial.error_file))})")

        def on_trial_error(self, trial, **info) -> None:
            self.report("failed", trial)

        def on_trial_complete(self, trial, **info) -> None:
            nonlocal finished
            if trial.last_result["failure"]:
                return self.report("failed", trial)
            finished += 1
            self.report("finished", trial, f" ({finished} of {len(points)})")

    return Progress()


def _cause(error_file: Path) -> str:
    """The end of a worker's traceback, shortened."""
    line = error_file.read_text(encoding="utf-8").strip().splitlines()[-1]
    return textwrap.shorten(line, 120, placeholder=" ...")

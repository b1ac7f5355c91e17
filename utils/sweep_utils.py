"""A sweep: an ordinary trial at every point of sweep_conf's grid, side by side on Ray Tune.

A sweep directory stands among the trials and holds conf.yaml, what a killed sweep goes on by (points/), Ray's own files
and, at the end, the comparison of the trials. Workers write the trials and points/ themselves, so that whenever a
process dies, what is on disk is whole and says what is left to do. On a cluster all machines must see the repository,
the data and the trials under the same paths.
"""

import logging
import os
import signal
import textwrap
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from utils.conf_utils import Conf, RayConf, grid_confs, grid_points, save_conf
from utils.io_utils import UserError, read_json, write_json
from utils.retrieval_utils import measure_trial, score_trial
from utils.tensorboard_utils import require_tensorboard
from utils.trial_utils import CONF, LAST, create_directory, create_trial, require_same_run, trial_conf

POINTS, LOCK, COMPARISON = "points", "lock", "comparison"
MAX_FAILURES = 3  # of one trial; it goes on from its checkpoint each time
OTHERS_END_IN = 20.0  # s; so long may the workers of a killed sweep live on
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no word to Ray's makers
    "RAY_NUM_REDIS_GET_RETRIES": "2",  # tries to reach a cluster, each of half a minute
    "RAY_AIR_NEW_OUTPUT": "0",  # see _progress
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # metrics.jsonl and log_tensorboard are enough
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ctrl-C ends a sweep at once: all that it needs to go on is on disk
}

RunTrial = Callable[[Conf, Callable[[], Path]], None]  # main.run_trial


class Point:
    """A point of the grid, and its file in the sweep directory: which trial it is, and whether that is finished.

    Args:
        sweep: the sweep directory.
        index: the place in the grid.
        settings: {dotted key: value}.
        conf: the configuration there.
    """

    def __init__(self, sweep: Path, index: int, settings: dict[str, Any], conf: Conf):
        self.sweep, self.settings, self.conf = sweep, settings, conf
        self.path = sweep / POINTS / f"{index:03d}.json"
        state = read_json(self.path, "main.py --sweep") if self.path.exists() else {"trial": None, "finished": False}
        self.trial: Path | None = None
        if state["trial"] and (trial := Path(os.path.normpath(sweep / state["trial"]))).is_dir():  # else it was removed
            self.trial = trial
        self.finished: bool = self.trial is not None and state["finished"]

    def __str__(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.settings.items())

    def open_trial(self) -> Path:
        """The point's trial directory: the one to go on with, or a new one, kept in the point's file at once."""
        if self.trial is None:
            self._save(create_trial(self.conf), finished=False)
        elif (self.trial / LAST).exists():
            require_same_run(self.trial, self.conf)
        return self.trial

    def finish(self) -> None:
        """Keep that the trial is trained, scored and measured."""
        self._save(self.trial, finished=True)

    def _save(self, trial: Path, finished: bool) -> None:
        self.trial, self.finished = trial, finished
        place = os.path.relpath(trial, self.sweep)  # both can be moved together
        write_json(self.path, {"settings": self.settings, "trial": place, "finished": finished})


def read_points(sweep: Path) -> list[Point]:
    """The points of a sweep's grid, in its order."""
    conf = trial_conf(sweep, [])
    confs = grid_confs(conf, str(sweep / CONF))
    return [Point(sweep, i, *both) for i, both in enumerate(zip(grid_points(conf), confs, strict=True))]


# --- beginning, and going on -----------------------------------------------------------------------------


def create_sweep(conf: Conf) -> Path:
    """Make a new sweep directory for a configuration's grid, held by this process."""
    if not conf.sweep_conf:
        raise UserError("sweep_conf: has no grid; give it `section.key: [values]`")
    _require_packages(conf)
    sweep = create_directory(conf, "sweep")
    (sweep / POINTS).mkdir()
    hold(sweep, alone=True)
    return sweep


def resume_sweep(sweep: Path, overrides: list[str]) -> Conf:
    """The configuration to go on with a sweep by, kept in its directory; settings of ray_conf may change.

    The directory is held by this process from here on.
    """
    if not (sweep / POINTS).is_dir():
        raise UserError(f"{sweep}: not a sweep directory (it has no {POINTS})")
    before, after = trial_conf(sweep, []), trial_conf(sweep, overrides)
    if before.model_copy(update={"ray_conf": after.ray_conf}) != after:
        raise UserError(f"{sweep}: a sweep goes on by its own settings; only those of ray_conf may change")
    _require_packages(after)
    hold(sweep, alone=True)
    save_conf(after, sweep / CONF)
    return after


def _require_packages(conf: Conf) -> None:
    """Raise UserError unless Ray Tune, and TensorBoard where it is asked for, are installed."""
    os.environ |= RAY_ENVIRONMENT | os.environ  # before Ray is imported
    try:
        import ray.tune  # noqa: F401
    except ImportError as error:
        raise UserError(f"--sweep needs Ray Tune ({error}): pip install -r requirements-sweep.txt") from None
    if any(point.log_tensorboard for point in grid_confs(conf, CONF)):
        require_tensorboard()


# --- the run ---------------------------------------------------------------------------------------------


def run_sweep(sweep: Path, run_trial: RunTrial) -> None:
    """Train, score and measure a trial at every point that is not finished, then compare all trials.

    Args:
        sweep: the directory of `create_sweep` or `resume_sweep`.
        run_trial: trains by a configuration, in the directory that its second argument gives.

    Raises UserError with a line for each point that failed, after the others are done and compared.
    """
    points = read_points(sweep)
    waiting = [i for i, point in enumerate(points) if not point.finished]
    print(f"{sweep}: {len(points)} trials, {len(points) - len(waiting)} of them finished", flush=True)
    again = f"python main.py --sweep --resume {sweep}"
    try:
        failures = _run_on_ray(sweep, points, waiting, run_trial) if waiting else {}
    except KeyboardInterrupt:
        print(f"stopped; to go on: {again}")
        raise
    trials = [point.trial for point in read_points(sweep) if point.finished]
    if trials:
        from utils.report_utils import write_comparison

        write_comparison(trials, sweep / COMPARISON)
        print(f"{len(trials)} trials -> {sweep / COMPARISON}")
    if failures:
        lines = [f"{points[i]}: {' '.join(message.split())}" for i, message in sorted(failures.items())]
        raise UserError("\n".join([*lines, f"{len(failures)} trials failed; to try again: {again}"]))


def run_point(sweep: Path, index: int, run_trial: RunTrial) -> str | None:
    """What a worker does: train, score and measure one point's trial. Returns what the user has to mend."""
    hold(sweep)
    point = read_points(sweep)[index]
    torch.set_num_threads(point.conf.ray_conf.trial_resources.cpu)
    try:
        run_trial(point.conf, point.open_trial)
        score_trial(point.trial, point.conf)
        measure_trial(point.trial, point.conf)
    except UserError as error:  # trying again would not help
        return str(error)
    point.finish()
    return None


def hold(sweep: Path, alone: bool = False) -> None:
    """Take part in a sweep until this process ends, by a shared lock.

    Whoever begins or goes on with it must be `alone` at first: two writers would spoil a trial.
    """
    import fcntl  # not on Windows

    lock = os.open(sweep / LOCK, os.O_RDWR | os.O_CREAT)  # left open: closing would let go of it
    patience = time.monotonic() + OTHERS_END_IN
    while alone:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > patience:
                raise UserError(f"{sweep}: the sweep is running; end its processes before going on with it") from None
            time.sleep(0.1)
    fcntl.flock(lock, fcntl.LOCK_SH)


# --- Ray -------------------------------------------------------------------------------------------------


def _run_on_ray(sweep: Path, points: list[Point], waiting: list[int], run_trial: RunTrial) -> dict[int, str]:
    """Run the waiting points on Ray Tune; returns {index: message} of those that failed."""
    import ray
    from ray import tune

    settings, repository = points[0].conf.ray_conf, Path.cwd()

    def trainable(config: dict[str, int]) -> dict[str, str | None]:
        os.chdir(repository)  # Ray's workers start elsewhere
        return {"failure": run_point(sweep, config["point"], run_trial)}

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
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # _progress says what failed, in a line
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
        def say(self, what: str, trial, why: str = "") -> None:
            print(f"{what:8}  {points[trial.config['point']]}{why}", flush=True)

        def on_trial_start(self, trial, **info) -> None:
            self.say("started", trial)

        def on_trial_result(self, **info) -> None:
            pass

        def on_trial_recover(self, trial, **info) -> None:
            self.say("died", trial, f"; goes on from its checkpoint ({_cause(Path(trial.error_file))})")

        def on_trial_error(self, trial, **info) -> None:
            self.say("failed", trial)

        def on_trial_complete(self, trial, **info) -> None:
            nonlocal finished
            if trial.last_result["failure"]:
                return self.say("failed", trial)
            finished += 1
            self.say("finished", trial, f" ({finished} of {len(points)})")

    return Progress()


def _cause(error_file: Path) -> str:
    """The end of a worker's traceback, shortened."""
    line = error_file.read_text(encoding="utf-8").strip().splitlines()[-1]
    return textwrap.shorten(line, 120, placeholder=" ...")

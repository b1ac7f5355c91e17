"""A sweep's directory, and the points of its grid: which trial each of them is, and what is left to do.

A sweep directory stands among the trials and holds conf.yaml, what a killed sweep goes on by (points/), Ray's own files
and, at the end, the comparison of the trials. Workers write the trials and points/ themselves, so that whenever a
process dies, what is on disk is whole and shows what is left to do. On a cluster all machines must see the repository,
the data and the trials under the same paths.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

from utils.common.errors import UserError
from utils.common.io import read_json, write_json
from utils.common.steps import SWEEPING
from utils.conf.grid import conf_at, grid_confs, grid_points
from utils.conf.load import DEFAULT_CONF, load_conf, save_conf
from utils.conf.schema import Conf
from utils.trial.checks import require_same_run
from utils.trial.directory import create_directory, create_trial, kept_conf, require_last
from utils.trial.names import CONF, POINTS
from utils.trial.relevance import require_pairs
from utils.trial.tensorboard import require_tensorboard
from utils.trial.trial import Trial

LOCK = "lock"
OTHERS_END_IN = 20.0  # s; so long may the workers of a killed sweep live on
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no word to Ray's makers
    "RAY_NUM_REDIS_GET_RETRIES": "2",  # tries to reach a cluster, each of half a minute
    "RAY_AIR_NEW_OUTPUT": "0",  # see utils/sweep/ray_tune.py
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # metrics.jsonl and log_tensorboard are enough
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ctrl-C ends a sweep at once: all that it needs to go on is on disk
}


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
        state = read_json(self.path, SWEEPING) if self.path.exists() else {"trial": None, "finished": False}
        self.trial: Path | None = None
        if state["trial"] and (trial := Path(os.path.normpath(sweep / state["trial"]))).is_dir():  # else it was removed
            self.trial = trial
        self.finished: bool = self.trial is not None and state["finished"]

    def __str__(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.settings.items())

    def open_trial(self, data: dict[str, str]) -> Trial:
        """The point's trial: the one to go on with, or a new one on these files (`data_digests`).

        It is kept in the point's file at once.
        """
        if self.trial is None:
            self._save(create_trial(self.conf, data), finished=False)
        else:
            require_same_run(Trial(self.trial, self.conf))
            require_last(self.trial)
        return Trial(self.trial, self.conf)

    def finish(self) -> None:
        """Keep that the trial is trained, scored and measured."""
        self._save(self.trial, finished=True)

    def _save(self, trial: Path, finished: bool) -> None:
        self.trial, self.finished = trial, finished
        place = os.path.relpath(trial, self.sweep)  # both can be moved together
        write_json(self.path, {"settings": self.settings, "trial": place, "finished": finished})


def read_points(sweep: Path) -> list[Point]:
    """The points of a sweep's grid, in its order."""
    conf = kept_conf(sweep, [])
    confs = grid_confs(conf)
    return [Point(sweep, i, *both) for i, both in enumerate(zip(grid_points(conf), confs, strict=True))]


def read_point(sweep: Path, index: int) -> Point:
    """One of the `read_points`; the others are not checked anew."""
    conf = kept_conf(sweep, [])
    settings = grid_points(conf)[index]
    return Point(sweep, index, settings, conf_at(conf, settings))


# --- beginning, and going on -----------------------------------------------------------------------------


def open_sweep(args: argparse.Namespace) -> Path:
    """The sweep directory that parsed arguments mean, held by this process: a new one, or the one to go on with."""
    if args.resume:
        return resume_sweep(args.resume, args.overrides)
    return create_sweep(load_conf(args.conf or DEFAULT_CONF, args.overrides))


def create_sweep(conf: Conf) -> Path:
    """Make a new sweep directory for a configuration's grid, checked and held by this process."""
    if not conf.sweep_conf:
        raise UserError("sweep_conf: has no grid; give it `section.key: [values]`")
    grid_confs(conf)
    require_pairs(conf)
    _require_packages(conf)
    sweep = create_directory(conf, "sweep")
    (sweep / POINTS).mkdir()
    save_conf(conf, sweep / CONF)
    hold(sweep, alone=True)
    return sweep


def resume_sweep(sweep: Path, overrides: list[str]) -> Path:
    """Go on with a sweep by its own configuration; settings of ray_conf may change, and are kept in its directory.

    The directory is held by this process from here on.
    """
    if not (sweep / POINTS).is_dir():
        raise UserError(f"{sweep}: not a sweep directory (it has no {POINTS})")
    before, after = kept_conf(sweep, []), kept_conf(sweep, overrides)
    if before.model_copy(update={"ray_conf": after.ray_conf}) != after:
        raise UserError(f"{sweep}: a sweep goes on by its own settings; only those of ray_conf may change")
    _require_packages(after)
    hold(sweep, alone=True)
    save_conf(after, sweep / CONF)
    return sweep


def _require_packages(conf: Conf) -> None:
    """Raise UserError unless Ray Tune, and TensorBoard where it is asked for, are installed."""
    os.environ |= RAY_ENVIRONMENT | os.environ  # before Ray is imported
    try:
        import ray.tune  # noqa: F401
    except ImportError as error:
        raise UserError(f"--sweep needs Ray Tune ({error}): pip install -r requirements-sweep.txt") from None
    if conf.log_tensorboard:
        require_tensorboard()


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

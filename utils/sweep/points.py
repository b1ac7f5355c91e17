"""The directory of a sweep, and the points of its grid: which trial belongs to each, and whether it is finished.

A sweep directory stands beside the trials. It holds conf.yaml, a file for each point (points/), Ray's files and, at the
end, the comparison of the trials. The workers write the trials and points/, so a killed sweep can always be resumed.
"""

import fcntl
import os
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from utils.common.errors import UserError
from utils.common.io import read_json, write_json
from utils.common.steps import SWEEPING
from utils.conf.grid import conf_at, grid_confs, grid_points
from utils.conf.load import save_conf
from utils.conf.schema import Conf
from utils.trial.checks import require_same_run
from utils.trial.directory import create_directory, create_trial, kept_conf, require_last
from utils.trial.names import CONF, POINTS
from utils.trial.record import require_tensorboard
from utils.trial.relevance import require_pairs
from utils.trial.trial import Trial

LOCK = "lock"
WORKERS_END_IN = 20.0  # s that the workers of a killed sweep may still run
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # sends no statistics to Ray's makers
    "RAY_NUM_REDIS_GET_RETRIES": "2",  # attempts to reach a cluster, half a minute each
    "RAY_AIR_NEW_OUTPUT": "0",  # utils/sweep/run.py prints the progress
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # metrics.jsonl and log_tensorboard are enough
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ctrl-C stops at once: the directory has all that a resume needs
}


class Point:
    """A point of a grid: {dotted key: value} over the configuration `base`; and its trial, if that was begun."""

    def __init__(self, sweep: Path, index: int, settings: dict[str, Any], base: Conf):
        self.sweep, self.settings, self.base = sweep, settings, base
        self.path = sweep / POINTS / f"{index:03d}.json"
        self.trial: Path | None = None
        self.finished = False
        if self.path.exists():
            state = read_json(self.path, SWEEPING)
            trial = Path(os.path.normpath(sweep / state["trial"]))
            if trial.is_dir():  # a user who removes a trial wants it trained again
                self.trial, self.finished = trial, state["finished"]

    def __str__(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.settings.items())

    @cached_property
    def conf(self) -> Conf:
        return conf_at(self.base, self.settings)

    def open_trial(self, data: dict[str, str]) -> Trial:
        """Return the trial to resume, or a new one on this data (`data_digests`), recorded at once."""
        if self.trial is None:
            self.trial = create_trial(self.conf, data)
            self._save()
        else:
            require_same_run(Trial(self.trial, self.conf))
            require_last(self.trial)
        return Trial(self.trial, self.conf)

    def finish(self) -> None:
        """Record that the trial is trained, scored and evaluated."""
        self.finished = True
        self._save()

    def _save(self) -> None:
        trial = os.path.relpath(self.trial, self.sweep)  # so that both can be moved together
        write_json(self.path, {"settings": self.settings, "trial": trial, "finished": self.finished})


def read_points(sweep: Path) -> list[Point]:
    """Read all points of a sweep, in the order of its grid, which `create_sweep` or `resume_sweep` has checked."""
    conf = kept_conf(sweep, [])
    return [Point(sweep, index, settings, conf) for index, settings in enumerate(grid_points(conf))]


def create_sweep(conf: Conf) -> Path:
    """Check a configuration's grid and create a sweep directory for it, locked by this process."""
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
    """Lock a sweep directory to resume it by its saved configuration, of which only ray_conf may change."""
    if not (sweep / POINTS).is_dir():
        raise UserError(f"{sweep}: not a sweep directory (it has no {POINTS})")
    before, after = kept_conf(sweep, []), kept_conf(sweep, overrides)
    if before.model_copy(update={"ray_conf": after.ray_conf}) != after:
        raise UserError(f"{sweep}: a sweep resumes with its saved settings; change only those of ray_conf")
    grid_confs(after)
    _require_packages(after)
    hold(sweep, alone=True)
    save_conf(after, sweep / CONF)
    return sweep


def _require_packages(conf: Conf) -> None:
    os.environ |= RAY_ENVIRONMENT | os.environ  # Ray reads them when it is imported
    try:
        import ray.tune  # noqa: F401
    except ImportError as error:
        raise UserError(f"--sweep needs Ray Tune ({error}): pip install -r requirements-sweep.txt") from None
    if conf.log_tensorboard:
        require_tensorboard()


def hold(sweep: Path, alone: bool = False) -> None:
    """Hold a shared lock on a sweep until this process ends.

    `alone`: first wait until no other process holds it, because two sweeps would spoil each other's trials. Raises
    UserError if one still does after `WORKERS_END_IN`.
    """
    lock = os.open(sweep / LOCK, os.O_RDWR | os.O_CREAT)  # stays open: closing it would release the lock
    deadline = time.monotonic() + WORKERS_END_IN
    while alone:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise UserError(f"{sweep}: the sweep is running; end its processes before you resume it") from None
            time.sleep(0.1)
    fcntl.flock(lock, fcntl.LOCK_SH)

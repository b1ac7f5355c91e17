"""Trial directories: created, found and resumed."""

import argparse
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from utils.common.errors import UserError
from utils.common.lock import held
from utils.common.processes import rank
from utils.common.steps import TRAINING
from utils.conf.command import DEFAULT_CONF, conf_unless, trial_args
from utils.conf.load import load_conf, save_conf
from utils.conf.schema import Conf, result_settings, role_of
from utils.trial.checks import require_same_run, warn_of
from utils.trial.identity import begin, diverged, training_of
from utils.trial.names import BEST, CONF, LAST, LOCK, METRICS
from utils.trial.provenance import read_provenance
from utils.trial.start import start_sources
from utils.trial.trial import Trial


def create_trial(conf: Conf, data: dict[str, str]) -> Path:
    """Create a trial directory, named by time, strategy and seed, for training on the files of `data_digests`."""
    sources = start_sources(conf)
    trial = create_directory(conf, f"{conf.objective}_seed{conf.param_conf.seed}")
    begin(trial, conf, data, sources)
    save_conf(conf, trial / CONF)  # from here on it can be resumed
    return trial


def create_directory(conf: Conf, name: str) -> Path:
    """Create a directory in the trial series, named by time and `name`."""
    series = Path(conf.trial_base) / conf.trial_series
    directory = series / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{name}"
    series.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            directory.mkdir()
            return directory
        except FileExistsError:  # another run in the same second
            directory = directory.with_name(directory.name + "+")


@contextmanager
def training_lock(trial: Path) -> Iterator[None]:
    """Refuse to train a trial that another process is training."""
    complaint = f"{trial}: another process is training it; wait for that, or end it"
    with held(trial / LOCK, complaint) if rank() == 0 else nullcontext():
        yield


def newest_trial(conf: Conf, overrides: list[str]) -> Path:
    """The newest trial of a series that has a checkpoint and was run with the command line's settings."""
    series = Path(conf.trial_base) / conf.trial_series
    trials = [path.parent for path in series.glob(f"*/{BEST}") if (path.parent / CONF).is_file()]
    if not trials:
        advice = f"run {TRAINING} first, or choose another with --conf or --trial"
        raise UserError(f"{series}: no trained trial yet; {advice}")
    trials.sort(key=lambda trial: (trial / CONF).stat().st_mtime_ns, reverse=True)
    differences = []
    for trial in trials if overrides else []:
        with suppress(UserError):  # such as a trial of an earlier version
            training_of(trial)
            difference = _difference(trial, kept_conf(trial, overrides))
            if difference is None:
                return trial
            differences.append(difference)
    if differences:
        raise UserError(
            f"{series}: no trained trial has these settings; the newest, {differences[0]}; run {TRAINING} with them, "
            "leave them out, or name a trial with --trial"
        )
    return trials[0]


def kept_conf(directory: Path, overrides: list[str]) -> Conf:
    """The configuration of a trial's or sweep's directory, with the command line's changes."""
    if not (directory / CONF).is_file():
        raise UserError(f"{directory}: not a trial directory (it has no {CONF})")
    return load_conf(directory / CONF, overrides)


def open_trial(path: Path, overrides: list[str]) -> Trial:
    """A trial with its saved configuration and the command line's changes; UserError where it was not run with them."""
    training_of(path)
    trial = Trial(path, kept_conf(path, overrides))
    require_same_run(trial)
    return trial


def _difference(trial: Path, conf: Conf) -> str | None:
    """The first setting of a configuration that a trial was run without, in words; None where there is none.

    Settings that may change after training do not count.
    """
    before, after = result_settings(kept_conf(trial, [])), result_settings(conf)
    for key in [*before, *after]:
        if before.get(key) != after.get(key) and not role_of(key).may_change_afterwards:
            return f"{trial} was run with {key} {before.get(key)!r}, not {after.get(key)!r}"
    return None


def trial_from_command(description: str) -> Trial:
    """The trial that a postprocessing script's command line names: by --trial, or the configuration's newest."""
    return trial_of(trial_args(description))


def trial_of(args: argparse.Namespace) -> Trial:
    """The trial that parsed arguments name."""
    wanted = conf_unless(args, "trial")
    path = args.trial or newest_trial(wanted, args.overrides)
    training_of(path)
    conf = kept_conf(path, args.overrides) if wanted is None and args.overrides else wanted
    difference = _difference(path, conf) if conf else None
    if difference and args.trial:
        raise UserError(f"{difference}; leave the setting out, or name another trial")
    if difference:
        source = args.conf or DEFAULT_CONF
        warnings.warn(f"the newest trial, {difference} as {source} has; choose another with --trial", stacklevel=2)
    trial = open_trial(path, args.overrides)
    warn_of(trial)
    return trial


def resume_trial(path: Path, overrides: list[str]) -> Trial:
    """A trial to resume; changes that would mix two experiments are refused."""
    trial = open_trial(path, overrides)
    require_last(path)
    if line := diverged(path):
        warnings.warn(line, stacklevel=2)
    return trial


def require_last(trial: Path) -> None:
    """Raise UserError where a trial has epochs, but not the checkpoint to resume from."""
    trained = any((trial / name).exists() for name in (BEST, METRICS)) or len(read_provenance(trial)) > 1
    if trained and not (trial / LAST).exists():
        raise UserError(f"{trial / LAST}: is gone, so the trial cannot go on; put it back, or start a new trial")

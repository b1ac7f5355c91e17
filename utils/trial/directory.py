"""Trial directories: made, found, and gone on with."""

import argparse
import time
from pathlib import Path

from utils.common.errors import UserError
from utils.common.steps import TRAINING
from utils.conf.command import command_parser, parse_command, refuse_conf_beside
from utils.conf.reading import DEFAULT_CONF, load_conf, save_conf
from utils.conf.schema import Conf, idle_because, role_of
from utils.conf.values import flat
from utils.trial.checkpoint import load_checkpoint

CONF, METRICS, LOG = "conf.yaml", "metrics.jsonl", "train.log"
BEST, LAST = "checkpoint_best.pt", "checkpoint_last.pt"
RETRIEVAL_METRICS = "retrieval_metrics.json"


def create_trial(conf: Conf) -> Path:
    """Make a new trial directory, named by time, strategy and seed, and store the resolved configuration in it."""
    return create_directory(conf, f"{conf.objective}_seed{conf.param_conf.seed}")


def create_directory(conf: Conf, name: str) -> Path:
    """Make a new directory in the trial series, named by time and `name`, and store the configuration in it."""
    series = Path(conf.trial_base) / conf.trial_series
    directory = series / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{name}"
    series.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            directory.mkdir()
        except FileExistsError:  # another run in the same second
            directory = directory.with_name(directory.name + "+")
            continue
        save_conf(conf, directory / CONF)
        return directory


def newest_trial(conf: Conf) -> Path:
    """The newest trial of a configuration's series that has a checkpoint."""
    series = Path(conf.trial_base) / conf.trial_series
    trials = [path.parent for path in series.glob(f"*/{BEST}") if (path.parent / CONF).is_file()]
    if not trials:
        raise UserError(f"{series}: no trained trial yet; run {TRAINING} first, or name one with --trial")
    return max(trials, key=lambda trial: (trial / CONF).stat().st_mtime_ns)


def trial_conf(trial: Path, overrides: list[str]) -> Conf:
    """A trial's own configuration, with the command line's changes."""
    if not (trial / CONF).is_file():
        raise UserError(f"{trial}: not a trial directory (it has no {CONF})")
    return load_conf(trial / CONF, overrides)


def trial_from_command(description: str) -> tuple[Path, Conf]:
    """Parse a postprocessing script's command line: the trial that --trial names, or the configuration's newest."""
    return trial_of(parse_command(trial_parser(description)))


def trial_parser(description: str) -> argparse.ArgumentParser:
    """The arguments that every postprocessing script takes."""
    parser = command_parser(description)
    parser.add_argument(
        "--trial", type=Path, metavar="DIR", help="trial directory (default: the configuration's newest trial)"
    )
    return parser


def trial_of(args: argparse.Namespace) -> tuple[Path, Conf]:
    """The trial that parsed arguments mean, and its configuration."""
    refuse_conf_beside(args, "trial")
    trial = args.trial or newest_trial(load_conf(args.conf or DEFAULT_CONF, args.overrides))
    conf = trial_conf(trial, args.overrides)
    if args.trial and args.overrides:
        require_same_run(trial, conf)
    return trial, conf


def resume_conf(trial: Path, overrides: list[str]) -> Conf:
    """The configuration to resume a trial with; changes that would mix two experiments are refused.

    A trial that was killed before its first checkpoint starts from its beginning.
    """
    conf = trial_conf(trial, overrides)
    require_same_run(trial, conf)
    return conf


def require_same_run(trial: Path, conf: Conf) -> None:
    """Raise UserError where going on with a trial by this configuration would mix two experiments."""
    begun = (trial / LAST).exists()
    before = flat(load_checkpoint(trial / LAST)["conf"] if begun else trial_conf(trial, []).model_dump())
    after = flat(conf.model_dump())
    for key in sorted(before.keys() | after.keys()):
        may_change = role_of(key).may_change_on_resume or idle_because(conf, key)
        if before.get(key) != after.get(key) and not may_change:
            raise UserError(
                f"{trial}: {key} is {after.get(key)!r} but the trial was run with {before.get(key)!r}; "
                "resume without the change, or start a new trial"
            )

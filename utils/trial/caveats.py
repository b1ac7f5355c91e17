"""What has to be said beside a trial's numbers: that it diverged, or that it is unfinished."""

import warnings
from pathlib import Path
from typing import NamedTuple

from utils.common.errors import UserError
from utils.conf.schema import Conf
from utils.trial.history import History, is_finished, trained_epochs
from utils.trial.identity import diverged
from utils.trial.names import BEST, METRICS

DIVERGED, UNFINISHED = "diverged", "unfinished"


class Caveat(NamedTuple):
    """What has to be said of a trial."""

    mark: str  # in a table: DIVERGED or UNFINISHED
    line: str


def caveat_of(trial: Path, conf: Conf, history: History | None = None) -> Caveat | None:
    """What has to be said of a trial whose numbers are read; None where it was trained to its end, or has none yet.

    Args:
        history: its epochs, where they are at hand.
    """
    if line := diverged(trial):
        return Caveat(DIVERGED, line)
    if not any((trial / name).exists() for name in (BEST, METRICS)):
        return None
    try:
        history = trained_epochs(trial) if history is None else history
    except UserError as error:  # what has its best checkpoint can be scored all the same
        return Caveat(UNFINISHED, f"{trial}: whether it is finished cannot be told: {error}")
    if is_finished(history, conf):
        return None
    how = f"epoch {len(history) - 1} of {conf.param_conf.num_epoch} is its last, and no stopper ended it"
    return Caveat(UNFINISHED, f"{trial}: unfinished: {how}; its numbers are those of its best epoch so far")


def warn_of(trial: Path, conf: Conf) -> None:
    """Say on standard error what has to be said of a trial."""
    if caveat := caveat_of(trial, conf):
        warnings.warn(caveat.line, stacklevel=2)

"""Caveats beside a trial's numbers: it diverged, or it is unfinished."""

import warnings
from typing import NamedTuple

from utils.common.errors import UserError
from utils.trial.history import is_finished
from utils.trial.identity import diverged
from utils.trial.names import BEST, METRICS
from utils.trial.trial import Trial

DIVERGED, UNFINISHED = "diverged", "unfinished"


class Caveat(NamedTuple):
    """A caveat of a trial's numbers."""

    mark: str  # in a table: DIVERGED or UNFINISHED
    line: str


def caveat_of(trial: Trial) -> Caveat | None:
    """The caveat of a trial; None where its training ended, or it has no numbers yet."""
    if line := diverged(trial.path):
        return Caveat(DIVERGED, line)
    if not any((trial.path / name).exists() for name in (BEST, METRICS)):
        return None
    try:
        history = trial.history
    except UserError as error:  # the best checkpoint can be scored all the same
        return Caveat(UNFINISHED, f"{trial}: whether it is finished cannot be told: {error}")
    if is_finished(history, trial.conf):
        return None
    how = f"epoch {len(history) - 1} of {trial.conf.param_conf.num_epoch} is its last, and no stopper ended it"
    return Caveat(UNFINISHED, f"{trial}: unfinished: {how}; its numbers are those of its best epoch so far")


def warn_of(trial: Trial) -> None:
    """Print a trial's caveat on standard error."""
    if caveat := caveat_of(trial):
        warnings.warn(caveat.line, stacklevel=2)

"""A trial: its directory, its configuration, and what is loaded from it once."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from utils.common.errors import UserError
from utils.conf.schema import Conf
from utils.dataset.paths import DatasetPaths
from utils.trial.checkpoint import Trained, load_model
from utils.trial.history import History, load_history
from utils.trial.identity import diverged, identity
from utils.trial.names import BEST


@dataclass(frozen=True)
class Trial:
    """A trial directory, with the configuration that a command uses it by."""

    path: Path
    conf: Conf

    def __str__(self) -> str:
        return str(self.path)

    @property
    def dataset(self) -> DatasetPaths:
        return DatasetPaths(self.conf.data_conf.dataset)

    @cached_property
    def best(self) -> Trained:
        """The best checkpoint's model; UserError where it is another trial's, or untrained since that diverged."""
        best = load_model(self.path / BEST, identity(self.path))
        if best.epoch == 0 and (how := diverged(self.path)):
            raise UserError(f"{how}: epoch 0, which is untrained; there is nothing to score or to search by")
        return best

    @cached_property
    def history(self) -> History:
        """The trained epochs."""
        return load_history(self.path)

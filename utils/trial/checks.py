"""Check a trial against its records of settings, data and steps; caveats of its numbers."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from utils.common.errors import UserError
from utils.common.steps import TRAINING
from utils.conf.schema import default_of
from utils.trial.dataset_provenance import check_steps, preprocessing
from utils.trial.history import is_finished, require_lines
from utils.trial.identity import diverged, fixed_settings, training_of
from utils.trial.names import BEST, LAST, METRICS
from utils.trial.provenance import check_entry, check_files, read_provenance
from utils.trial.trial import Trial

DIVERGED, UNFINISHED = "diverged", "unfinished"


def require_same_run(trial: Trial) -> None:
    """Raise UserError where going on with a trial by this configuration would mix two experiments.

    A trial that is older than a setting was run with its default.
    """
    settings = training_of(trial.path).settings, fixed_settings(trial.conf)
    both, either = settings[0].keys() & settings[1].keys(), settings[0].keys() ^ settings[1].keys()
    # A setting that counts on one side alone does so due to another, or is newer than the trial and has a default
    for key in [*sorted(both), *sorted(either, key=lambda key: (default_of(key) is None, key))]:
        before, after = (values.get(key, default_of(key)) for values in settings)
        if before != after:
            raise UserError(
                f"{trial}: {key} is {after!r} but the trial was run with {before!r}; "
                "leave out the change, or start a new trial"
            )


def check_trial(trial: Trial, *steps: str, reads: Iterable[Path] = ()) -> None:
    """Raise UserError unless the trial's steps, in their order, were run on the data set as it is now.

    `reads`: their output files that are about to be read.
    """
    check_steps(trial.conf, *preprocessing(trial.conf))
    check_data(trial, *steps)
    check_made(trial, *steps, reads=reads)


def check_data(trial: Trial, *steps: str) -> None:
    """Raise UserError where the data set's files are not those that a trial's steps read."""
    made = read_provenance(trial.path)
    for step in steps:
        complaint = f"has changed since {step} read it for {trial}; run that again"
        if step == TRAINING:
            complaint = f"has changed since {trial} was begun; set data_conf.dataset to its data, or start a new trial"
        check_files(trial.conf.data_conf.dataset, made[step].data if step in made else {}, complaint)


def check_made(trial: Trial, *steps: str, reads: Iterable[Path] = ()) -> None:
    """Raise UserError unless the trial's files are what its steps read and wrote."""
    made, written = read_provenance(trial.path), set()
    for step in steps:
        if step not in made:
            raise UserError(f"{trial}: no record of {step}; run it (again)")
        check_entry(trial.path, step, made[step])
        written |= made[step].outputs.keys()
    for file in reads:
        if file.name not in written:
            raise UserError(f"{file}: no such file that {steps[-1]} recorded; run that (again)")


def check_metrics(trial: Trial) -> None:
    """Raise UserError unless metrics.jsonl holds the trial's epochs."""
    if (trial.path / LAST).is_file():  # without it, the epochs are those of metrics.jsonl
        require_lines(trial.path, trial.history, LAST)


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

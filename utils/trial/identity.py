"""A trial's identity: the settings and the data that decide its numbers.

They are recorded in provenance.json before training. Each checkpoint carries the trial's `identity`, and each later
step records the files that it read and wrote. Commands that read numbers check these records by `checks.check_trial`.
"""

import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.audio_input import audio_input
from utils.common.digests import digest_of, digests
from utils.common.errors import UserError
from utils.common.steps import TRAINING
from utils.conf.schema import Conf, result_settings, role_of
from utils.dataset.paths import DatasetPaths
from utils.text_input import vectors_path
from utils.trial.names import BEST, POINTS
from utils.trial.provenance import Entry, name_from, read_provenance, record

FORMAT = 2  # of trials; see docs/reliability.md


def begin(trial: Path, conf: Conf, data: dict[str, str], sources: dict[str, str] | None = None) -> None:
    """Record a new trial's settings, the data that it is to be trained on (`data_digests`), and what it starts from."""
    seed, settings, token = conf.param_conf.seed, fixed_settings(conf), secrets.token_hex(8)
    entry = Entry(settings=settings, data=data, sources=sources or {}, seed=seed, token=token, format=FORMAT)
    record(trial, TRAINING, entry)


def fixed_settings(conf: Conf) -> dict[str, Any]:
    """The settings that may not change between a trial's epochs, by dotted key."""
    return {key: value for key, value in result_settings(conf).items() if not role_of(key).may_change_on_resume}


def data_digests(conf: Conf, splits: Iterable[str], *more: Path) -> dict[str, str]:
    """SHA-256 of the data set's files that training or scoring these splits reads, and of `more`."""
    paths, audio = DatasetPaths(conf.data_conf.dataset), audio_input(conf)
    of_splits = [file for split in splits for file in (paths.text(split), audio.path(paths, split))]
    files = [vectors_path(conf), *more, *of_splits]
    return digests(paths.root, [name_from(paths.root, file) for file in files])


def training_of(trial: Path) -> Entry:
    """The record of a trial's training; UserError where a directory is not a trial of this format."""
    if not trial.is_dir():
        raise UserError(f"{trial}: not a trial directory: {'a file' if trial.exists() else 'there is no such folder'}")
    if (trial / POINTS).is_dir():
        raise UserError(f"{trial}: a sweep, not a trial: go on with it by --sweep --resume, or name one of its trials")
    entry = read_provenance(trial).get(TRAINING)
    if entry is None:
        raise UserError(f"{trial}: not a trial directory (its provenance.json has no record of {TRAINING})")
    if entry.format != FORMAT:
        commit = entry.runs[-1].get("commit") if entry.runs else None
        raise UserError(
            f"{trial}: a trial of format {entry.format}, but this version reads format {FORMAT} alone: use the version "
            f"that wrote it (commit {commit or 'unknown'}), or train anew; see docs/reliability.md"
        )
    return entry


def identity(trial: Path) -> str:
    """The digest of a trial's settings, data, random token and start, which its checkpoints carry."""
    entry = training_of(trial)
    return digest_of([entry.settings, entry.data, entry.token, *([entry.sources] if entry.sources else [])])


def mark_diverged(trial: Path, how: str | None) -> None:
    """Record how a trial diverged; None removes the record."""
    entry = training_of(trial)
    if entry.diverged != how:
        record(trial, TRAINING, entry.model_copy(update={"diverged": how}))


def diverged(trial: Path) -> str | None:
    """How a trial diverged, as a line for the reader of its numbers; None where it did not."""
    how = training_of(trial).diverged
    rest = "its numbers are those of its best epoch before that" if (trial / BEST).exists() else "it has no numbers"
    return how and f"{trial}: {how}; {rest}"

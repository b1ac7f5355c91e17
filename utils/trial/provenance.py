"""What an output was made from: provenance.json beside it, and the check that it still holds.

{step: {"settings": ..., "versions": ..., "inputs": {file: SHA-256}, "outputs": {file: SHA-256}}}, files as named from
the directory of provenance.json. Versions are kept for the reader: another one is no error.
"""

import platform
import shutil
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from utils.common.errors import UserError
from utils.common.io import file_digest, read_json, write_json
from utils.common.steps import CLEANING, EMBEDDING, INDEXING, LOG_MELS, TRAINING
from utils.conf.schema import Conf, telling
from utils.dataset.paths import DatasetPaths

PROVENANCE = "provenance.json"
ROOT = Path(__file__).resolve().parents[2]  # this repository
PACKAGES = ("torch", "numpy", "librosa", "soundfile", "gensim", "nltk", "h5py", "pandas", "scipy")


class Entry(BaseModel, extra="allow"):
    """What a step made its outputs from; a step may add more."""

    settings: dict[str, Any] = {}  # by dotted key
    versions: dict[str, object] = {}
    inputs: dict[str, str] = {}  # file: SHA-256
    outputs: dict[str, str] = {}


# The section whose settings decide what a step writes
SECTIONS = {
    CLEANING: "text_cleaning",
    INDEXING: "clotho_dataset",
    EMBEDDING: "word2vec_embeddings",
    LOG_MELS: "audio_logmel",
}


def step_outputs(conf: Conf, step: str) -> list[Path]:
    """The files that a preprocessing step writes for the splits in use."""
    paths, splits = DatasetPaths(conf.data_conf.dataset), conf.data_conf.splits
    outputs = {
        CLEANING: [*map(paths.clean_captions, splits)],
        INDEXING: [*map(paths.text, splits), paths.vocab_info, paths.audio_info],
        EMBEDDING: [paths.word_embeds],
        LOG_MELS: [*map(paths.log_mels, splits)],
    }
    return outputs[step]


def step_settings(conf: Conf, step: str) -> dict[str, Any]:
    """The settings that decide what a preprocessing step writes, by dotted key."""
    return {key: value for key, value in telling(conf).items() if key.startswith(f"{SECTIONS[step]}.")}


def versions() -> dict[str, object]:
    """Python, the packages that numbers depend on, and this repository's commit and whether its tree was clean."""
    packages = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **packages, **_repository()}


def _repository() -> dict[str, object]:
    """Commit and cleanness; None where this is no git checkout, or git is not installed."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        return {"commit": None, "clean": None}

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "clean": None if changes is None else changes == ""}


def digests(root: Path | str, files: Iterable[Path | str]) -> dict[str, str]:
    """SHA-256 of those of the files that are there, by their names from `root`."""
    return {Path(file).relative_to(root).as_posix(): file_digest(file) for file in files if Path(file).is_file()}


def record(root: Path | str, step: str, entry: Entry) -> None:
    """Put a step's entry into the directory's provenance.json, in the place of an older one."""
    made = read_provenance(root) | {step: entry}
    write_json(Path(root) / PROVENANCE, {name: made[name].model_dump(exclude_defaults=True) for name in sorted(made)})


def record_files(
    root: Path | str,
    step: str,
    inputs: Iterable[Path],
    outputs: Iterable[Path],
    settings: dict | None = None,
    **more: object,
) -> None:
    """Record a step once its outputs are written: which files it read and wrote, by what versions and settings."""
    made_from, made = digests(root, inputs), digests(root, outputs)
    entry = Entry(settings=settings or {}, versions=versions(), inputs=made_from, outputs=made, **more)
    record(root, step, entry)


def record_step(conf: Conf, step: str, inputs: Iterable[Path], **more: object) -> None:
    """`record_files` of a preprocessing step, in the data set's directory, once its outputs are written."""
    root = conf.data_conf.dataset
    record_files(root, step, inputs, step_outputs(conf, step), step_settings(conf, step), **more)


def read_provenance(root: Path | str) -> dict[str, Entry]:
    """The directory's provenance.json by step; empty where there is none."""
    path = Path(root) / PROVENANCE
    if not path.is_file():
        return {}
    try:
        return TypeAdapter(dict[str, Entry]).validate_python(read_json(path, "its step"))
    except ValidationError:
        raise UserError(f"{path}: not as its step writes it; remove it, and run the steps again") from None


def check_made(root: Path | str, *steps: str) -> None:
    """Raise UserError where a directory's files are not what these steps, where recorded, read and wrote."""
    made = read_provenance(root)
    for step in steps:
        if step in made:
            _check_entry(root, step, made[step])


def _check_entry(root: Path | str, step: str, entry: Entry) -> None:
    check_files(root, entry.inputs, f"has changed since {step} read it; run that again")
    check_files(root, entry.outputs, f"is not as {step} wrote it; run that again")


def check_steps(conf: Conf, *steps: str) -> None:
    """Raise UserError unless the data set's files are what these steps made of its captions by today's settings."""
    DatasetPaths(conf.data_conf.dataset).require()
    root = Path(conf.data_conf.dataset)
    made = read_provenance(root)
    for step in steps:
        if step not in made:
            raise UserError(f"{root / PROVENANCE}: no record of {step}; run it (again)")
        _check_settings(root, step, made[step].settings, step_settings(conf, step))
        for path in step_outputs(conf, step):
            if path.relative_to(root).as_posix() not in made[step].outputs:
                raise UserError(f"{path}: not recorded as made by {step} with these settings; run that again")
        _check_entry(root, step, made[step])


def _check_settings(root: Path, step: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key in [*now, *before]:
        was, value = before.get(key), now.get(key)
        if was != value:
            raise UserError(
                f"{root}: made with {key} {was}, but it is now {value}; set it back, or run {step} and what follows "
                "it again"
            )


def holds(conf: Conf, step: str, path: Path) -> bool:
    """Whether a file of the data set is as this step recorded it, made by today's settings."""
    made = read_provenance(conf.data_conf.dataset).get(step)
    if made is None or made.settings != step_settings(conf, step) or not path.is_file():
        return False
    return made.outputs.get(path.relative_to(conf.data_conf.dataset).as_posix()) == file_digest(path)


def check_data(trial: Path, conf: Conf) -> None:
    """Raise UserError where the data set's files are not those that a trial was trained on."""
    if entry := read_provenance(trial).get(TRAINING):
        complaint = f"has changed since {trial} was begun; set data_conf.dataset to its data, or start a new trial"
        check_files(conf.data_conf.dataset, entry.inputs, complaint)


def check_files(root: Path | str, expected: dict[str, str], complaint: str) -> None:
    """Raise UserError with the complaint where a file is not what it was; one that is gone is its reader's concern."""
    for name, digest in expected.items():
        path = Path(root) / name
        if path.is_file() and file_digest(path) != digest:
            raise UserError(f"{path}: {complaint}")

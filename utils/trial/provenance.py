"""The provenance of outputs: provenance.json beside them, and the check that it still holds.

{step: {"settings": ..., "versions": ..., "inputs": {file: SHA-256}, "outputs": {file: SHA-256}}}, files named from the
directory of provenance.json; a trial's steps add "data", files of the data set. Versions are not checked.
"""

import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, TypeAdapter, ValidationError

from utils.common.digests import digests
from utils.common.errors import UserError
from utils.common.io import write_json
from utils.trial.names import CONF

PROVENANCE = "provenance.json"
ROOT = Path(__file__).resolve().parents[2]  # this repository
PACKAGES = ("torch", "numpy", "librosa", "soundfile", "soxr", "gensim", "nltk", "h5py", "pandas", "scipy")


class Entry(BaseModel, extra="allow"):
    """The record of a step."""

    settings: dict[str, Any] = {}  # by dotted key
    versions: dict[str, object] = {}
    inputs: dict[str, str] = {}  # file: SHA-256
    outputs: dict[str, str] = {}
    data: dict[str, str] = {}  # of the data set
    sources: dict[str, str] = {}  # of the data set's captions, sounds and word vectors
    # of training alone, see identity.py
    format: int = 1
    seed: int | None = None
    token: str = ""  # drawn at random for each trial
    runs: list[dict[str, Any]] = []  # machine and versions
    diverged: str | None = None


def versions() -> dict[str, object]:
    """The versions of Python and the packages that numbers depend on, and this repository's commit.

    `commit`, and whether the tree is `clean`, are None where this is no git checkout, or git is not installed.
    """

    def git(*arguments: str) -> str | None:
        if not shutil.which("git") or not (ROOT / ".git").exists():
            return None
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    packages = {name: version(name) for name in PACKAGES} | {"torch": str(torch.__version__)}  # with the build: +cu130
    changes = git("status", "--porcelain")
    repository = {"commit": git("rev-parse", "HEAD"), "clean": None if changes is None else changes == ""}
    return {"python": platform.python_version(), **packages, **repository}


def record(root: Path | str, step: str, entry: Entry) -> None:
    """Write a step's entry into the directory's provenance.json; it replaces an older one."""
    made = read_provenance(root) | {step: entry}
    write_json(Path(root) / PROVENANCE, {name: made[name].model_dump(exclude_defaults=True) for name in sorted(made)})


@contextmanager
def record_outputs(
    root: Path | str,
    step: str,
    inputs: Iterable[Path],
    outputs: Iterable[Path],
    settings: dict | None = None,
    **more: object,
) -> Iterator[None]:
    """Record, when the body has ended, which files a step read and wrote, by which versions and settings.

    Inputs are digested before the body: the next command refuses one that changed meanwhile.
    """
    made_from = digests(root, [name_from(root, path) for path in inputs])
    yield
    made = digests(root, [name_from(root, path) for path in outputs])
    record(root, step, Entry(settings=settings or {}, versions=versions(), inputs=made_from, outputs=made, **more))


def name_from(root: Path | str, path: Path) -> str:
    """A file's name from a directory; its whole path where it is outside."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path.resolve())


def read_provenance(root: Path | str) -> dict[str, Entry]:
    """The directory's provenance.json by step; empty where there is none."""
    path = Path(root) / PROVENANCE
    if not path.is_file():
        return {}
    try:
        return TypeAdapter(dict[str, Entry]).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        what = f"{'.'.join(map(str, first['loc'])) or 'the file'!r:.80}: {first['msg']}"
        advice = "move it away, and run the steps again"
        if (path.parent / CONF).exists():  # a trial's: no step can write it again
            advice = "mend that, or put a copy back: without it the trial cannot be read"
        raise UserError(f"{path}: not as its step writes it ({what}); {advice}") from None


def check_entry(root: Path | str, step: str, entry: Entry) -> None:
    """Raise UserError where a directory's files are not what a step read and wrote."""
    check_files(root, entry.inputs, f"has changed since {step} read it; run that again")
    check_files(root, entry.outputs, f"is not as {step} wrote it; run that again")


def check_files(root: Path | str, expected: dict[str, str], complaint: str) -> None:
    """Raise UserError with the complaint where a file has changed; its reader refuses one that is gone."""
    for name, digest in digests(root, expected).items():
        if digest != expected[name]:
            raise UserError(f"{Path(root) / name}: {complaint}")

"""What an output was made from: provenance.json beside it, and the check that it still holds.

{step: {"settings": ..., "versions": ..., "inputs": {file: SHA-256}, "outputs": {file: SHA-256}}}, files as named from
the directory of provenance.json. Versions are kept for the reader: another one is no error.
"""

import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from utils.conf_utils import Conf
from utils.io_utils import UserError, file_digest, read_json, write_json
from utils.step_utils import CLEANING, EMBEDDING, INDEXING, LOG_MELS

PROVENANCE = "provenance.json"
ROOT = Path(__file__).resolve().parents[1]  # this repository
PACKAGES = ("torch", "numpy", "librosa", "soundfile", "gensim", "nltk", "h5py", "pandas", "scipy")



class Entry(BaseModel, extra="allow"):
    """What a step made its outputs from; a step may add more."""

    settings: dict[str, dict] = {}  # by section of the configuration
    versions: dict[str, object] = {}
    inputs: dict[str, str] = {}  # file: SHA-256
    outputs: dict[str, str] = {}


def _embedding_settings(conf: Conf) -> dict:
    """Without what plays no part: where the file of word vectors lies, and how to train unless they are trained."""
    unused = {"file"} | ({"train"} if conf.word2vec_embeddings.source != "train" else set())
    return {"word2vec_embeddings": conf.word2vec_embeddings.model_dump(exclude=unused)}


# The settings that decide what a step writes. What step 2 leaves out is listed in bad_data.csv.
SETTINGS: dict[str, Callable[[Conf], dict]] = {
    CLEANING: lambda conf: {"text_cleaning": conf.text_cleaning.model_dump()},
    INDEXING: lambda conf: {},
    EMBEDDING: _embedding_settings,
    LOG_MELS: lambda conf: {"audio_logmel": conf.audio_logmel.model_dump(exclude={"workers", "backend"})},
}


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


def record_step(conf: Conf, step: str, inputs: Iterable[Path], outputs: Iterable[Path], **more: object) -> None:
    """`record_files` of a preprocessing step, in the data set's directory."""
    record_files(conf.data_conf.dataset, step, inputs, outputs, SETTINGS[step](conf), **more)


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
    root = Path(conf.data_conf.dataset)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; put the data set there, or set data_conf.dataset to where it is")
    made = read_provenance(root)
    for step in steps:
        if step not in made:
            raise UserError(f"{root / PROVENANCE}: no record of {step}; run it (again)")
        _check_settings(root, step, made[step].settings, SETTINGS[step](conf))
        _check_entry(root, step, made[step])


def _check_settings(root: Path, step: str, before: dict, now: dict) -> None:
    for section, values in now.items():
        for key, value in values.items():
            was = before.get(section, {}).get(key)
            if was != value:
                raise UserError(
                    f"{root}: made with {section}.{key} {was}, but it is now {value}; set it back, or run {step} and "
                    "what follows it again"
                )


def check_files(root: Path | str, expected: dict[str, str], complaint: str) -> None:
    """Raise UserError with the complaint where a file is not what it was; one that is gone is its reader's concern."""
    for name, digest in expected.items():
        path = Path(root) / name
        if path.is_file() and file_digest(path) != digest:
            raise UserError(f"{path}: {complaint}")

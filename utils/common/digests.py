"""SHA-256 of files, each read once: kept beside the data, with the file's size and times, until these change."""

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from pydantic import BaseModel

from utils.common.errors import UserError
from utils.common.io import is_plain_file, write_json

KEPT = ".digests.json"  # in a data set's or a trial's directory; it may be removed at any time
SETTLED = 2 * 10**9  # ns; a younger file may be written once more within one tick of its file system's clock
HELD = 2**26  # bytes of a file that is held in memory, to be read once

State = tuple[int, int, int, int]  # times of the last write and of the last change (ns), size, inode


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's content, hexadecimal; a file that has not been written since is read once by a process."""
    path = Path(path).resolve()
    return _digest(path, _state(path.stat()))


def read_digested(path: Path) -> tuple[bytes | None, str]:
    """A file's content and its SHA-256, read once; of more than HELD bytes the digest alone, and None."""
    if path.stat().st_size > HELD:
        return None, file_digest(path)
    content = path.read_bytes()
    return content, hashlib.sha256(content).hexdigest()


def digest_of(value: object) -> str:
    """SHA-256 of a value as JSON, its keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digests(root: Path | str, names: Iterable[Path | str]) -> dict[str, str]:
    """{name: SHA-256} of those of the files that are there; `root` keeps them for later commands.

    Args:
        root: a directory.
        names: of files from there, or whole paths.
    """
    root = Path(root).resolve()
    known, found, read = _kept(root), {}, False
    for name in map(str, names):
        with suppress(OSError, ValueError):  # none, or a name that no file can have
            status = (root / name).stat()
            if stat.S_ISREG(status.st_mode):
                found[name] = _state(status)
    for name, state in found.items():
        if name not in known or known[name][0] != state:
            known[name] = (state, file_digest(root / name))
            read |= _is_settled(state)
    if read:
        _keep(root, known)
    return {name: known[name][1] for name in found}


def _state(status: os.stat_result) -> State:
    """What changes where a file is written or replaced: the time of change cannot be set back, as the other can."""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _is_settled(state: State) -> bool:
    return max(state[:2]) < time.time_ns() - SETTLED


@cache
def _digest(path: Path, state: State) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _Sealed(BaseModel):
    """What is kept in a directory: the digests by name, and one of them all, or a damaged one would blame a file."""

    files: dict[str, tuple[State, str]]
    sha256: str


@cache
def _kept(root: Path) -> dict[str, tuple[State, str]]:
    """What earlier commands kept in a directory, by name; empty where that is none of it, or damaged."""
    try:
        if not is_plain_file(root / KEPT):
            return {}
        kept = _Sealed.model_validate_json((root / KEPT).read_bytes())
        return kept.files if digest_of(kept.files) == kept.sha256 else {}
    except (OSError, ValueError):
        return {}


def _keep(root: Path, known: dict[str, tuple[State, str]]) -> None:
    settled = {name: entry for name, entry in sorted(known.items()) if _is_settled(entry[0])}
    with suppress(UserError):  # somebody else's directory, or a full disk: then they are read again
        write_json(root / KEPT, {"files": settled, "sha256": digest_of(settled)})

"""SHA-256 of files. A file beside the data keeps them, with each file's size and times, so that files are read once."""

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

KEPT = ".digests.json"  # in the directory of a data set or a trial; may be deleted at any time
SETTLED = 2 * 10**9  # ns; a younger file may change again within one tick of its file system's clock
HELD = 2**26  # bytes; a larger file is not held in memory

State = tuple[int, int, int, int]  # times of the last write and of the last change (ns), size, inode


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file, hexadecimal. A process reads an unchanged file once."""
    path = Path(path).resolve()
    return _digest(path, _state(path.stat()))


def read_digested(path: Path) -> tuple[bytes | None, str]:
    """A file's content and SHA-256 from one read; None and the SHA-256 for a file of more than HELD bytes."""
    if path.stat().st_size > HELD:
        return None, file_digest(path)
    content = path.read_bytes()
    return content, hashlib.sha256(content).hexdigest()


def digest_of(value: object) -> str:
    """SHA-256 of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digests(root: Path | str, names: Iterable[Path | str]) -> dict[str, str]:
    """{name: SHA-256} of the files that exist, named absolutely or from `root`. Keeps the digests there, for later."""
    root = Path(root).resolve()
    known, states, changed = _kept(root), {}, False
    for name in map(str, names):
        with suppress(OSError, ValueError):  # absent, or a name that no file can have
            status = (root / name).stat()
            if stat.S_ISREG(status.st_mode):
                states[name] = _state(status)
    for name, state in states.items():
        if name not in known or known[name][0] != state:
            known[name] = (state, file_digest(root / name))
            changed |= _is_settled(state)
    if changed:
        settled = {name: entry for name, entry in sorted(known.items()) if _is_settled(entry[0])}
        with suppress(UserError):  # a read-only directory or a full disk: the next command reads the files again
            write_json(root / KEPT, {"files": settled, "sha256": digest_of(settled)})
    return {name: known[name][1] for name in states}


def _state(status: os.stat_result) -> State:
    """What changes when a file is written or replaced. A user can set the write time back, but not the change time."""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _is_settled(state: State) -> bool:
    return max(state[:2]) < time.time_ns() - SETTLED


@cache
def _digest(path: Path, state: State) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _Record(BaseModel):
    """The content of KEPT, with a digest of its own: a flipped bit here must not blame a file."""

    files: dict[str, tuple[State, str]]
    sha256: str


@cache
def _kept(root: Path) -> dict[str, tuple[State, str]]:
    """The states and digests that earlier commands kept in a directory; empty where there are none, or damaged ones."""
    with suppress(OSError, ValueError):
        if is_plain_file(root / KEPT):
            record = _Record.model_validate_json((root / KEPT).read_bytes())
            if digest_of(record.files) == record.sha256:
                return record.files
    return {}

"""A lock that one process holds at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.common.errors import UserError


@contextmanager
def held(lock: Path | str, complaint: str) -> Iterator[None]:
    """Hold a lock file, or raise UserError(complaint) where another process holds it.

    The system releases the lock when the process ends, however it ends. Child processes do not inherit it.
    """
    lock = Path(lock)
    if lock.is_symlink() or (lock.exists() and not lock.is_file()):
        raise UserError(f"{lock}: is a link or not a file; remove it")
    with lock.open("a") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(complaint) from None
        yield

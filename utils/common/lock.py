"""What one process at a time does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.common.errors import UserError


@contextmanager
def held(lock: Path | str, complaint: str) -> Iterator[None]:
    """Hold a lock file, or raise the complaint as UserError where another process has it.

    It ends with the process, however that ends, and child processes do not have it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    lock = Path(lock)
    if lock.is_symlink() or (lock.exists() and not lock.is_file()):
        raise UserError(f"{lock}: is a link or no file; remove it")
    with lock.open("a") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(complaint) from None
        yield

"""What every command shares: errors for the user, whole-or-absent files, progress that suits the output."""

import csv
import ctypes
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm


class UserError(Exception):
    """Something the user can mend: the message names the file, row or key, what is wrong and what to do."""

    def __init__(self, message: str):
        # torch's data loader raises a worker's error anew, with the worker's traceback before its message
        super().__init__(message.rpartition("UserError: ")[2].rstrip())


def run_command(main: Callable[[], None]) -> None:
    """Run a script's main(); end with one clear line per problem and exit status 2 instead of a traceback."""
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        main()
    except (UserError, OSError, MemoryError, KeyboardInterrupt) as error:
        sys.exit(complain(error))


def complain(error: BaseException) -> int:
    """Say what ended a command, without a traceback where none is of use; its exit status."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if not isinstance(error, (UserError, OSError, MemoryError)):
        traceback.print_exception(error)
        return 1
    message = str(error)
    if isinstance(error, OSError):  # a full disk, a folder without permission, a file that vanished
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}"
    if isinstance(error, MemoryError):
        message = f"there is not enough memory ({error or 'none is left'})"
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return 2


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path` at once, else it is removed.

    The body does nothing but write: h5py and torch tell of a full disk by a RuntimeError.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_over(path)
    temporary = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        raise unwritable(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError | RuntimeError) -> UserError:
    """What to raise where a write to `path` failed."""
    why = (getattr(error, "strerror", None) or str(error)).partition("\n")[0]
    return UserError(f"{path}: could not be written ({why}); is the disk full, or not yours to write?")


def require_room(path: Path | str, size: int) -> None:
    """Raise UserError unless `size` bytes fit beside `path`: HDF5 may crash where a write of its own fails."""
    path = Path(path)
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            os.posix_fallocate(probe.fileno(), 0, size)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror}): it takes {size / 1e6:.1f} MB") from None


_HOST = re.sub(r"[^\w-]", "-", socket.gethostname())


def _remove_left_over(path: Path) -> None:
    """Remove what killed processes of this machine left of their own attempts at a file."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{_HOST}.*.*"):
        pid = left.name.split(".")[-2]
        if pid.isdigit() and not _runs(int(pid)):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # asks, and does not kill
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's content, hexadecimal; a file that has not been written since is read once."""
    path = Path(path).resolve()
    state = path.stat()
    return _digest(path, state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino)


@lru_cache(maxsize=1000)
def _digest(path: Path, *state: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def whole_folder(path: Path | str, page: str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, else it is removed.

    Raises UserError where `path` exists and does not hold `page`: then it is something else, and is left alone.
    """
    path = Path(path).resolve()
    if path.exists() and not (path / page).is_file():
        raise UserError(f"{path}: exists and holds no {page}; it is not replaced: move it, or write to another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_over(path)
    temporary, old = (path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    try:
        temporary.mkdir()
        yield temporary
        if path.exists():
            path.replace(old)
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        if old.exists() and not path.exists():
            old.replace(path)
        for rest in (temporary, old):
            shutil.rmtree(rest, ignore_errors=True)


def write_json(path: Path | str, content: object) -> None:
    """Write `content` as indented JSON; NaN and infinities are refused (they are not JSON)."""
    with whole_file(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path | str, made_by: str) -> dict:
    """Read a JSON object that the command `made_by` wrote."""
    require_file(path, made_by)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); run {made_by} again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not as {made_by} writes it; run that again")
    return content


def write_csv(path: Path | str, header: list[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a header and rows as UTF-8 CSV."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def require_file(path: Path | str, made_by: str) -> None:
    """Raise UserError unless `path` is a file; `made_by` says which command makes it."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; {made_by} makes it")


def free_memory() -> float:
    """Bytes of memory that a process can still take; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return float("inf")


def keep_freed_memory(keep: bool = True) -> None:
    """Let glibc keep the memory that is freed, or go back to its own ways; other C libraries are left alone.

    By itself it gives large blocks back to the system at once. A training step frees and takes hundreds of them, and
    faulting them in anew is a quarter of its time on a CPU.
    """
    try:
        set_option = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    set_option(-1, 2**31 - 1 if keep else 2**26)  # M_TRIM_THRESHOLD, bytes; otherwise what it grows to by itself
    set_option(-3, 2**25)  # M_MMAP_THRESHOLD, bytes, likewise
    set_option(-4, 0 if keep else 2**16)  # M_MMAP_MAX, blocks


def progress(items: Iterable, title: str, total: int, seconds: float = 10.0) -> Iterator:
    """Iterate with a tqdm bar on a terminal, else with a plain line every `seconds`."""
    if sys.stderr.isatty():
        yield from tqdm(items, desc=title, total=total, leave=False)
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            print(f"{title}: {done}/{total}", file=sys.stderr, flush=True)

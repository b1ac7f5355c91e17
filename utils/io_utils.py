"""What every command shares: errors for the user, whole-or-absent files, progress that suits the output."""

import csv
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm


class UserError(Exception):
    """Something the user can mend: the message names the file, row or key, what is wrong and what to do."""

    def __init__(self, message: str):
        # torch's data loader raises a worker's error anew, with the worker's traceback before its message
        super().__init__(message.rpartition("UserError: ")[2].rstrip())


def run_command(main: Callable[[], None]) -> None:
    """Run a script's main(); end with one clear line per problem and exit status 2 instead of a traceback."""
    try:
        main()
    except UserError as error:
        sys.exit(_complain(str(error)))
    except OSError as error:  # a full disk, a folder without permission, a file that vanished
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_complain(f"{where}{error.strerror or error}"))
    except KeyboardInterrupt:
        sys.exit(130)


def _complain(message: str) -> int:
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return 2


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path` at once, else it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path | str, content: object) -> None:
    """Write `content` as indented JSON; NaN and infinities are refused (they are not JSON)."""
    with whole_file(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path | str, made_by: str) -> dict:
    """Read a JSON file that the command `made_by` wrote."""
    require_file(path, made_by)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); run {made_by} again") from error


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

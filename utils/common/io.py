"""Atomic writes, JSON and CSV files, progress."""

import csv
import glob
import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.common.errors import UserError

HOST = re.sub(r"[^\w-]", "-", socket.gethostname())


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`. On success it replaces `path` in one step; on failure it is removed.

    The body only writes: every OSError and RuntimeError in it counts as a failed write.
    """
    with written(path), replaced(path) as temporary:
        yield temporary


@contextmanager
def replaced(path: Path | str) -> Iterator[Path]:
    """`atomic_write` for a body that also computes, and wraps its writes in `written`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = new_beside(path, "tmp")
    try:
        yield temporary
        with written(path):
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which replaces `path`, absent or empty, on success."""
    temporary = new_beside(path, "tmp")
    try:
        with written(path):
            temporary.mkdir(parents=True)
            yield temporary
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def written(path: Path | str) -> Iterator[None]:
    """Turn a failed write into a UserError that names `path`. h5py and torch report a full disk as RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # torch.save raises a RuntimeError after ctrl-C
            raise KeyboardInterrupt from None
        raise unwritable(path, error) from None


def unwritable(path: Path | str, error: OSError | RuntimeError) -> UserError:
    """The UserError for a failed write to `path`."""
    reason = (getattr(error, "strerror", None) or str(error)).partition("\n")[0]
    return UserError(f"{path}: could not be written ({reason}); is the disk full, or the folder read-only?")


def new_beside(path: Path, kind: str) -> Path:
    """A hidden path beside `path`, named after this process. Removes those of killed processes of this machine."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{HOST}.*.*"):
        pid = leftover.name.split(".")[-2]
        if pid.isdigit() and not _is_running(int(pid)):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{HOST}.{os.getpid()}.{kind}")


def _is_running(pid: int) -> bool:
    try:
        with suppress(PermissionError):  # another user's process
            os.kill(pid, 0)  # signal 0 only checks
    except ProcessLookupError:
        return False
    return True


def write_json(path: Path | str, content: object) -> None:
    """Write `content` as indented JSON. Raises ValueError for NaN and infinities, which JSON lacks."""
    with atomic_write(path) as temporary:
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
        raise UserError(f"{path}: not a JSON object; run {made_by} again")
    return content


def write_csv(path: Path | str, header: list[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a header and rows as UTF-8 CSV."""
    with atomic_write(path) as temporary:
        write_rows(temporary, header, rows)


def write_rows(path: Path, header: list[str], rows: Iterable[Iterable[object]]) -> None:
    """`write_csv`, but not atomic."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def is_plain_file(path: Path) -> bool:
    """Whether `path` is a file itself: no link, and no pipe, on which a reader would block."""
    return path.is_file() and not path.is_symlink()


def require_file(path: Path | str, made_by: str) -> None:
    """Raise UserError unless `path` is a file; `made_by` is the command that makes it."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; {made_by} makes it")


def progress(items: Iterable, title: str, total: int, seconds: float = 10.0) -> Iterator:
    """Iterate with a tqdm bar on a terminal, elsewhere with a plain line every `seconds`."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=title, total=total, leave=False)
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            print(f"{title}: {done}/{total}", file=sys.stderr, flush=True)

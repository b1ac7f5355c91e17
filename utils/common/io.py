"""Files that are whole or absent, JSON and CSV; progress that suits the output."""

import csv
import glob
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.common.errors import UserError


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path` at once, else it is removed.

    The body does nothing but write, or what fails in other ways than by the errors of `written`.
    """
    with written(path), replaced(path) as temporary:
        yield temporary


@contextmanager
def replaced(path: Path | str) -> Iterator[Path]:
    """`atomic_write` for a body that computes as well, and writes within `written`."""
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
def written(path: Path | str) -> Iterator[None]:
    """Raise a UserError of `path` where a write fails; h5py and torch tell of a full disk by a RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # torch.save makes an error of its own out of ctrl-C
            raise KeyboardInterrupt from None
        raise unwritable(Path(path), error) from None


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


def new_beside(path: Path, kind: str) -> Path:
    """A hidden name of this process beside `path`; what killed processes of this machine left there is removed."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{_HOST}.*.*"):
        pid = left.name.split(".")[-2]
        if pid.isdigit() and not _runs(int(pid)):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.{kind}")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # asks, and does not kill
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_json(path: Path | str, content: object) -> None:
    """Write `content` as indented JSON; NaN and infinities are refused (they are not JSON)."""
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
        raise UserError(f"{path}: not as {made_by} writes it; run that again")
    return content


def write_csv(path: Path | str, header: list[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a header and rows as UTF-8 CSV."""
    with atomic_write(path) as temporary:
        write_rows(temporary, header, rows)


def write_rows(path: Path, header: list[str], rows: Iterable[Iterable[object]]) -> None:
    """`write_csv` into a file that is made whole by others."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def is_plain_file(path: Path) -> bool:
    """Whether there is a file itself: no link to one, and no pipe, which a reader would wait for."""
    return path.is_file() and not path.is_symlink()


def require_file(path: Path | str, made_by: str) -> None:
    """Raise UserError unless `path` is a file; `made_by` is the command that makes it."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; {made_by} makes it")


def progress(items: Iterable, title: str, total: int, seconds: float = 10.0) -> Iterator:
    """Iterate with a tqdm bar on a terminal, else with a plain line every `seconds`."""
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

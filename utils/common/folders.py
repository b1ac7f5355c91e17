"""Folders that a command writes whole, and replaces only where they hold nothing but what it wrote."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.common.digests import file_digest
from utils.common.errors import UserError
from utils.common.io import new_beside, read_json, unwritable, write_json

WRITTEN = ".written.json"  # {file: SHA-256} of all others in the folder
NOBODYS = {".DS_Store", "Thumbs.db"}  # left by file managers that have shown it


@contextmanager
def whole_folder(path: Path | str, page: str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, else it is removed.

    Args:
        page: a file that it will hold, and that tells it from what other commands write.

    Raises UserError where `path` is a link, or holds anything that was not written so, or was changed since.
    """
    path = Path(path)
    _require_own(path, page)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (new_beside(path, kind) for kind in ("tmp", "old"))
    try:
        temporary.mkdir()
        yield temporary
        write_json(temporary / WRITTEN, {name: file_digest(temporary / name) for name in sorted(_files(temporary))})
        _require_own(path, page)  # once more: it took a while
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


def _require_own(path: Path, page: str) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path}: is a {'link' if path.is_symlink() else 'file'}; it is not replaced: remove it")
    written = {}
    with suppress(UserError):  # missing or damaged
        written = read_json(path / WRITTEN, "its command")
    if page not in written:
        written = {}
    for name in _files(path):
        file = path / name
        if file.is_symlink() or not file.is_file() or written.get(name) != file_digest(file):
            raise UserError(
                f"{file}: is not what an earlier run wrote there; nothing in {path} is replaced: move this file, or "
                "write to another folder"
            )


def _files(folder: Path) -> Iterator[str]:
    """The names of all that a folder holds, down to files, links and empty folders, but for its own list."""
    for place, folders, files in os.walk(folder):
        ends = [name for name in folders if (at := Path(place) / name).is_symlink() or not any(at.iterdir())]
        for name in (*files, *ends):
            path = (Path(place) / name).relative_to(folder)
            if path != Path(WRITTEN) and name not in NOBODYS:
                yield path.as_posix()

"""Folders that a command writes whole, and replaces only where they hold nothing but what it wrote."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.common.digests import file_digest
from utils.common.errors import UserError
from utils.common.io import new_beside, read_json, unwritable, write_json

WRITTEN = ".written.json"  # {file: SHA-256} of all others in the folder
NOBODYS = {".DS_Store", "Thumbs.db"}  # left by file managers that have shown it


@contextmanager
def whole_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, else it is removed.

    Raises UserError where `path` is a link, or holds anything that was not written so, or was changed since.
    """
    path = Path(path)
    _require_own(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (new_beside(path, kind) for kind in ("tmp", "old"))
    try:
        temporary.mkdir()
        yield temporary
        write_json(temporary / WRITTEN, {name: file_digest(temporary / name) for name in _files(temporary)})
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


def _require_own(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path}: is a {'link' if path.is_symlink() else 'file'}; it is not replaced: remove it")
    written = read_json(path / WRITTEN, "its command") if (path / WRITTEN).is_file() else {}
    for name in _files(path):
        file = path / name
        if file.is_symlink() or not file.is_file() or written.get(name) != file_digest(file):
            raise UserError(
                f"{file}: is not what an earlier run wrote there; nothing in {path} is replaced: move this file, or "
                "write to another folder"
            )


def _files(folder: Path) -> list[str]:
    """The names of a folder's files, links to folders among them, but for its own list."""
    names = []
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        names += [(Path(place) / name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(name for name in names if name != WRITTEN and Path(name).name not in NOBODYS)

"""Folders and files where the user wants them: written whole, and replaced only where they are what was written there.

What was written is told by digest: {file: SHA-256} in a folder, {what: [SHA-256]} in a hidden file beside a file.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.common.digests import file_digest
from utils.common.errors import UserError
from utils.common.io import atomic_write, is_plain_file, new_beside, read_json, unwritable, write_json

WRITTEN = ".written.json"  # the end of the name, where it is of one file
NOBODYS = {".DS_Store", "Thumbs.db"}  # left by file managers that have shown it


@contextmanager
def atomic_folder(path: Path | str, page: str) -> Iterator[Path]:
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
    written = _record(path / WRITTEN)
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


def _record(path: Path) -> dict:
    """What a record of what was written holds; nothing where it is missing or damaged."""
    with suppress(UserError):
        return read_json(path, "its command") if is_plain_file(path) else {}
    return {}


# --- files -----------------------------------------------------------------------------------------------


@contextmanager
def own_file(path: Path | str, what: str) -> Iterator[Path]:
    """`atomic_write` in the place of nothing, or of what an earlier run wrote there, as `require_own_file` has it."""
    path = Path(path)
    require_own_file(path, what)
    with atomic_write(path) as temporary:
        yield temporary
        require_own_file(path, what)  # once more: it took a while
        contents = dict.fromkeys(file_digest(file) for file in (path, temporary) if file.exists())
        write_json(_written(path), {what: list(contents)})  # of both: a kill may leave either


def require_own_file(path: Path, what: str, inputs: Iterable[Path] = ()) -> None:
    """Raise UserError where a command that writes `what` would replace what is not its own, or is one of its inputs."""
    for source in inputs:
        if path.exists() and source.exists() and path.samefile(source):  # by whatever name
            raise UserError(f"{path}: is {source}, which is read; write the {what} elsewhere")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UserError(f"{path}: is no plain file, and is not replaced; write the {what} elsewhere")
    if path.exists():
        contents = _record(_written(path)).get(what)
        if not isinstance(contents, list) or file_digest(path) not in contents:
            raise UserError(
                f"{path}: is no {what} that an earlier run wrote there, or was changed since, and is not replaced; "
                f"move it, or write the {what} elsewhere"
            )


def _written(path: Path) -> Path:
    return path.with_name(f".{path.name}{WRITTEN}")

"""Output folders and files in places that the user chose: atomic, and never over anything but an earlier run's output.

Digests record what a run wrote: {file: SHA-256} within a folder, {kind: [SHA-256]} in a hidden file beside a file.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.common.digests import file_digest
from utils.common.errors import UserError
from utils.common.io import atomic_write, is_plain_file, new_beside, read_json, unwritable, write_json

WRITTEN = ".written.json"  # a folder's record, and the end of the name of a file's
FILE_MANAGERS = {".DS_Store", "Thumbs.db"}  # file managers leave these in folders that they show


@contextmanager
def atomic_folder(path: Path | str, page: str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`. On success it replaces `path`; on failure it is removed.

    `page` is a file in the folder, which tells it from other commands' folders.

    Raises UserError where `path` is a link, or holds anything that an earlier run did not write, or that has changed.
    """
    path = Path(path)
    _require_own_folder(path, page)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (new_beside(path, kind) for kind in ("tmp", "old"))
    try:
        temporary.mkdir()
        yield temporary
        write_json(temporary / WRITTEN, {name: file_digest(temporary / name) for name in _contents(temporary)})
        _require_own_folder(path, page)  # the user may have changed it in the meantime
        if path.exists():
            path.replace(old)
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        if old.exists() and not path.exists():
            old.replace(path)
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)


def _require_own_folder(path: Path, page: str) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path}: is a {'link' if path.is_symlink() else 'file'}; it is not replaced: remove it")
    record = _read_record(path / WRITTEN)
    for name in _contents(path):
        file = path / name
        if page not in record or not is_plain_file(file) or record.get(name) != file_digest(file):
            raise UserError(
                f"{file}: is not what an earlier run wrote there; nothing in {path} is replaced: move this file, or "
                "write to another folder"
            )


def _contents(folder: Path) -> list[str]:
    """The names of a folder's files, links and empty folders, without its record and FILE_MANAGERS."""
    names = []
    for path in sorted(folder.rglob("*")):
        is_parent = path.is_dir() and not path.is_symlink() and any(path.iterdir())
        if not is_parent and path != folder / WRITTEN and path.name not in FILE_MANAGERS:
            names.append(path.relative_to(folder).as_posix())
    return names


def _read_record(path: Path) -> dict:
    """A record's content, empty where it is missing or damaged."""
    with suppress(UserError):
        return read_json(path, "its command") if is_plain_file(path) else {}
    return {}


@contextmanager
def own_file(path: Path | str, kind: str) -> Iterator[Path]:
    """`atomic_write` to a new file, or over an earlier run's file of this kind; see `require_own_file`."""
    path = Path(path)
    require_own_file(path, kind)
    with atomic_write(path) as temporary:
        yield temporary
        require_own_file(path, kind)  # the user may have changed it in the meantime
        digests = dict.fromkeys(file_digest(file) for file in (path, temporary) if file.exists())
        write_json(_record_of(path), {kind: list(digests)})  # of both: a kill may leave either


def require_own_file(path: Path, kind: str, inputs: Iterable[Path] = ()) -> None:
    """Raise UserError where `path` is an input, or is no earlier run's unchanged file of this kind (say, "ranking")."""
    for source in inputs:
        if path.exists() and source.exists() and path.samefile(source):  # by whatever name
            raise UserError(f"{path}: is the input {source}; write the {kind} elsewhere")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UserError(f"{path}: is not a plain file, and is not replaced; write the {kind} elsewhere")
    if path.exists():
        digests = _read_record(_record_of(path)).get(kind)
        if not isinstance(digests, list) or file_digest(path) not in digests:
            raise UserError(
                f"{path}: is not a {kind} of an earlier run, or has changed since, and is not replaced; move it, or "
                f"write the {kind} elsewhere"
            )


def _record_of(path: Path) -> Path:
    return path.with_name(f".{path.name}{WRITTEN}")

"""Arrays that are finished one by one and kept through a kill: each in a file of its own, or many small ones in one.

A file of its own takes its name when it is written: the name is the mark of completion. In a file of many, that is the
digest after each.
"""

import hashlib
import io
import math
import os
import struct
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.common.errors import UserError
from utils.common.io import is_plain_file, unwritable

DIGEST = 32  # bytes of the SHA-256 at a part's end, which numpy does not read
HEADER = struct.Struct("<96s2Q")  # of an appended part: name, rows, columns; then its float32 numbers, and a SHA-256


class Place(NamedTuple):
    """Where an appended part's numbers lie."""

    file: str
    start: int  # bytes
    shape: tuple[int, int]


def make_folder(folder: Path) -> None:
    """Make a folder for parts, unless there is one; UserError where a link, a file or a pipe is in its place."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder}: is a link or no folder, but what is finished is kept there; remove it")
    folder.mkdir(parents=True, exist_ok=True)


def save_part(part: Path, array: np.ndarray) -> None:
    """Write an array as a .npy file with a digest at its end. Not by `atomic_write`, which waits for the disk."""
    temporary = part.with_suffix(f".{os.getpid()}.tmp")
    buffer = io.BytesIO()
    np.save(buffer, array)
    try:
        temporary.write_bytes(buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest())
        temporary.replace(part)
    except OSError as error:
        raise unwritable(part, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def load_part(part: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """A part's float32 numbers of this shape; None where there are none: no file, a damaged one, or other numbers."""
    content = _content(part)
    try:
        array = None if content is None else np.load(io.BytesIO(content), allow_pickle=False)
    except Exception:  # sealed all the same, by whomever: of a header that is no dictionary numpy raises many types
        return None
    return array if getattr(array, "shape", None) == shape and array.dtype == np.float32 else None


def append_part(stream: FileIO, name: str, array: np.ndarray) -> Place:
    """Write an array (rows, columns) float32 under a name at the end of a file that no other process appends to.

    The file has no buffer: what is written outlives the process. Nor does this wait for the disk.
    """
    start = stream.tell() + HEADER.size
    header, numbers = HEADER.pack(name.encode(), *array.shape), np.ascontiguousarray(array, "<f4").data.cast("B")
    digest = hashlib.sha256(header)
    digest.update(numbers)
    try:
        for piece in map(memoryview, (header, numbers, digest.digest())):
            while piece:
                piece = piece[stream.write(piece) :]
    except OSError as error:
        raise unwritable(Path(stream.name), error) from None
    return Place(stream.name, start, array.shape)


def appended_parts(file: Path) -> Iterator[tuple[str, Place]]:
    """The parts of a file that are whole, with their names, up to the first that is not; none of a link or a pipe."""
    if not is_plain_file(file):
        return
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        while len(header := stream.read(HEADER.size)) == HEADER.size:
            name, rows, columns = HEADER.unpack(header)
            start, nbytes = stream.tell(), 4 * rows * columns
            if start + nbytes + DIGEST > size:  # else a damaged header would take all memory
                return
            if hashlib.sha256(header + stream.read(nbytes)).digest() != stream.read(DIGEST):
                return
            yield name.rstrip(b"\0").decode(errors="replace"), Place(str(file), start, (rows, columns))


def read_place(place: Place) -> np.ndarray:
    """An appended part's numbers."""
    return np.fromfile(place.file, "<f4", math.prod(place.shape), offset=place.start).reshape(place.shape)


def _content(part: Path) -> bytes | None:
    try:
        if not is_plain_file(part):
            return None
        content = part.read_bytes()
    except OSError:
        return None
    return content[:-DIGEST] if hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:] else None

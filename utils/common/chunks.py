"""Arrays that are finished one by one and survive a kill: each in a file, or many small ones in one file.

A file gets its name once it is complete. In a file of many, a digest follows each complete array.
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
from utils.common.io import is_plain_file, written

DIGEST = 32  # bytes of a SHA-256
HEADER = struct.Struct("<96s2Q")  # of an appended part: name, rows, columns; its float32 values and a SHA-256 follow


class Place(NamedTuple):
    """Where an appended part's values lie."""

    file: str
    start: int  # bytes
    shape: tuple[int, int]


def make_folder(folder: Path) -> None:
    """Make a folder for parts unless it exists. Raises UserError where a link or a file is in its place."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder}: is a link or not a folder; remove it")
    folder.mkdir(parents=True, exist_ok=True)


def save_part(part: Path, array: np.ndarray) -> None:
    """Write an array as a .npy file followed by its digest. Unlike `atomic_write`, this does not wait for the disk."""
    temporary = part.with_suffix(f".{os.getpid()}.tmp")
    buffer = io.BytesIO()
    np.save(buffer, array)
    try:
        with written(part):
            temporary.write_bytes(buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest())
            temporary.replace(part)
    finally:
        temporary.unlink(missing_ok=True)


def load_part(part: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array of this shape that `save_part` wrote; None where the file is absent, damaged or of another shape."""
    try:
        content = part.read_bytes() if is_plain_file(part) else b""
    except OSError:
        return None
    content, digest = content[:-DIGEST], content[-DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        return None
    array = np.load(io.BytesIO(content), allow_pickle=False)
    return array if array.shape == shape else None


def append_part(stream: FileIO, name: str, array: np.ndarray) -> Place:
    """Append an array (rows, columns) float32 under a name to a file that only this process appends to.

    The stream is unbuffered, so what is written survives a kill. This does not wait for the disk.
    """
    start = stream.tell() + HEADER.size
    header, values = HEADER.pack(name.encode(), *array.shape), np.ascontiguousarray(array, "<f4").data.cast("B")
    digest = hashlib.sha256(header)
    digest.update(values)
    with written(stream.name):
        for piece in map(memoryview, (header, values, digest.digest())):
            while piece:
                piece = piece[stream.write(piece) :]
    return Place(stream.name, start, array.shape)


def appended_parts(file: Path) -> Iterator[tuple[str, Place]]:
    """The names and places of a file's parts, up to the first that is incomplete; none for a link or a pipe."""
    if not is_plain_file(file):
        return
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        while len(header := stream.read(HEADER.size)) == HEADER.size:
            name, rows, columns = HEADER.unpack(header)
            start, nbytes = stream.tell(), 4 * rows * columns
            if start + nbytes + DIGEST > size:  # a damaged header could ask for all memory
                return
            if hashlib.sha256(header + stream.read(nbytes)).digest() != stream.read(DIGEST):
                return
            yield name.rstrip(b"\0").decode(errors="replace"), Place(str(file), start, (rows, columns))


def read_place(place: Place) -> np.ndarray:
    """An appended part's values."""
    return np.fromfile(place.file, "<f4", math.prod(place.shape), offset=place.start).reshape(place.shape)

"""Arrays that are finished one by one and kept through a kill, each in a file of its own.

The file takes its name when it is written: the name is the mark of completion.
"""

import hashlib
import io
import os
from pathlib import Path

import numpy as np

from utils.common.io import unwritable

DIGEST = 32  # bytes of the SHA-256 at a part's end, which numpy does not read


def save_part(part: Path, array: np.ndarray) -> None:
    """Write an array as a .npy file with a digest at its end. Not by `whole_file`, which waits for the disk."""
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


def is_whole(part: Path) -> bool:
    """Whether a part is there, as it was written."""
    return _content(part) is not None


def load_part(part: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """A part's float32 numbers of this shape; None where there are none: no file, a damaged one, or other numbers."""
    content = _content(part)
    try:
        array = None if content is None else np.load(io.BytesIO(content), allow_pickle=False)
    except Exception:  # sealed all the same, by whomever: of a header that is no dictionary numpy raises many types
        return None
    return array if getattr(array, "shape", None) == shape and array.dtype == np.float32 else None


def _content(part: Path) -> bytes | None:
    try:
        content = part.read_bytes()
    except OSError:
        return None
    return content[:-DIGEST] if hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:] else None

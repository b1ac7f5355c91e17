"""HDF5 files that may be damaged or come from a stranger."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from h5py import h5a, h5d, h5p, h5s, h5t

from utils.common.errors import UserError, reason_of
from utils.common.io import require_file

OVERHEAD = 4096  # bytes that a data set takes beside its content, at most
KINDS = {"f": "floating-point numbers", "i": "whole numbers", "S": "texts of fixed length"}


@contextmanager
def open_hdf5(path: Path | str, made_by: str) -> Iterator[h5py.File]:
    """Open an HDF5 file that the command `made_by` wrote.

    Raises UserError where it is missing, or where h5py fails to open it or the body to read it.
    """
    require_file(path, made_by)
    try:
        with h5py.File(path, "r") as store:
            yield store
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, OverflowError) as error:
        raise UserError(f"{path}: not a readable HDF5 file ({reason_of(error)}); run {made_by} again") from None


def get_dataset(store: h5py.File, name: str, made_by: str, kind: str = "f") -> h5py.Dataset:
    """A data set of one of KINDS that this file stores in full; raises UserError for anything else.

    Links, virtual data sets and external storage could lead to any file of the machine. A data set without storage can
    be larger than its memory.
    """
    link = None if "/" in name else store.get(name, getlink=True)
    data = store[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset):
        problem = "is not a data set of this file"
    elif data.is_virtual or data.external or data.shape is None or data.id.get_storage_size() < data.nbytes:
        problem = "is not stored in this file in full, or is compressed"
    elif data.dtype.kind != kind:
        problem = f"holds {data.dtype}, not {KINDS[kind]}"
    else:
        return data
    raise UserError(f"{store.filename}: {name} {problem}; run {made_by} again")


def write_dataset(store: h5py.File, name: str, data: np.ndarray, attribute: str, text: str) -> None:
    """`store.create_dataset(name, data=data).attrs[attribute] = text`, as ASCII of fixed length.

    HDF5's low-level functions write the same bytes in 0.4 of the time, which counts for very many data sets.
    """
    settings = h5p.create(h5p.DATASET_CREATE)
    settings.set_obj_track_times(False)
    dataset = h5d.create(store.id, name.encode(), h5t.py_create(data.dtype), h5s.create_simple(data.shape), settings)
    dataset.write(h5s.ALL, h5s.ALL, data)
    value = np.array(text.encode())
    h5a.create(dataset, attribute.encode(), h5t.py_create(value.dtype), h5s.create(h5s.SCALAR)).write(value)


def texts_of(store: h5py.File, attribute: str, length: int) -> dict[str, str]:
    """{name: text} for each data set of a file, in the file's order; the text is an attribute of `length` bytes.

    Raises KeyError, ValueError or TypeError where a data set lacks it.
    """
    value, texts = np.empty((), f"S{length}"), {}
    for name in store:
        h5a.open(store.id, attribute.encode(), obj_name=name.encode()).read(value)
        texts[name] = value.item().decode()
    return texts


def fixed_length(texts: list[str]) -> np.ndarray:
    """Texts as `get_dataset` reads them. HDF5 2.0 can hang on damaged texts of variable length."""
    encoded = [text.encode() for text in texts]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(map(len, encoded), default=1)))


def require_room_for(path: Path, nbytes: int, data_sets: int) -> None:
    """Raise UserError unless an HDF5 file of this size fits beside `path`: HDF5 may crash where a write fails."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    size = nbytes + OVERHEAD * (data_sets + 16)
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            os.posix_fallocate(probe.fileno(), 0, size)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror}); it takes {size / 1e6:.1f} MB") from None

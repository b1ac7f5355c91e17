"""HDF5 files that may be damaged, or come from a stranger: read, or refused in one line that names what is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from h5py import h5a, h5d, h5p, h5s, h5t

from utils.common.errors import UserError
from utils.common.io import require_file, require_room

OVERHEAD = 4096  # bytes of a data set beside its content, at the most
KINDS = {"f": "floating-point numbers", "i": "whole numbers", "S": "texts of fixed length"}


@contextmanager
def open_hdf5(path: Path | str, made_by: str) -> Iterator[h5py.File]:
    """Open an HDF5 file that the command `made_by` wrote.

    Raises UserError where it is missing, and for whatever h5py raises, then or while the file is read.
    """
    require_file(path, made_by)
    try:
        with h5py.File(path, "r") as store:
            yield store
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, OverflowError) as error:
        why = " ".join((str(error) or type(error).__name__).split())
        raise UserError(f"{path}: not a readable HDF5 file ({why}); run {made_by} again") from None


def get_dataset(store: h5py.File, name: str, made_by: str, kind: str = "f") -> h5py.Dataset:
    """A data set of one of KINDS that is stored in this file, in full.

    Links, virtual data sets and external storage could lead to any other file of the machine, and a data set without
    storage can be larger than its memory.

    Raises UserError where it is anything else.
    """
    link = None if "/" in name else store.get(name, getlink=True)
    data = store[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset):
        raise UserError(f"{store.filename}: {name} is not a data set of this file; run {made_by} again")
    if data.is_virtual or data.external or data.shape is None or data.id.get_storage_size() < data.nbytes:
        raise UserError(f"{store.filename}: {name} is not stored in this file in full; run {made_by} again")
    if data.dtype.kind != kind:
        raise UserError(f"{store.filename}: {name} holds {data.dtype}, not {KINDS[kind]}; run {made_by} again")
    return data


def write_dataset(store: h5py.File, name: str, data: np.ndarray, attribute: str, text: str) -> None:
    """`store.create_dataset(name, data=data).attrs[attribute] = text`, ASCII of fixed length: the same bytes.

    By HDF5's own functions, in 0.4 of the time: for files of very many data sets.
    """
    settings = h5p.create(h5p.DATASET_CREATE)
    settings.set_obj_track_times(False)
    written = h5d.create(store.id, name.encode(), h5t.py_create(data.dtype), h5s.create_simple(data.shape), settings)
    written.write(h5s.ALL, h5s.ALL, data)
    value = np.array(text.encode())
    h5a.create(written, attribute.encode(), h5t.py_create(value.dtype), h5s.create(h5s.SCALAR)).write(value)


def texts_of(store: h5py.File, attribute: str, length: int) -> dict[str, str]:
    """{name: text} of every data set of a file, the text its attribute of `length` bytes, in the file's order of names.

    Raises KeyError, ValueError or TypeError where one has none.
    """
    value, texts = np.empty((), f"S{length}"), {}
    for name in store:
        h5a.open(store.id, attribute.encode(), obj_name=name.encode()).read(value)
        texts[name] = value.item().decode()
    return texts


def fixed_length(texts: list[str]) -> np.ndarray:
    """Texts as `get_dataset` reads them: HDF5 2.0 can wait for ever on damaged ones of variable length."""
    encoded = [text.encode() for text in texts]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(map(len, encoded), default=1)))


def require_room_for(path: Path, nbytes: int, data_sets: int) -> None:
    """Raise UserError unless an HDF5 file of so many bytes in so many data sets fits beside `path`."""
    require_room(path, nbytes + OVERHEAD * (data_sets + 16))

"""HDF5 files of strangers."""

import h5py
import numpy as np
import pytest

from tests.helpers import ROOT
from utils.common.errors import UserError
from utils.common.hdf5 import fixed_length, get_dataset, open_hdf5

NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)
FIXED = fixed_length(["loud"])
README = ROOT / "README.md"
ELSEWHERE, ABSENT = "is not a data set of this file", "is not stored in this file in full, or is compressed"


@pytest.fixture
def path(tmp_path):
    """A file with the data set `elsewhere`, and beside it another file with `x`."""
    for name, key in (("store.hdf5", "elsewhere"), ("other.hdf5", "x")):
        with h5py.File(tmp_path / name, "w") as store:
            store[key] = NUMBERS
    return tmp_path / "store.hdf5"


def read(path, kind="f", name="x"):
    with open_hdf5(path, "main.py") as store:
        return get_dataset(store, name, "main.py", kind)[()]


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_numbers_and_texts_are_read(path, kind):
    texts = ["dog", "été", ""]
    with h5py.File(path, "a") as store:
        store["x"], store["texts"], store["signed"] = NUMBERS.astype(kind), fixed_length(texts), np.int32([1, -2])
    assert read(path).dtype == kind and np.array_equal(read(path), NUMBERS)
    assert [text.decode() for text in read(path, "S", "texts")] == texts
    assert read(path, "i", "signed").tolist() == [1, -2]


def virtual(store):
    layout = h5py.VirtualLayout((2, 3), "f4")
    layout[:] = h5py.VirtualSource("other.hdf5", "x", (2, 3))
    store.create_virtual_dataset("x", layout)


def put(content):
    return lambda store: store.__setitem__("x", content)


@pytest.mark.parametrize(
    ("kind", "spoil", "problem"),
    [
        ("f", lambda store: store.create_group("x"), ELSEWHERE),
        ("f", put(h5py.ExternalLink("other.hdf5", "x")), ELSEWHERE),
        ("f", put(h5py.SoftLink("/elsewhere")), ELSEWHERE),
        ("f", lambda store: None, ELSEWHERE),
        ("f", virtual, ABSENT),
        ("f", lambda store: store.create_dataset("x", (9, 64), "f4", external=[(str(README), 0, 2304)]), ABSENT),
        ("f", lambda store: store.create_dataset("x", (10**10, 64), "f4", chunks=(1000, 64)), ABSENT),
        ("f", put(h5py.Empty("f4")), ABSENT),
        *(("f", put(content), "floating-point numbers") for content in ([1, 2], "of any length", FIXED)),
        *(("i", put(content), "whole numbers") for content in ([1.5], np.uint8([1]), "of any length", FIXED)),
        *(("S", put(content), "texts of fixed length") for content in ([1, 2], "of any length", np.float32(1))),
    ],
)
def test_anything_but_a_stored_data_set_of_its_kind_is_refused(path, kind, spoil, problem):
    with h5py.File(path, "a") as store:
        spoil(store)
    with pytest.raises(UserError, match=rf"^[^\n]*store\.hdf5: x .*{problem}; run main\.py again$"):
        read(path, kind)


def test_a_damaged_or_missing_file_names_the_command(path):
    for content in (path.read_bytes()[:100], b"text", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"^[^\n]*store\.hdf5: not a readable HDF5 file .*; run main\.py again$"):
            read(path)
    path.unlink()
    with pytest.raises(UserError, match=r"store\.hdf5: no such file; main\.py makes it"):
        read(path)


def test_a_name_in_a_group_is_refused(path):
    with h5py.File(path, "a") as store:
        store["group/x"] = NUMBERS
    with pytest.raises(UserError, match="group/x is not a data set of this file"):
        read(path, name="group/x")

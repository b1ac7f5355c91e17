"""What a stranger's HDF5 file may not hold is refused in one line."""

import h5py
import numpy as np
import pytest

from tests.helpers import ROOT
from utils.common.errors import UserError
from utils.common.hdf5 import fixed_length, get_dataset, open_hdf5

NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def path(tmp_path):
    """A file with the data set `elsewhere`, and beside it another file with `x`."""
    for name, key in (("store.hdf5", "elsewhere"), ("other.hdf5", "x")):
        with h5py.File(tmp_path / name, "w") as store:
            store[key] = NUMBERS
    return tmp_path / "store.hdf5"


def read(path, kind="f"):
    with open_hdf5(path, "main.py") as store:
        return get_dataset(store, "x", "main.py", kind)[()]


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_numbers_and_texts_are_read(path, kind):
    with h5py.File(path, "a") as store:
        store["x"] = NUMBERS.astype(kind)
    assert read(path).dtype == kind and np.array_equal(read(path), NUMBERS)
    with h5py.File(path, "a") as store:
        del store["x"]
        store["x"] = fixed_length(["dog", "été", ""])
    assert [text.decode() for text in read(path, "S")] == ["dog", "été", ""]


def virtual(store):
    layout = h5py.VirtualLayout((2, 3), "f4")
    layout[:] = h5py.VirtualSource("other.hdf5", "x", (2, 3))
    store.create_virtual_dataset("x", layout)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda store: store.create_group("x"), "not a data set of this file"),
        (lambda store: store.__setitem__("x", h5py.ExternalLink("other.hdf5", "x")), "not a data set of this file"),
        (lambda store: store.__setitem__("x", h5py.SoftLink("/elsewhere")), "not a data set of this file"),
        (lambda store: None, "not a data set of this file"),
        (virtual, "not stored in this file in full"),
        (
            lambda store: store.create_dataset("x", (9, 64), "f4", external=[(str(ROOT / "README.md"), 0, 2304)]),
            "not stored in this file in full",
        ),
        (
            lambda store: store.create_dataset("x", (10**10, 64), "f4", chunks=(1000, 64)),
            "not stored in this file in full",
        ),
        (lambda store: store.create_dataset("x", data=h5py.Empty("f4")), "not stored in this file in full"),
        (lambda store: store.create_dataset("x", data=[1, 2]), "int64"),
        (lambda store: store.create_dataset("x", data="loud"), "object"),
        (lambda store: store.create_dataset("x", data=fixed_length(["loud"])), "not floating-point numbers"),
    ],
)
def test_what_is_not_numbers_of_this_file_is_refused(path, spoil, what):
    with h5py.File(path, "a") as store:
        spoil(store)
    with pytest.raises(UserError, match=rf"^[^\n]*store\.hdf5: x .*{what}.*; run main\.py again$"):
        read(path)


@pytest.mark.parametrize("content", [[1.5], np.uint8([1]), "of any length", fixed_length(["loud"])])
def test_what_is_not_whole_numbers_is_refused(path, content):
    with h5py.File(path, "a") as store:
        store["x"] = np.array([1, -2], np.int32)
    assert read(path, "i").tolist() == [1, -2]
    with h5py.File(path, "a") as store:
        del store["x"]
        store["x"] = content
    with pytest.raises(UserError, match=r"store\.hdf5: x holds .*whole numbers; run main\.py again$"):
        read(path, "i")


@pytest.mark.parametrize("content", [[1, 2], "of any length", np.float32(1)])
def test_what_is_not_texts_of_fixed_length_is_refused(path, content):
    with h5py.File(path, "a") as store:
        store["x"] = content
    with pytest.raises(UserError, match=r"store\.hdf5: x holds .*texts of fixed length; run main\.py again$"):
        read(path, "S")


def test_a_damaged_or_missing_file_names_the_command(path):
    for content in (path.read_bytes()[:100], b"text", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"^[^\n]*store\.hdf5: not a readable HDF5 file .*; run main\.py again$"):
            read(path)
    path.unlink()
    with pytest.raises(UserError, match=r"store\.hdf5: no such file; main\.py makes it"):
        read(path)


def test_names_that_lead_elsewhere_in_the_file_are_refused(path):
    with h5py.File(path, "a") as store:
        store["group/x"] = NUMBERS
        with pytest.raises(UserError, match="group/x is not a data set of this file"):
            get_dataset(store, "group/x", "main.py")

"""Features that the user wrote are checked: each fault is one line."""

import h5py
import numpy as np
import pytest

from utils.common.errors import UserError
from utils.dataset.audio import Clip
from utils.dataset.own_features import LISTED, Sizes, check_own_features

CLIPS = {fid: Clip(f"{fid}.wav", 1.0, 16000, 1, "0" * 64) for fid in "abc"}


@pytest.fixture
def files(tmp_path):
    """Two files without a fault, of 5 dimensions, with their clips."""
    for name in ("x", "y"):
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as store:
            store.attrs["model"], store.attrs["seconds_per_frame"] = "PANNs", 0.5
            for frames, fid in enumerate("abcd", start=1):
                store[fid] = np.ones((frames, 5), np.float16 if fid == "a" else np.float32)
    return {tmp_path / f"{name}.hdf5": CLIPS for name in ("x", "y")}


def test_good_features_have_their_sizes(files):
    assert check_own_features(files) == dict.fromkeys(files, Sizes(6, 5))


def put(content, fid="b"):
    def change(store):
        del store[fid]
        store[fid] = content

    return change


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda store: store.pop("b"), "lacks 1 clip of the split, such as b ('b.wav'); add"),
        (put(np.ones((2, 0), "f4")), "b ('b.wav') has the shape (2, 0); write (frames, dimensions)"),
        (put(np.ones((0, 5), "f4")), "b ('b.wav') has no frames; write one or more"),
        (put(np.ones((2, 5), int)), "b holds int64, not floating-point numbers"),
        (put(np.full((2, 5), 1e300)), "b ('b.wav') has features that are not finite"),
        (put(h5py.ExternalLink("z.hdf5", "b")), "b is not a data set of this file"),
        (put(np.ones((2, 6), "f4"), "c"), "c has 6 dimensions, but a has 5; write all by one model"),
        (lambda store: store.attrs.pop("model"), "the attribute model is missing or no text"),
        (lambda store: store.attrs.modify("seconds_per_frame", np.nan), "the attribute seconds_per_frame is missing"),
    ],
)
def test_each_fault_is_one_line(files, change, line):
    path = next(iter(files))
    with h5py.File(path, "a") as store:
        change(store)
    with pytest.raises(UserError) as error:
        check_own_features(files)
    assert str(error.value).startswith(f"{path}: {line}") and "\n" not in str(error.value)


def test_all_faults_are_reported_and_many_are_counted(files, tmp_path):
    first, second = files
    clips = {f"{number:03}": CLIPS["a"] for number in range(30)}
    with h5py.File(first, "a") as store:
        for fid in clips:
            store[fid] = np.zeros((1, 5), int)
    with h5py.File(second, "a") as store:
        for fid in CLIPS:
            put(np.ones((1, 7), "f4"), fid)(store)
        store["other"] = 3  # of no clip
    third = tmp_path / "z.hdf5"
    with pytest.raises(UserError) as error:
        check_own_features({first: CLIPS | clips, second: CLIPS, third: CLIPS})
    lines = str(error.value).splitlines()
    assert sum("holds int64" in line for line in lines) == LISTED
    assert lines[LISTED:] == [
        f"{first}: 20 more faults",
        f"{third}: no such file; write it (docs/features.md), or set audio_features.model to efficientat",
        f"{second}: 7 dimensions, but {first} has 5; write all by one model",
    ]

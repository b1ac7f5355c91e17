"""One captions file and one folder of sounds are divided into splits: by clip, seeded, and never half."""

import csv
import os
import random
import subprocess
import sys

import pytest

from tests.helpers import ROOT, call
from utils.dataset.captions import read_captions

SPLIT = "preprocessing/0_split_dataset.py"
SPLITS = ("development", "validation", "evaluation")
CLIPS = [f"{i:02}.wav" for i in range(20)]
TEXTS = {name: [f"{name} says {k}, or more" for k in range(1, 2 + i % 4)] for i, name in enumerate(CLIPS)}
TWINS = CLIPS[:4]  # of equal content


@pytest.fixture
def collection(tmp_path):
    """collection(is_long, order) -> the command for a captions file in this form, and a folder of 20 files."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for name in CLIPS:
        (sounds / name).write_bytes(b"0000" if name in TWINS else name.encode())

    def write(is_long=True, order=0):
        if is_long:
            rows = [(name, "x", text) for name, texts in TEXTS.items() for text in texts]
            random.Random(order).shuffle(rows)
            rows = [("file_name", "note", "caption"), *rows]
        else:
            header = ("file_name", *(f"caption_{k}" for k in range(1, 5)))
            rows = [header, *((name, *texts, *[""] * (4 - len(texts))) for name, texts in TEXTS.items())]
        with (tmp_path / "captions.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
        return [SPLIT, tmp_path / "captions.csv", sounds, f"data_conf.dataset={tmp_path / 'data'}"]

    return write


def texts_of(data, split):
    """{clip: its captions} of a split."""
    texts = {}
    for caption in read_captions(data / f"clotho_captions_{split}.csv"):
        texts.setdefault(caption.file_name, []).append(caption.raw_text)
    return {name: sorted(filter(None, found)) for name, found in texts.items()}


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("is_long", [True, False])
def test_each_clip_is_in_one_split_with_all_its_captions_and_its_sound(collection, tmp_path, is_long):
    printed = call(*collection(is_long), "--fractions", "0.5", "0.3", "0.2")
    data, found = tmp_path / "data", {}
    for split in SPLITS:
        texts = texts_of(data, split)
        assert {path.name for path in (data / split).iterdir()} == set(texts)
        assert all((data / split / name).samefile(tmp_path / "sounds" / name) for name in texts)
        assert f"{split}: {len(texts)} clips -> {data / split} ({len(texts)} hard links)" in printed
        assert not texts.keys() & found.keys()
        assert texts.keys() >= set(TWINS) or texts.keys().isdisjoint(TWINS)
        found |= texts
    assert found == TEXTS
    sizes = [len(texts_of(data, split)) for split in SPLITS]
    assert sum(sizes) == 20 and all(abs(size - wanted) < 4 for size, wanted in zip(sizes, (10, 6, 4), strict=True))
    assert {path.name for path in data.iterdir()} == {*SPLITS, *(f"clotho_captions_{split}.csv" for split in SPLITS)}


def test_the_seed_and_the_names_decide_the_splits(collection, tmp_path):
    divisions = []
    for number, (seed, order) in enumerate([(0, 0), (0, 1), (1, 1)]):
        place = f"data_conf.dataset={tmp_path / str(number)}"
        call(*collection(order=order), place, "--seed", seed)
        divisions.append([set(texts_of(tmp_path / str(number), split)) for split in SPLITS])
    assert divisions[0] == divisions[1] != divisions[2]


def test_sounds_are_copied_where_no_link_can_be_made(collection, tmp_path, monkeypatch):
    command = collection()
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link")))
    printed = call(*command)
    assert "(16 copied files)" in printed
    for name in texts_of(tmp_path / "data", "development"):
        copy, sound = tmp_path / "data" / "development" / name, tmp_path / "sounds" / name
        assert copy.read_bytes() == sound.read_bytes() and not copy.samefile(sound)
    assert "(there already)" in call(*command)


@pytest.mark.parametrize(
    ("function", "calls"), [("os.link", 3), ("pathlib.Path.replace", 2), ("pathlib.Path.replace", 5)]
)
def test_a_killed_division_is_completed_by_the_same_command(collection, tmp_path, function, calls):
    """The kill comes in the first folder, between two folders, or between two captions files."""
    command = [*map(str, collection())]
    code = f"""
import os, pathlib, runpy, sys
real, left = {function}, {calls}
def killed(*arguments):
    global left
    left -= 1
    return real(*arguments) if left else os.kill(os.getpid(), 9)
{function} = killed
sys.argv[:] = {command}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True).returncode == -9
    data = tmp_path / "data"
    whole = [split for split in SPLITS if (data / split).exists()]
    assert len(list(data.glob("*.csv"))) == (1 if calls == 5 else 0) and len(whole) == {3: 0, 2: 1, 5: 3}[calls]
    call(*command)
    call(*command, f"data_conf.dataset={tmp_path / 'undisturbed'}")
    assert contents(data) == contents(tmp_path / "undisturbed")
    before = contents(data)
    assert "exists, and is not what" in call(*command, "--seed", "1", status=2)
    assert contents(data) == before


def test_clips_without_sounds_and_sounds_without_captions_are_counted_and_left_out(collection, tmp_path):
    command = collection()
    (tmp_path / "sounds" / "07.wav").rename(tmp_path / "sounds" / "unnamed.wav")
    assert "line " in (complaint := call(*command, status=2)) and "('07.wav'): no such audio file" in complaint
    printed = call(*command, "clotho_dataset.on_bad_data=skip").splitlines()
    assert printed[-2].startswith("left out, clip without a sound: 1, e.g. ") and "'07.wav'" in printed[-2]
    assert printed[-1] == "left out, sound without captions: 1, e.g. unnamed.wav"
    found = [name for split in SPLITS for name in texts_of(tmp_path / "data", split)]
    assert sorted(found) == [name for name in CLIPS if name != "07.wav"]

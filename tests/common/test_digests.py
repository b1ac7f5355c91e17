import hashlib
import os
import time

import pytest

from utils.common import digests as module
from utils.common.digests import KEPT, digest_of, digests, file_digest


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def start_again():
    """Clear what a process remembers, as a new command starts."""
    module._digest.cache_clear()
    module._kept.cache_clear()


@pytest.fixture
def settled(monkeypatch):
    """Three seconds later, when a file that was just written can be told from a later version."""
    start_again()
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 3 * 10**9)


def test_a_digest_follows_the_content(tmp_path):
    path = tmp_path / "x"
    for second, content in enumerate((b"one", b"two")):  # of one length
        path.write_bytes(content)
        os.utime(path, (second, second))  # two writes may come within one tick of the clock
        assert file_digest(path) == digests(tmp_path, ["x"])["x"] == sha256(content)


def test_names_without_files_are_left_out(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"c")
    os.mkfifo(tmp_path / "pipe")
    names = ["a", "b/c", "b", "absent", "pipe", "nul\0", tmp_path / "a"]
    assert digests(tmp_path, names) == {"a": sha256(b"a"), "b/c": sha256(b"c"), str(tmp_path / "a"): sha256(b"a")}


def test_a_fresh_file_is_read_again(tmp_path):
    """It may change within the same tick of the clock."""
    (tmp_path / "x").write_bytes(b"one")
    digests(tmp_path, ["x"])
    assert not (tmp_path / KEPT).exists()


def test_all_commands_read_a_settled_file_once(tmp_path, settled, monkeypatch):
    (tmp_path / "x").write_bytes(b"one")
    assert digests(tmp_path, ["x"]) == {"x": sha256(b"one")}
    start_again()
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert digests(tmp_path, ["x"]) == {"x": sha256(b"one")}


@pytest.mark.parametrize("spoil", ["other", "replaced", "times set back"])
def test_a_file_that_was_changed_is_read_again(tmp_path, settled, spoil):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    status = path.stat()
    digests(tmp_path, ["x"])
    start_again()
    if spoil == "replaced":
        (tmp_path / "y").write_bytes(b"two")
        os.utime(tmp_path / "y", ns=(status.st_atime_ns, status.st_mtime_ns))
        (tmp_path / "y").replace(path)
    else:
        path.write_bytes(b"two")
        if spoil == "times set back":
            time.sleep(0.02)  # a tick
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digests(tmp_path, ["x"]) == {"x": sha256(b"two")}


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"x": 3}', b'{"x": [[1, 2, 3], "0"]}', b"[" * 100_000])
def test_a_damaged_record_is_ignored(tmp_path, settled, content):
    (tmp_path / "x").write_bytes(b"one")
    (tmp_path / KEPT).write_bytes(content)
    assert digests(tmp_path, ["x"]) == {"x": sha256(b"one")}


def test_no_flipped_bit_of_a_record_blames_a_file(tmp_path, settled):
    names = ["x", "y"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    digests(tmp_path, names)
    kept = (tmp_path / KEPT).read_bytes()
    for bit in range(0, 8 * len(kept), 23):
        flipped = bytearray(kept)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / KEPT).write_bytes(flipped)
        module._kept.cache_clear()
        assert digests(tmp_path, names) == {name: sha256(name.encode()) for name in names}, bytes(flipped)


def test_a_directory_that_cannot_be_written_to_is_read(tmp_path, settled):
    (tmp_path / "x").write_bytes(b"one")
    (tmp_path / KEPT).mkdir()  # in the way
    assert digests(tmp_path, ["x"]) == {"x": sha256(b"one")}


def test_the_digest_of_a_value_does_not_depend_on_the_order_of_its_keys():
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1}) == sha256(b'{"a": 1, "b": [2]}')
    assert digest_of({"a": 1}) != digest_of({"a": 2})

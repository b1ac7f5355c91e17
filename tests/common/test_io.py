"""Files are whole or absent, whatever ends a write; JSON, CSV and progress."""

import io
import os
import signal
import subprocess
import sys

import pytest
import torch

from tests.helpers import ROOT
from utils.common.errors import UserError
from utils.common.io import atomic_write, progress, read_json, write_csv, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    for error, told in ((KeyError("x"), KeyError), (RuntimeError("disk"), UserError), (OSError(28, "full"), UserError)):
        with pytest.raises(told), atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]


class InterruptedFile(io.BytesIO):
    """A file whose second write is interrupted by ctrl-C."""

    writes = 0

    def write(self, content):
        self.writes += 1
        if self.writes == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return super().write(content)


def test_an_interrupt_of_torch_save_stays_an_interrupt(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "x.pt"):
        torch.save({"a": torch.zeros(1000)}, InterruptedFile())
    assert not list(tmp_path.iterdir())


def test_a_write_removes_what_a_killed_one_left(tmp_path):
    script = f"""
import os
from utils.common.io import atomic_write
with atomic_write({str(tmp_path / "out.txt")!r}) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), 9)
"""
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT)
    (left,) = tmp_path.iterdir()
    assert killed.returncode == -9 and left.read_text() == "half"
    alive = left.with_name(left.name.replace(left.name.split(".")[-2], str(os.getppid())))
    alive.write_text("another process is at it")
    with atomic_write(tmp_path / "out.txt") as temporary:
        temporary.write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive.name, "out.txt"])


def test_json_round_trip_and_refusal_of_nan(tmp_path):
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"ä": [1.5, None]})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"x": float("nan")})
    assert read_json(path, "main.py") == {"ä": [1.5, None]}


@pytest.mark.parametrize("content", [None, "{", "[" * 100_000, "[]", b"\xff"])
def test_missing_and_damaged_json_name_the_command(tmp_path, content):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"^[^\n]*x\.json: .*main\.py (makes it|again)$"):
        read_json(path, "main.py")


def test_csv_quotes_what_needs_it(tmp_path):
    write_csv(tmp_path / "x.csv", ["a", "b"], [["1,2", 'say "x"'], ["é", ""]])
    assert (tmp_path / "x.csv").read_bytes().decode() == 'a,b\n"1,2","say ""x"""\né,\n'


def test_progress_prints_plain_lines_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert list(progress([1, 2, 3], "work", total=3, seconds=0)) == [1, 2, 3]
    assert capsys.readouterr().err.splitlines() == ["work: 1/3", "work: 2/3", "work: 3/3"]

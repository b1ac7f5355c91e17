"""Any text can be printed, none of it controls a terminal, and a closed pipe ends a command."""

import io
import json
import os
import subprocess
import sys

import pytest
from tqdm import tqdm

from tests.helpers import ROOT, closed_pipe
from utils.common.streams import Stream, standard_streams, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a dog – 雨 🐕", "a dog – 雨 🐕"),
        ("one\n\ttwo", "one\n\ttwo"),
        ("\x1b[2J", "\\u001b[2J"),
        ("\x9b2J\x7f\0", "\\u009b2J\\u007f\\u0000"),
        ("left \u202eright\u2066", "left \\u202eright\\u2066"),
        ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),
        ("caf\udce9", "caf\\udce9"),
        ("tag \U000e0041", "tag \\U000e0041"),
        ("error: x\rfine", "error: x\\u000dfine"),
    ],
)
def test_characters_that_move_a_cursor_are_escaped(text, shown):
    assert visible(text) == shown


def test_json_stays_the_same_json():
    value = {"a": "\x1b\x7f\r\n\u2028 é 雨", "b": [1.5, None]}
    for ascii_only in (True, False):
        text = json.dumps(value, indent=2, ensure_ascii=ascii_only)
        assert json.loads(visible(text)) == value


def test_a_stream_escapes_what_its_encoding_lacks():
    target = io.BytesIO()
    stream = Stream(io.TextIOWrapper(target, encoding="ascii"))
    print("café 雨 \x1b[1m\udc80", file=stream, flush=True)
    assert target.getvalue() == b"caf\\xe9 \\u96e8 \\u001b[1m\\udc80\n"


def test_a_progress_bar_is_drawn_unchanged():
    def drawn(wrap):
        stream = io.StringIO(newline="")
        for _ in tqdm(range(3), "é", file=wrap(stream), mininterval=0, leave=False, bar_format="{desc}{bar:9}{n}"):
            pass
        return stream.getvalue()

    assert drawn(Stream) == drawn(lambda stream: stream) and "\r" in drawn(Stream)


def test_the_earlier_streams_come_back(capsys):
    before = sys.stdout, sys.stderr
    with standard_streams():
        print("\x1b")
        print("\x07", file=sys.stderr)
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ("\\u001b\n", "\\u0007\n")


# --- in a child process ----------------------------------------------------------------------------------

PRINTS_ON = "while True: print('a line')"
PRINTS_AT_ITS_END = "print('a line')"
PRINTS_ERRORS = "while True: print('a line', file=sys.stderr)"
LOGS = "logging.basicConfig(stream=sys.stdout, level=0)\n    while True: logging.info('a line')"
WRITES_A_FILE = "with atomic_write(sys.argv[1]) as path:\n        path.write_text('x')\n        print('x', flush=True)"
OTHERS_PIPE = "raise BrokenPipeError(32, 'Broken pipe')"


def command(main, *arguments, **streams):
    """Run a command whose main() has this body."""
    code = "import logging, sys\n"
    code += "from utils.common.errors import run_command\nfrom utils.common.io import atomic_write\n"
    code += f"def main():\n    {main}\nrun_command(main)"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, text=True, timeout=60, **streams)


@pytest.mark.parametrize(
    ("main", "closed"),
    [(PRINTS_ON, "stdout"), (PRINTS_AT_ITS_END, "stdout"), (LOGS, "stdout"), (PRINTS_ERRORS, "stderr")],
)
def test_a_closed_pipe_ends_a_command_quietly(main, closed):
    with closed_pipe() as pipe:
        done = command(main, **{closed: pipe})
    assert done.returncode == 141 and not done.stdout and not done.stderr


def test_a_closed_pipe_is_not_blamed_on_the_file_being_written(tmp_path):
    with closed_pipe() as pipe:
        done = command(WRITES_A_FILE, tmp_path / "x", stdout=pipe)
    assert (done.returncode, done.stderr) == (141, "") and not list(tmp_path.iterdir())


def test_another_broken_pipe_is_an_error():
    done = command(OTHERS_PIPE)
    assert (done.returncode, done.stderr) == (2, "error: Broken pipe\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")  # noqa: PTH110
@pytest.mark.parametrize("main", [PRINTS_ON, PRINTS_AT_ITS_END, LOGS])
def test_a_full_disk_under_the_output_is_one_line(main):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = command(main, stdout=full)
    assert (done.returncode, done.stderr) == (2, "error: <stdout>: could not be written (No space left on device)\n")


def test_closed_streams_discard_everything(tmp_path):
    body = "print('x'); print('y', file=sys.stderr); print(sys.stderr.isatty()); open(sys.argv[1], 'w').write('z')"
    done = command(body, tmp_path / "x", preexec_fn=lambda: (os.close(1), os.close(2)))
    assert done.returncode == 0 and (tmp_path / "x").read_text() == "z"

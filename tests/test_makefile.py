"""The Makefile's choice of a Python, among stand-ins on PATH."""

import shutil
import subprocess
import sys

import pytest

from tests.helpers import ROOT

FAILING = "exit 127"  # as pyenv's shim of a version that is not chosen
REAL = f'exec {sys.executable} "$@"'
OLD = f"exec {sys.executable} -c 'import sys; sys.version_info = (3, 14); exec(sys.argv[2])' \"$@\""
WITHOUT_VENV = f'case "$2" in *ensurepip*) exit 1;; esac; {REAL}'
NONE = "*** no Python 3.11 to 3.13 in python3.11 python3.12 python3.13 python3 python (gensim has no wheels for 3.14); "


@pytest.fixture
def make(tmp_path):
    """make(PYTHON=..., name=script) -> what `make venv` would do where only these Pythons are, or its error."""
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").touch()

    def run(pythons, *arguments):
        for name, script in pythons.items():
            path = tmp_path / "bin" / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        command = [shutil.which("make"), "--dry-run", "--no-print-directory", "venv", *arguments]
        env = {"PATH": str(tmp_path / "bin"), "LANG": "C"}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert (done.returncode == 0) == (done.stderr == "")
        return done.stderr or done.stdout

    return run


@pytest.mark.parametrize(
    ("pythons", "arguments", "chosen"),
    [
        ({"python3.11": REAL, "python3.12": REAL}, [], "python3.11"),
        ({"python3.11": FAILING, "python3.13": REAL, "python3": REAL}, [], "python3.13"),
        ({"python3": OLD, "python": REAL}, [], "python"),
        ({"python3.11": REAL, "python3": REAL}, ["PYTHON=python3"], "python3"),
    ],
)
def test_make_finds_a_python_that_runs_and_is_supported(make, pythons, arguments, chosen):
    assert f"|| {chosen} -m venv --clear .venv\n" in make(pythons, *arguments)


@pytest.mark.parametrize(
    ("pythons", "arguments", "message"),
    [
        ({"python3.11": FAILING, "python3": OLD}, [], NONE),
        ({"python3.11": REAL, "python3": OLD}, ["PYTHON=python3"], "*** no Python 3.11 to 3.13 in python3 (gensim"),
        ({"python3": WITHOUT_VENV}, [], "*** python3 lacks venv; on Debian or Ubuntu: sudo apt install python3."),
    ],
)
def test_make_says_in_one_line_what_is_missing(make, pythons, arguments, message):
    (line,) = make(pythons, *arguments).splitlines()
    assert message in line


def test_make_replaces_an_unfinished_environment_alone(make, tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    assert " -m ensurepip --default-pip 2>/dev/null || " in (said := make({"python3": REAL}))
    assert " -m venv --clear .venv\n" in said
    (tmp_path / ".venv" / "bin" / "pip").touch()
    assert make({}).startswith(".venv/bin/python -m pip install ")

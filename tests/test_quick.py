"""Commands import only what they need: --help and errors on the command line no library, a search by text few."""

import subprocess
import sys

import pytest

from benchmarks.commands import COMMANDS
from benchmarks.inputs import write_trial
from tests.helpers import ROOT, SEARCH

DRAWING = {"gensim", "librosa", "matplotlib", "nltk", "numba", "pandas", "ray", "sklearn", "transformers"}
NUMBERS = {"h5py", "numpy", "scipy", "soundfile", "torch"}
TRACED = """
import runpy, sys
del sys.argv[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.__stderr__)
"""


def imported(*command, status=0):
    """The packages that a command imports, and its standard output."""
    command = [sys.executable, "-c", TRACED, *map(str, command)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return set(done.stderr.splitlines()[-1].split()), done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_no_library(command):
    packages, printed = imported(command, "--help")
    assert printed.startswith("usage:") and packages.isdisjoint(DRAWING | NUMBERS | {"pydantic", "yaml"})


@pytest.mark.parametrize(
    "command",
    [
        ["main.py", "--confg", "conf.yaml"],
        ["main.py", "num_epoch"],
        ["main.py", "param_conf.epochs=1"],
        ["main.py", "criteria.TripletLoss.sampling=semihard"],
        ["main.py", "--conf", "absent.yaml"],
        ["preprocessing/4_audio_logmel.py", "audio_logmel.hop=0"],
        ["postprocessing/3_report.py", "--out", "x"],
        [SEARCH, "rain", "data_conf.eval_date=x"],
        [SEARCH],
    ],
)
def test_an_error_on_the_command_line_imports_no_library_of_numbers(command):
    packages, _ = imported(*command, status=2)
    assert packages.isdisjoint(DRAWING | NUMBERS)


def test_a_search_by_text_imports_what_reads_scores(tmp_path):
    trial = write_trial(tmp_path, 5)
    packages, printed = imported(SEARCH, "--trial", trial, "word1 word2")
    assert printed.startswith("rank") and packages.isdisjoint(DRAWING)

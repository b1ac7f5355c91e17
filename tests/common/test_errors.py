"""A command ends with one clear line for each problem, and no traceback."""

import subprocess
import sys

import pytest
import torch

from tests.helpers import ROOT
from utils.common.errors import UserError, complain, run_command

NEED_LESS = "shorter clips, and a lower param_conf.batch_size, need less"


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (UserError("conf.yaml: wrong"), ["error: conf.yaml: wrong"]),
        (UserError("one\ntwo"), ["error: one", "error: two"]),
        (UserError("Caught UserError in a worker.\nTraceback\nUserError: x: wrong\n"), ["error: x: wrong"]),  # torch's
        (PermissionError(13, "Permission denied", "/x"), ["error: /x: Permission denied"]),
        (OSError("odd"), ["error: odd"]),
        (MemoryError("3 GB"), [f"error: there is not enough memory (3 GB); {NEED_LESS}"]),
        (MemoryError(), [f"error: there is not enough memory (none is left); {NEED_LESS}"]),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total\nmore"),
            [f"error: there is not enough memory (2.50 GiB more were asked for); {NEED_LESS}"],
        ),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"),  # of cudaMalloc
            [f"error: there is not enough memory (CUDA error: out of memory); {NEED_LESS}"],
        ),
    ],
)
def test_commands_end_with_a_line_for_each_problem_and_status_2(capsys, error, lines):
    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == lines


def test_an_interrupt_is_silent(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 130 and not capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback(capsys):
    def main():
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_command(main)
    assert complain(KeyError("x")) == 1
    assert "KeyError: 'x'" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="Expected size"):
        run_command(lambda: torch.zeros(2) @ torch.zeros(3, 3, 3))


@pytest.mark.parametrize(
    "what",
    ["torch.zeros(10**8)", "torch.conv1d(torch.zeros(1, 1, 10**6), torch.zeros(64, 1, 3))", "numpy.zeros(10**9)"],
)
def test_memory_that_runs_out_is_one_line(what):
    limit = """
import resource, numpy, torch
from utils.common.errors import run_command
used = next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (used + 10**8, resource.RLIM_INFINITY))
"""
    code = f"{limit}run_command(lambda: {what})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: there is not enough memory (") and line.endswith(NEED_LESS)

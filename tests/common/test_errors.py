"""A command ends with one clear line for each problem, and no traceback."""

import importlib
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch

from benchmarks.commands import COMMANDS
from tests.helpers import ROOT, SEARCH
from utils.common.errors import UserError, report_error, run_command

FEWER = "or memory is short; run the command with OMP_NUM_THREADS=1, or raise the limit that `ulimit -u` shows"
NEED_LESS = "use shorter clips or a lower param_conf.batch_size"


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (UserError("conf.yaml: wrong"), ["error: conf.yaml: wrong"]),
        (UserError("one\ntwo"), ["error: one", "error: two"]),
        (PermissionError(13, "Permission denied", "/x"), ["error: /x: Permission denied"]),
        (OSError("odd"), ["error: odd"]),
        (MemoryError("3 GB"), [f"error: there is not enough memory (3 GB); {NEED_LESS}"]),
        (MemoryError(), [f"error: there is not enough memory (none is left); {NEED_LESS}"]),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total\nmore"),
            [f"error: there is not enough memory (2.50 GiB more were requested); {NEED_LESS}"],
        ),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"),  # of cudaMalloc
            [f"error: there is not enough memory (CUDA error: out of memory); {NEED_LESS}"],
        ),
        *(
            (kind(why), [f"error: no further thread or process can be started ({why}), {FEWER}"])
            for kind, why in (
                (RuntimeError, "can't start new thread"),
                (RuntimeError, "could not create a primitive"),  # oneDNN
                (partial(BlockingIOError, 11), "Resource temporarily unavailable"),  # fork
            )
        ),
        (KeyboardInterrupt(), []),
        (KeyboardInterrupt("stopped; resume"), ["stopped; resume"]),
    ],
)
def test_commands_end_with_a_line_for_each_problem(capsys, error, lines):
    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert capsys.readouterr().err.splitlines() == lines


INTERRUPT = """
import os, runpy, signal, sys

class Interrupt:
    def find_spec(self, *_):
        reads = hasattr(sys.modules.get("utils.conf.command"), "trial_args")
        imports = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        if {"read": reads, "import": imports}[moment]:
            os.kill(os.getpid(), signal.SIGINT)

script, moment = sys.argv.pop(1), sys.argv.pop(1)
sys.meta_path.insert(0, Interrupt())
runpy.run_path(script, run_name="__main__")
"""
ARGUMENTS = {
    "preprocessing/0_split_dataset.py": ["captions.csv", "sounds"],
    SEARCH: ["rain"],
    "postprocessing/6_export.py": ["model.safetensors"],
}


@pytest.mark.parametrize("moment", ["read", "import"])
@pytest.mark.parametrize("script", COMMANDS)
def test_an_interrupt_while_a_script_reads_its_command_line_or_imports_is_silent(script, moment):
    command = [sys.executable, "-c", INTERRUPT, script, moment, *ARGUMENTS.get(script, [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_caller_that_ignores_interrupts_keeps_ignoring_them():
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)" + INTERRUPT
    command = [sys.executable, "-c", code, "preprocessing/0_demo_dataset.py", "read", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "section.key=value" in done.stdout


def test_importing_a_script_leaves_interrupts_alone():
    for script in COMMANDS:
        importlib.import_module(script.removesuffix(".py").replace("/", "."))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_bug_keeps_its_traceback(capsys):
    def main():
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_command(main)
    assert report_error(KeyError("x")) == 1
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

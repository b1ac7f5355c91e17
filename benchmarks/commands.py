"""Measure what a command costs before it works: CPU seconds of --help, of a wrong setting, and of a search by text.

usage: python -m benchmarks.commands [--rounds N]      (what `make bench` runs last)

The smallest of N rounds, each in a process of its own. The search is in 1,045 clips. Importing torch alone is shown to
compare with: --help does not import it.
"""

import resource
import subprocess
import sys
from tempfile import TemporaryDirectory

from benchmarks.harness import Table, amount, arguments, isolated
from benchmarks.inputs import ROOT, write_trial

CLIPS = 1045
COMMANDS = ["main.py", *(f"{path.parent.name}/{path.name}" for path in sorted(ROOT.glob("p*processing/[0-9]_*.py")))]


def cpu_seconds(*command: str, status: int = 0) -> float:
    """CPU seconds, of the user and the system, of a Python process that runs a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != status:
        raise RuntimeError(done.stderr)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: %(default)s")
    rounds = parser.parse_args().rounds
    table = Table(["command", "CPU", "at most"], first=46)

    def row(name: str, most: str, *command: str, status: int = 0) -> None:
        table.row(name, amount(min(cpu_seconds(*command, status=status) for _ in range(rounds))), most)

    for script in COMMANDS:
        row(f"{script} --help", "500 ms", script, "--help")
    row("main.py param_conf.num_epochs=1", "500 ms", "main.py", "param_conf.num_epochs=1", status=2)
    with TemporaryDirectory() as folder:
        trial = isolated(write_trial, folder, CLIPS)
        search = "postprocessing/4_search.py"
        row(f"{search} word1 word2", "1.5 s", search, "--trial", str(trial), "word1 word2")
    row("import torch", "", "-c", "import torch")


if __name__ == "__main__":
    main()

"""What the checks of identity cost: their share of each command's time, on a data set that is preprocessed.

python -m benchmarks.checks --conf FILE: preprocesses a configuration's data set again, trains a trial of one epoch,
scores, measures, reports and searches it, each by a process of its own, and prints a row for each.
"""

import argparse
import importlib
import json
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from utils.common.steps import CLEANING, EMBEDDING, INDEXING, LOG_MELS, MEASURING, SCORING, TRAINING
from utils.trial.provenance import ROOT

# In the order of their imports: each is replaced before the modules that take it by name are imported.
CHECKS = {
    "utils.common.digests": ("digests", "digest_of"),  # recording is counted as well, but for the sounds of step 2
    "utils.trial.checkpoint": ("_seal_of",),
    "utils.trial.provenance": ("read_provenance", "record"),
    "utils.trial.preprocessing": ("check_steps", "holds", "sources"),
    "utils.trial.identity": ("check_trial", "check_data", "check_made", "require_same_run", "training_of"),
    "utils.common.folders": ("_require_own",),
}


class Clock:
    """Seconds within any of the functions that it times; a call within another counts once."""

    def __init__(self):
        self.seconds, self.depth = 0.0, 0

    def timed(self, function: Callable) -> Callable:
        @wraps(function)
        def run(*args, **kwargs):
            self.depth += 1
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.depth -= 1
                self.seconds += (time.perf_counter() - started) * (self.depth == 0)

        return run


def run_timed(report: Path, script: str, arguments: list[str]) -> None:
    """Run a script in this process, which has not imported it yet; its checks' seconds go to a file."""
    clock = Clock()
    for name, functions in CHECKS.items():
        module = importlib.import_module(name)
        for function in functions:
            setattr(module, function, clock.timed(getattr(module, function)))
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    finally:
        report.write_text(json.dumps(clock.seconds))


def measure(script: str, arguments: list[str]) -> tuple[float, float]:
    """Seconds of a command, its start included, and of its checks."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "seconds"
        command = [sys.executable, "-m", "benchmarks.checks", "--timed", report, script, *arguments]
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started, json.loads(report.read_text())


def main() -> None:
    if sys.argv[1:2] == ["--timed"]:
        run_timed(Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conf", required=True, help="configuration of a preprocessed data set")
    conf = parser.parse_args().conf
    with tempfile.TemporaryDirectory() as folder:
        settings = ["--conf", conf, f"trial_base={folder}"]
        commands = [
            *((step, ["--conf", conf]) for step in (CLEANING, INDEXING, EMBEDDING, LOG_MELS)),
            (TRAINING, [*settings, "param_conf.num_epoch=1"]),
            *((script, settings) for script in (SCORING, MEASURING, "postprocessing/3_report.py")),
            ("postprocessing/4_search.py", ["a dog barks", *settings]),
        ]
        print(f"{'command':40}{'s':>8}{'checks s':>10}{'share':>8}")
        for script, arguments in commands:
            total, checks = measure(script, arguments)
            print(f"{script:40}{total:8.2f}{checks:10.3f}{checks / total:8.1%}", flush=True)


if __name__ == "__main__":
    main()

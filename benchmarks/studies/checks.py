"""What the checks of identity cost: their share of each command's time, on a preprocessed data set.

usage: python -m benchmarks.studies.checks --conf FILE

Preprocesses the data set again, trains a trial of one epoch, scores, measures, reports and searches it, each in a child
process under Python's profiler, and prints a row for each.
"""

import pstats
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Table, amount, arguments, seconds
from benchmarks.inputs import ROOT
from utils.common.steps import CLEANING, EMBEDDING, INDEXING, LOG_MELS, MEASURING, SCORING, TRAINING

# Files whose functions check, or record what is checked. A call from one of them to another counts once; one from
# utils/dataset is the digest of a sound, and does not count
CHECKS = tuple(str(ROOT / "utils" / name) for name in (
    "common/digests.py", "common/folders.py", "trial/identity.py", "trial/preprocessing.py", "trial/provenance.py",
))  # fmt: skip


def checks_seconds(profile: Path) -> float:
    """Seconds that a profile has within the functions of CHECKS, with all that they call."""
    total = 0.0
    for (file, *_), (*_, callers) in pstats.Stats(str(profile)).stats.items():
        if file in CHECKS:
            outside = (caller for caller in callers if caller[0] not in CHECKS and "/utils/dataset/" not in caller[0])
            total += sum(callers[caller][3] for caller in outside)
    return total


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--conf", required=True, help="configuration of a preprocessed data set")
    conf = parser.parse_args().conf
    table = Table(["command", "all", "checks", "share"], first=40)
    with TemporaryDirectory() as folder:
        trial = ["--conf", conf, f"trial_base={folder}"]
        commands = [
            *([step, "--conf", conf] for step in (CLEANING, INDEXING, EMBEDDING, LOG_MELS)),
            [TRAINING, *trial, "param_conf.num_epoch=1"],
            *([script, *trial] for script in (SCORING, MEASURING, "postprocessing/3_report.py")),
            ["postprocessing/4_search.py", "a dog barks", *trial],
        ]
        for command in commands:
            whole = seconds(lambda command=command: run([sys.executable, *command]))
            run([sys.executable, "-m", "cProfile", "-o", f"{folder}/profile", *command])
            checks = checks_seconds(Path(folder) / "profile")
            table.row(command[0], amount(whole), amount(checks), f"{checks / whole:.1%}")


def run(command: list[str]) -> None:
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()

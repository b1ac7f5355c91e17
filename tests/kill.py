"""Kill every command at random moments and run it again: its outputs must equal those of an undisturbed run.

python -m tests.kill [--kills 20] [--seed 0]; test_survival.py runs a short form.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

from tests.helpers import DISTURBED, ROOT, Stages
from utils.common.steps import TRAINING
from utils.conf.load import load_conf
from utils.trial.checks import caveat_of
from utils.trial.names import CONF, LAST, METRICS
from utils.trial.trial import Trial

WRITING_FROM = 0.5  # of a command's time; before that it imports


def kill(stages: Stages, stage: str, moment: float) -> bool:
    """Start a stage anew and SIGKILL it after `moment` of its time. Returns whether it was still running."""
    stages.rewind(stage)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    start = time.perf_counter()
    process = subprocess.Popen(stages.command(stage), cwd=ROOT, start_new_session=True, **streams)
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment * stages.seconds[stage])
        stages.seconds[stage] = time.perf_counter() - start  # faster than before, as the machine is less busy
    process.kill()  # not its worker processes, which must notice
    killed = process.wait() == -signal.SIGKILL
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return killed
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError(f"{stage}: its worker processes outlived it by ten seconds")


def outcome(stages: Stages, stage: str) -> str:
    """Run a killed stage again: '' where its outputs equal the undisturbed run's, byte for byte, else what is wrong.

    A trial whose training was killed must be reported as unfinished, unless no epoch was left.
    """
    for path in stages.work.glob(f"output/*/*/{LAST}") if stage == TRAINING else ():
        conf = load_conf(path.parent / CONF)
        is_last = torch.load(path, weights_only=True)["epoch"] == conf.param_conf.num_epoch
        if is_last != (caveat_of(Trial(path.parent, conf)) is None) and (path.parent / METRICS).exists():
            return "its trial is wrongly reported as finished or unfinished"
    done = stages.run(stage)
    if done.returncode != 0:
        return f"exit status {done.returncode}: {done.stderr.strip()}"
    return " ".join(stages.differences(stage))


def survive(stages: Stages, kills: int, rng: random.Random) -> int:
    """Kill the stages in turn. Returns how many kills were survived."""
    survived = 0
    for number in range(kills):
        stage = stages.names[number % len(stages.names)]
        while not kill(stages, stage, moment := rng.uniform(WRITING_FROM, 1)):
            pass  # it had ended
        wrong = outcome(stages, stage)
        survived += not wrong
        print(f"{stage:40} killed after {100 * moment:3.0f} % of its time: {wrong or 'survived'}", flush=True)
    return survived


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stages = Stages(Path(folder) / "kill", [*DISTURBED, "preprocessing/4_audio_logmel.py", "main.py"])
        survived = survive(stages, args.kills, random.Random(args.seed))
    print(f"kills survived: {survived}/{args.kills}")
    sys.exit(survived < args.kills)


if __name__ == "__main__":
    main()

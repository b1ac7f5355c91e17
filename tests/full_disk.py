"""Run every command on a full disk: it must say so, and leave earlier outputs as they are.

A limit on the size of files simulates the disk: either none of the stage's files fits, or only the largest does not.
python -m tests.full_disk; test_survival.py runs a short form.
"""

import re
import resource
import sys
import tempfile
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

from tests.helpers import DISTURBED, Stages


def limits(stages: Stages, stage: str) -> list[int]:
    """Bytes that a file may have: too few for any output (a semaphore fits), and half of the stage's largest."""
    return [64, max(path.stat().st_size for path in stages.written(stage)) // 2]


def outcome(stages: Stages, stage: str, limit: int) -> str:
    """Run a stage under a limit: '' where it fails as it should and then succeeds without one, else what is wrong."""
    stages.rewind(stage)
    done = stages.run(stage, preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)))
    lines = said(done)
    if done.returncode != 2 or not lines or not all(line.startswith("error: ") for line in lines):
        return f"exit status {done.returncode}: {done.stderr.strip()}"
    if lost := stages.lost(stage):
        return f"changed: {' '.join(lost)}"
    if wrong := said(stages.run(stage)) or stages.differences(stage):
        return f"then, without the limit: {' '.join(wrong)}"
    return ""


def said(done: CompletedProcess) -> list[str]:
    """The lines on standard error without those of progress, which a slow run prints."""
    return [line for line in done.stderr.splitlines() if not re.fullmatch(r".+: \d+/\d+", line)]


def main() -> None:
    passed = 0
    with tempfile.TemporaryDirectory() as folder:
        stages = Stages(Path(folder) / "disk", DISTURBED)
        cases = [(stage, limit) for stage in stages.names for limit in limits(stages, stage)]
        for stage, limit in cases:
            wrong = outcome(stages, stage, limit)
            passed += not wrong
            print(f"{stage:40} files of {limit:8} bytes at most: {wrong or 'refused, nothing lost'}", flush=True)
    print(f"full-disk cases: {passed}/{len(cases)}")
    sys.exit(passed < len(cases))


if __name__ == "__main__":
    main()

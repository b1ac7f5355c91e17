"""The commands in order, for the tests that disturb them: each can be put back to where it starts and run again."""

import filecmp
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.conftest import ROOT
from tests.test_commands import POSTPROCESSING, PREPROCESSING, tiny_conf

STAGES = [
    *(f"preprocessing/{name}.py" for name in PREPROCESSING),
    "main.py",
    *(f"postprocessing/{name}.py" for name in POSTPROCESSING),
]
EVER_NEW = {"train.log", "provenance.json"}  # of a trial: they tell of the runs themselves


@dataclass
class Stages:
    """The commands on a small data set below `folder`/work, with what lay there before and after each.

    Args:
        folder: an empty directory.
        names: the commands to disturb; the ones before them are run all the same.
        overrides: settings for all of them.
    """

    folder: Path
    names: list[str] = field(default_factory=lambda: STAGES)
    overrides: tuple[str, ...] = ()

    def __post_init__(self):
        self.work = self.folder / "work"
        self.work.mkdir(parents=True)
        tiny_conf(self.work)
        self.seconds: dict[str, float] = {}
        for stage in STAGES[: 1 + max(map(STAGES.index, self.names))]:
            self._keep(stage, "before")
            start = time.perf_counter()
            done = self.run(stage)
            self.seconds[stage] = time.perf_counter() - start
            assert done.returncode == 0, done.stderr
            self._keep(stage, "after")

    def command(self, stage: str) -> list[str]:
        """The command line of a stage; training goes on with the trial that an earlier try began."""
        trials = [path.parent for path in self.work.glob("output/*/*/conf.yaml")]
        which = ["--resume", str(trials[0])] if stage == "main.py" and trials else ["--conf", f"{self.work}/conf.yaml"]
        return [sys.executable, stage, *which, *self.overrides]

    def run(self, stage: str, **options) -> subprocess.CompletedProcess:
        return subprocess.run(self.command(stage), cwd=ROOT, capture_output=True, text=True, check=False, **options)

    def rewind(self, stage: str) -> None:
        """Put everything back to where it was before a stage."""
        shutil.rmtree(self.work)
        shutil.copytree(self._kept(stage, "before"), self.work)

    def differences(self, stage: str) -> list[str]:
        """The files that are not as the undisturbed stage left them, missing or left over."""
        kept, now = _files(self._kept(stage, "after")), _files(self.work)
        changed = [
            name
            for name in kept.keys() & now.keys()
            if not (name.split("/")[-1] in EVER_NEW and name.startswith("TRIAL"))
            and not _same(kept[name], now[name])
        ]
        return sorted([*changed, *(kept.keys() ^ now.keys())])

    def written(self, stage: str) -> list[Path]:
        """The files that the undisturbed stage wrote or changed."""
        before, after = _files(self._kept(stage, "before")), _files(self._kept(stage, "after"))
        return [path for name, path in after.items() if name not in before or not _same(before[name], path)]

    def lost(self, stage: str) -> list[str]:
        """The files from before a stage that are gone or neither as before nor as after it, and half-written ones."""
        before, after = _files(self._kept(stage, "before")), _files(self._kept(stage, "after"))
        now = _files(self.work)
        whole = {
            name
            for name in before.keys() & now.keys()
            if _same(before[name], now[name]) or _same(after[name], now[name])
        }
        return sorted(before.keys() - whole) + sorted(name for name in now if name.endswith(".tmp"))

    def _kept(self, stage: str, when: str) -> Path:
        return self.folder / f"{when}_{STAGES.index(stage)}"

    def _keep(self, stage: str, when: str) -> None:
        shutil.copytree(self.work, self._kept(stage, when))


def _same(one: Path, other: Path) -> bool:
    """Byte for byte; a checkpoint value by value, to the bit: how it is pickled depends on which strings are shared."""
    if one.suffix == ".pt":
        return _equal(*(torch.load(path, weights_only=True) for path in (one, other)))
    return filecmp.cmp(one, other, shallow=False)


def _equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other


def _files(root: Path) -> dict[str, Path]:
    """The files below a directory by their names, wherever the (one) trial is called after the time of its start."""
    files = {}
    for path in root.rglob("*"):
        if path.is_file():
            parts = path.relative_to(root).parts
            name = "/".join(["TRIAL", *parts[3:]] if parts[0] == "output" else parts)
            files[name] = path
    return files

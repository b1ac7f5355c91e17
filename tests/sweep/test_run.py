"""A sweep reports failed points after the others, and how to resume."""

import subprocess
import sys

import pytest

from tests.helpers import ROOT, record_of, results_of
from utils.common.errors import UserError
from utils.sweep.points import read_points
from utils.sweep.run import run_point, run_sweep


def test_an_error_of_the_user_is_returned_so_that_ray_does_not_retry(sweep):
    assert str(read_points(sweep)[1].conf.data_conf.dataset) in run_point(sweep, None, 1)
    assert not read_points(sweep)[1].finished and read_points(sweep)[1].trial is None


def test_failures_are_reported_after_the_comparison_of_the_other_trials(sweep, monkeypatch):
    point = read_points(sweep)[0]
    record_of(point.open_trial({}).path, point.conf, [results_of(0)])
    point.finish()
    compared, ran = [], []

    def run_on_ray(sweep, points, waiting, run_point):
        ran.extend(waiting)
        return {1: "no\n data"}

    monkeypatch.setattr("utils.sweep.run.run_on_ray", run_on_ray)
    monkeypatch.setattr("utils.report.comparison.write_comparison", lambda *arguments: compared.append(arguments))
    with pytest.raises(UserError) as error:
        run_sweep(sweep, None)
    lines = str(error.value).splitlines()
    assert lines[0] == "param_conf.seed=1: no data" and f"python main.py --sweep --resume {sweep}" in lines[1]
    assert ran == [1] and compared == [([point.trial], sweep / "comparison")]


INTERRUPTED = """
import atexit, os, sys
from pathlib import Path
from utils.common.errors import run_command
from utils.sweep import run

def run_on_ray(*arguments):
    atexit.register(os.abort)  # as Ray does if it is interrupted during its start
    raise KeyboardInterrupt

run.run_on_ray = run_on_ray
run_command(lambda: run.run_sweep(Path(sys.argv[1]), None))
"""


def test_an_interrupted_sweep_ends_with_advice_and_status_130(sweep):
    command = [sys.executable, "-c", INTERRUPTED, str(sweep)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 130 and not done.stderr
    assert done.stdout.splitlines()[-1] == f"stopped; to resume: python main.py --sweep --resume {sweep}"

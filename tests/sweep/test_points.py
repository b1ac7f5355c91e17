"""The points of a sweep remember their trials, and one sweep runs at a time."""

import shutil

import pytest

from tests.helpers import record_of, results_of
from utils.common.errors import UserError
from utils.conf.load import load_conf
from utils.sweep.points import create_sweep, hold, read_points, resume_sweep
from utils.trial.directory import create_trial
from utils.trial.names import LAST


def train_an_epoch(point):
    """Open the point's trial and write a checkpoint."""
    record_of(point.open_trial({}).path, point.conf, [results_of(0)])


def test_a_point_remembers_its_trial_and_that_it_is_finished(sweep):
    first, second = read_points(sweep)
    assert str(second) == "param_conf.seed=1" and second.conf.param_conf.seed == 1
    assert first.trial is None and not first.finished
    train_an_epoch(first)
    assert first.trial.name.endswith("random-NS_seed0") and (first.trial / LAST).is_file()
    again, untouched = read_points(sweep)
    assert again.trial == again.open_trial({}).path == first.trial and not again.finished
    assert untouched.trial is None
    first.finish()
    assert [point.finished for point in read_points(sweep)] == [True, False]


def test_a_sweep_may_be_moved_with_its_trials(sweep, tmp_path):
    point = read_points(sweep)[0]
    train_an_epoch(point)
    shutil.move(sweep.parent, tmp_path / "elsewhere")
    moved = read_points(tmp_path / "elsewhere" / sweep.name)[0]
    assert moved.trial == tmp_path / "elsewhere" / point.trial.name and moved.open_trial({}).path == moved.trial


def test_a_trial_that_was_removed_is_trained_again(sweep):
    point = read_points(sweep)[0]
    train_an_epoch(point)
    point.finish()
    shutil.rmtree(point.trial)
    again = read_points(sweep)[0]
    assert not again.finished and again.open_trial({}).path.is_dir() and not (again.trial / LAST).exists()


def test_a_sweep_refuses_trials_of_other_settings(sweep):
    train_an_epoch(read_points(sweep)[0])
    settings = (sweep / "conf.yaml").read_text()
    (sweep / "conf.yaml").write_text(settings.replace("margin: 0.5", "margin: 0.4"))
    with pytest.raises(UserError, match=r"margin is 0\.4 but the trial was run with 0\.5"):
        read_points(sweep)[0].open_trial({})


def test_a_sweep_that_is_running_cannot_be_resumed(sweep, monkeypatch):
    monkeypatch.setattr("utils.sweep.points.WORKERS_END_IN", 0.2)
    hold(sweep, alone=True)
    hold(sweep)  # like a worker
    with pytest.raises(UserError, match="the sweep is running"):
        hold(sweep, alone=True)


def test_a_sweep_resumes_with_its_saved_settings(sweep, monkeypatch):
    with pytest.raises(UserError, match="change only those of ray_conf"):
        resume_sweep(sweep, ["param_conf.seed=5"])
    with pytest.raises(UserError, match="not a sweep directory"):
        resume_sweep(create_trial(load_conf(sweep / "conf.yaml"), {}), [])
    monkeypatch.setattr("utils.sweep.points._require_packages", lambda conf: None)  # Ray may be absent
    resume_sweep(sweep, ["ray_conf.trial_resources.cpu=3"])
    assert read_points(sweep)[0].conf.ray_conf.trial_resources.cpu == 3
    (sweep / "conf.yaml").write_text((sweep / "conf.yaml").read_text().replace("param_conf.seed", "param_conf.sed"))
    with pytest.raises(UserError, match=r"did you mean param_conf\.seed\?"):
        resume_sweep(sweep, [])


def test_a_sweep_needs_a_grid(sweep):
    with pytest.raises(UserError, match="has no grid"):
        create_sweep(load_conf(sweep / "conf.yaml", ["sweep_conf={}"]))

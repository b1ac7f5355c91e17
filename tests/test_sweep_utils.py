import shutil
import sys
from types import ModuleType

import pytest
import torch

from models.core import CRNNWordModel
from tests.conftest import ROOT
from tests.test_trial_utils import parts_of
from utils import sweep_utils
from utils.conf_utils import load_conf
from utils.io_utils import UserError
from utils.sweep_utils import Point, create_sweep, hold, read_points, resume_sweep, run_point, run_sweep
from utils.trial_utils import LAST, TrialRecord, create_directory, create_trial


@pytest.fixture
def sweep(tmp_path):
    """The directory of a sweep over two seeds that has not begun."""
    grid = "sweep_conf={param_conf.seed: [0, 1]}"
    sweep = create_directory(load_conf(ROOT / "conf.yaml", [f"trial_base={tmp_path}", grid]), "sweep")
    (sweep / sweep_utils.POINTS).mkdir()
    return sweep


def train_an_epoch(point: Point):
    """Open the point's trial and leave a checkpoint there."""
    model = CRNNWordModel(64, 4, torch.zeros(3, 4))
    record = TrialRecord(point.open_trial(), point.conf, ["<pad>", "a", "b"])
    results = {"val_map_text_to_audio": 0.1, "val_map_audio_to_text": 0.1, "val_map": 0.1, "score_std": 0.1}
    record.add({"epoch": 0, "lr": 1e-3, "val_obj": 1.0} | results, 1.0, parts_of(point.conf, model))


def test_a_point_keeps_its_trial(sweep):
    first, second = read_points(sweep)
    assert str(second) == "param_conf.seed=1" and second.conf.param_conf.seed == 1
    assert first.trial is None and not first.finished
    train_an_epoch(first)
    assert first.trial.name.endswith("random-NS_seed0") and (first.trial / LAST).is_file()
    again, untouched = read_points(sweep)
    assert again.trial == again.open_trial() == first.trial and not again.finished
    assert untouched.trial is None
    first.finish()
    assert [point.finished for point in read_points(sweep)] == [True, False]


def test_a_sweep_may_be_moved_with_its_trials(sweep, tmp_path):
    point = read_points(sweep)[0]
    train_an_epoch(point)
    shutil.move(sweep.parent, tmp_path / "elsewhere")
    moved = read_points(tmp_path / "elsewhere" / sweep.name)[0]
    assert moved.trial == tmp_path / "elsewhere" / point.trial.name and moved.open_trial() == moved.trial


def test_a_trial_that_was_removed_is_trained_anew(sweep):
    point = read_points(sweep)[0]
    train_an_epoch(point)
    point.finish()
    shutil.rmtree(point.trial)
    again = read_points(sweep)[0]
    assert not again.finished and again.open_trial().is_dir() and not (again.trial / LAST).exists()


def test_a_sweep_does_not_mix_experiments(sweep):
    train_an_epoch(read_points(sweep)[0])
    settings = (sweep / "conf.yaml").read_text()
    (sweep / "conf.yaml").write_text(settings.replace("margin: 0.5", "margin: 0.4"))
    with pytest.raises(UserError, match=r"margin is 0\.4 but the trial was run with 0\.5"):
        read_points(sweep)[0].open_trial()


def test_a_sweep_is_run_once_at_a_time(sweep, monkeypatch):
    monkeypatch.setattr(sweep_utils, "OTHERS_END_IN", 0.2)
    hold(sweep, alone=True)
    hold(sweep)  # as a worker does
    with pytest.raises(UserError, match="the sweep is running"):
        hold(sweep, alone=True)


def test_what_the_user_has_to_mend_is_not_tried_again(sweep):
    def run_trial(conf, open_trial):
        raise UserError(f"seed {conf.param_conf.seed}: no data")

    assert run_point(sweep, 1, run_trial) == "seed 1: no data"
    assert not read_points(sweep)[1].finished


def test_failures_are_named_after_the_others_are_compared(sweep, monkeypatch):
    point = read_points(sweep)[0]
    train_an_epoch(point)
    point.finish()
    compared = []
    report = ModuleType("report_utils")
    report.write_comparison = lambda trials, out: compared.append((trials, out))
    monkeypatch.setitem(sys.modules, "utils.report_utils", report)
    monkeypatch.setattr(sweep_utils, "_run_on_ray", lambda sweep, points, waiting, run_trial: {1: "no\n data"})
    with pytest.raises(UserError) as error:
        run_sweep(sweep, None)
    lines = str(error.value).splitlines()
    assert lines[0] == "param_conf.seed=1: no data" and f"python main.py --sweep --resume {sweep}" in lines[1]
    assert compared == [([point.trial], sweep / "comparison")]


def test_a_sweep_goes_on_by_its_own_settings(sweep):
    with pytest.raises(UserError, match="only those of ray_conf may change"):
        resume_sweep(sweep, ["param_conf.seed=5"])
    with pytest.raises(UserError, match="not a sweep directory"):
        resume_sweep(create_trial(load_conf(sweep / "conf.yaml")), [])
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-sweep.txt")
    resume_sweep(sweep, ["ray_conf.trial_resources.cpu=3"])
    assert read_points(sweep)[0].conf.ray_conf.trial_resources.cpu == 3


def test_a_sweep_needs_a_grid(sweep):
    with pytest.raises(UserError, match="has no grid"):
        create_sweep(load_conf(sweep / "conf.yaml", ["sweep_conf={}"]))

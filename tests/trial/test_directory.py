import json
import os

import pytest

from tests.helpers import ROOT, results_of
from utils.common.errors import UserError
from utils.common.steps import TRAINING
from utils.conf.load import load_conf
from utils.trial.directory import create_trial, newest_trial, open_trial, resume_trial
from utils.trial.provenance import PROVENANCE


@pytest.fixture
def trial(begin):
    """A trial with a checkpoint."""
    return begin([results_of(0)])[0].path


def test_trials_get_directories_of_their_own_and_the_newest_is_found(begin, tmp_path):
    conf = load_conf(ROOT / "conf.yaml", [f"trial_base={tmp_path}"])
    with pytest.raises(UserError, match=r"run main\.py first"):
        newest_trial(conf, [])
    trials = [begin([results_of(0)])[0].path for _ in range(3)]
    create_trial(conf, {})  # has no checkpoint yet
    assert len(set(trials)) == 3
    os.utime(trials[1] / "conf.yaml", ns=(2**62, 2**62))
    assert newest_trial(conf, []) == trials[1]


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("AdamOptimizer.lr=0.1", "AdamOptimizer.lr is 0.1 but the trial was run with 0.001"),
        ("param_conf.seed=5", "param_conf.seed is 5"),
        # and not the temperature, which has an effect because of it
        ("param_conf.criterion=InfoNCE", "param_conf.criterion is 'InfoNCE' but the trial was run with 'TripletLoss'"),
        ("text_cleaning.corrections={watr: water}", r"text_cleaning.corrections.watr"),
        ("data_conf.train_data=validation", "data_conf.train_data"),
    ],
)
def test_resume_refuses_changes_of_settings_that_decide_results(trial, override, key):
    killed = create_trial(load_conf(trial / "conf.yaml"), {})  # before its first checkpoint
    for begun in (trial, killed):
        with pytest.raises(UserError, match=key) as refusal:
            resume_trial(begun, [override])
        assert str(begun) in str(refusal.value) and "start a new trial" in str(refusal.value)


@pytest.mark.parametrize(
    "override",
    [
        "param_conf.num_epoch=3",
        "data_conf.cache=disk",
        "data_conf.dataset=elsewhere",
        "criteria.InfoNCE.temperature=1",  # plays no part beside the triplet loss
    ],
)
def test_resume_accepts_changes_of_settings_that_decide_no_result(trial, override):
    assert resume_trial(trial, [override]) != open_trial(trial, [])


def test_a_trial_older_than_a_setting_was_run_with_its_default(trial, monkeypatch):
    """Where the schema has one: what it is, and that it may not change, hold for it all the same."""
    kept = json.loads((trial / PROVENANCE).read_text())
    del kept[TRAINING]["settings"]["ReduceLROnPlateau.patience"]
    (trial / PROVENANCE).write_text(json.dumps(kept))
    with pytest.raises(UserError, match=r"ReduceLROnPlateau\.patience is 5 but the trial was run with None"):
        open_trial(trial, [])
    monkeypatch.setattr("utils.trial.checks.default_of", {"ReduceLROnPlateau.patience": 5}.get)
    assert open_trial(trial, []).conf.ReduceLROnPlateau.patience == 5
    with pytest.raises(UserError, match=r"ReduceLROnPlateau\.patience is 7 but the trial was run with 5"):
        resume_trial(trial, ["ReduceLROnPlateau.patience=7"])

import json

import pytest

from tests.helpers import ROOT, record_of, results_of
from utils.common.errors import UserError
from utils.conf.load import load_conf
from utils.trial.checks import check_metrics
from utils.trial.directory import create_trial
from utils.trial.history import collapse_warning, load_history
from utils.trial.names import BEST, LAST, METRICS
from utils.trial.record import TrialRecord
from utils.trial.trial import Trial


def test_collapsed_features_are_warned_of():
    conf = load_conf(ROOT / "conf.yaml", ["criteria.TripletLoss.sampling=hard-NS"])
    warning = collapse_warning({"train_loss": 1.0004, "score_std": 1e-6}, conf)
    assert "hard-NS" in warning and "1.0004" in warning and "semi-hard-NS avoids it" in warning
    assert collapse_warning({"train_loss": 0.99, "score_std": 0.05}, conf) is None  # semi-hard's loss, while it learns
    assert collapse_warning({"train_loss": 0.5, "score_std": 1e-6}, conf) is None
    assert collapse_warning({"score_std": 1e-6}, conf) is None  # epoch 0


def test_only_the_triplet_loss_shows_a_collapse():
    collapsed = {"train_loss": 1.0, "score_std": 1e-6}
    assert "word2vec" in collapse_warning(collapsed, load_conf(ROOT / "conf.yaml"))  # not by hard negatives
    assert collapse_warning(collapsed, load_conf(ROOT / "conf.yaml", ["param_conf.criterion=InfoNCE"])) is None


# --- metrics.jsonl ---------------------------------------------------------------------------------------

EPOCHS = [results_of(0, 0.9), results_of(1, 0.5), results_of(2, 0.7)]


@pytest.fixture
def conf(tmp_path):
    return load_conf(ROOT / "conf.yaml", [f"trial_base={tmp_path}"])


@pytest.fixture
def recorded(conf):
    """The record of a trial whose best epoch is 1 of 2, and the parts it keeps."""
    return record_of(create_trial(conf, {}), conf, EPOCHS)


def edit(line, **values):
    """What changes an epoch's line of metrics.jsonl."""

    def change(lines):
        lines[line] = json.dumps(json.loads(lines[line]) | values) + "\n"
        return lines

    return change


CHANGES = {
    "a digit": (edit(1, val_obj=0.51), 2),
    "text for a number": (edit(2, val_obj="0.7"), 3),
    "true for the epoch": (edit(1, epoch=True), 2),
    "no number": (edit(0, lr=float("nan")), 1),
    "no epoch at the end": (lambda lines: lines[:2], 3),
    "one more": (lambda lines: [*lines, lines[-1]], 4),
    "no line feed at the end": (lambda lines: [*lines[:2], lines[2][:-1]], 3),
    "a list": (lambda lines: [*lines[:2], "[]\n"], 3),
    "empty": (lambda lines: [], 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_metrics_jsonl_must_hold_the_epochs_of_the_last_checkpoint(recorded, change):
    record, parts = recorded
    path, (change, line) = record.path / METRICS, CHANGES[change]
    before = path.read_bytes()
    path.write_text("".join(change(before.decode().splitlines(keepends=True))))
    with pytest.raises(UserError) as refusal:
        check_metrics(record.trial)
    assert str(refusal.value) == (
        f"{path}: line {line} is not as {LAST}, which has 3 epochs, says; resume the trial to mend it"
    )
    TrialRecord(record.trial, record.words).restore(parts)  # the advice
    check_metrics(record.trial)
    assert path.read_bytes() == before and load_history(record.path) == EPOCHS


def test_metrics_jsonl_of_another_trial_is_refused(recorded, conf):
    other, _ = record_of(create_trial(conf, {}), conf, [results_of(0, 0.9), results_of(1, 0.6), results_of(2, 0.4)])
    path = recorded[0].path / METRICS
    path.write_bytes((other.path / METRICS).read_bytes())
    for source, epochs, advice in ((LAST, 3, "resume the trial to mend it"), (BEST, 2, "put this trial's own back")):
        with pytest.raises(UserError, match=f"line 2 is not as {source}, which has {epochs} epochs, says; {advice}"):
            check_metrics(Trial(path.parent, conf))
            load_history(path.parent)
        (path.parent / source).unlink()


@pytest.mark.parametrize("change", [name for name in CHANGES if name not in ("a digit", "no line feed at the end")])
def test_without_checkpoints_metrics_jsonl_must_be_well_formed(recorded, change):
    """At the least: nothing that a report cannot draw."""
    trial, (change, _) = recorded[0].path, CHANGES[change]
    for name in (LAST, BEST):
        (trial / name).unlink()
    assert load_history(trial) == EPOCHS
    lines = change((trial / METRICS).read_text().splitlines(keepends=True))
    (trial / METRICS).write_text("".join(lines))
    if len(lines) == 2:  # as a shorter trial's: nothing tells
        assert load_history(trial) == EPOCHS[:2]
        return
    with pytest.raises(UserError, match=r"metrics\.jsonl: not the epochs that main\.py wrote .* put this trial's own"):
        load_history(trial)

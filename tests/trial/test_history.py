import json

import pytest

from tests.helpers import ROOT, results_of
from utils.common.errors import UserError
from utils.conf.load import load_conf
from utils.trial.checks import check_metrics
from utils.trial.history import collapse_warning, load_history
from utils.trial.names import BEST, LAST, METRICS
from utils.trial.record import TrialRecord
from utils.trial.trial import Trial

HARD = "criteria.TripletLoss.sampling=hard-NS"


@pytest.mark.parametrize(
    ("override", "results", "words"),
    [
        (HARD, {"train_loss": 1.0004, "score_std": 1e-6}, ("under hard-NS", "1.0004", "semi-hard-NS avoids it")),
        ("param_conf.seed=0", {"train_loss": 1.0, "score_std": 1e-6}, ("word2vec",)),  # under random-NS
        (HARD, {"train_loss": 0.99, "score_std": 0.05}, ()),  # semi-hard's loss, while it learns
        (HARD, {"train_loss": 0.5, "score_std": 1e-6}, ()),
        (HARD, {"score_std": 1e-6}, ()),  # epoch 0
        ("param_conf.criterion=InfoNCE", {"train_loss": 1.0, "score_std": 1e-6}, ()),  # only the triplet loss shows it
    ],
)
def test_collapsed_features_are_warned_of(override, results, words):
    warning = collapse_warning(results, load_conf(ROOT / "conf.yaml", [override]))
    assert (warning is not None) == bool(words) and all(word in warning for word in words)


# --- metrics.jsonl ---------------------------------------------------------------------------------------

EPOCHS = [results_of(0, 0.9), results_of(1, 0.5), results_of(2, 0.7)]


@pytest.fixture
def recorded(begin):
    """The record of a trial whose best epoch is 1 of 2, and the objects it keeps."""
    return begin(EPOCHS)


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


def test_metrics_jsonl_of_another_trial_is_refused(recorded, begin):
    other, _ = begin([results_of(0, 0.9), results_of(1, 0.6), results_of(2, 0.4)])
    path = recorded[0].path / METRICS
    path.write_bytes((other.path / METRICS).read_bytes())
    for source, epochs, advice in ((LAST, 3, "resume the trial to mend it"), (BEST, 2, "put this trial's own back")):
        with pytest.raises(UserError, match=f"line 2 is not as {source}, which has {epochs} epochs, says; {advice}"):
            check_metrics(Trial(path.parent, other.conf))
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

import pytest

from tests.helpers import results_of
from utils.trial.checks import DIVERGED, UNFINISHED, caveat_of
from utils.trial.identity import mark_diverged
from utils.trial.names import BEST, LAST, METRICS
from utils.trial.trial import Trial

STOPPER = ("TrialPlateauStopper.num_results=3", "TrialPlateauStopper.grace_period=4", "TrialPlateauStopper.std=0.01")
SETTLED = [0.9, 0.5, 0.5, 0.5]


@pytest.fixture
def trained(begin):
    """trained([objective, ...]) -> the directory of a trial that had these by epoch, and a function for its caveat."""

    def trained(objectives):
        record, _ = begin([results_of(*epoch) for epoch in enumerate(objectives)], "param_conf.num_epoch=5", *STOPPER)
        return record.path, lambda: caveat_of(Trial(record.path, record.conf))

    return trained


@pytest.mark.parametrize(
    ("objectives", "finished"),
    [
        ([0.9], False),
        ([0.9, 0.8, 0.7, 0.6, 0.5], False),
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], True),
        (SETTLED, True),
        (SETTLED[1:], False),  # within the grace period
        ([*SETTLED, 0.2], False),  # resumed by another version, say
    ],
)
def test_a_trial_is_unfinished_where_no_stopper_ended_it_before_its_last_epoch(trained, objectives, finished):
    trial, caveat = trained(objectives)
    assert (caveat() is None) == finished
    if not finished:
        assert caveat().mark == UNFINISHED
        assert caveat().line.startswith(f"{trial}: unfinished: epoch {len(objectives) - 1} of 5 is its last")


def test_without_the_last_checkpoint_metrics_jsonl_tells_whether_a_trial_is_finished(trained):
    trial, caveat = trained([0.9, 0.8])
    (trial / LAST).unlink()
    assert "epoch 1 of 5 is its last" in caveat().line
    (trial / METRICS).write_bytes(b"{")
    mark, line = caveat()  # not an error
    assert mark == UNFINISHED and f"finished cannot be told: {trial / METRICS}: not the" in line and "\n" not in line
    (trial / METRICS).unlink()
    assert "cannot be told" in caveat().line
    (trial / BEST).unlink()
    assert caveat() is None  # nor has it any number


def test_divergence_is_the_caveat_of_an_unfinished_trial_too(trained):
    trial, caveat = trained([0.9])
    mark_diverged(trial, "diverged in epoch 1: why")
    line = f"{trial}: diverged in epoch 1: why; its numbers are those of its best epoch before that"
    assert caveat() == (DIVERGED, line)

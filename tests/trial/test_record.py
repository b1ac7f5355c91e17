import os

import pytest

from tests.helpers import results_of
from utils.common.errors import UserError
from utils.conf.load import load_conf
from utils.trial.checkpoint import load_checkpoint, load_model
from utils.trial.directory import newest_trial
from utils.trial.names import BEST, CONF, LAST, METRICS
from utils.trial.record import TrialRecord, event_writer
from utils.trial.trial import Trial

EPOCHS = [results_of(0, 0.9, 0.1), results_of(1, 0.5, 0.3), results_of(2, 0.5, 0.4), results_of(3, 0.7, 0.4)]


@pytest.mark.parametrize(("select_by", "best"), [("val_obj", 1), ("val_map", 2)])
def test_the_best_checkpoint_is_of_the_earliest_best_epoch(begin, select_by, best):
    record, _ = begin(EPOCHS, f"param_conf.select_by={select_by}")
    model, _, words, epoch = load_model(record.path / BEST)
    assert epoch == best and model.audio_enc.cnn[0].weight.item() == best and words == ["<pad>", "a", "b"]
    last = load_checkpoint(record.path / LAST)
    assert last["epoch"] == 3 and last["best"]["epoch"] == best


def test_resume_restores_what_a_kill_after_the_last_checkpoint_left_out(begin):
    record, parts = begin(EPOCHS[:2])
    files = [record.path / METRICS, record.path / BEST]
    contents = [file.read_bytes() for file in files]
    files[0].write_bytes(contents[0].splitlines(keepends=True)[0])
    files[1].unlink()
    TrialRecord(record.trial, record.words).restore(parts)
    assert [file.read_bytes() for file in files] == contents


def test_resume_refuses_a_lost_or_older_best_checkpoint(begin):
    """Where the last is the best it is made again, as above; here it cannot be."""
    record, parts = begin(EPOCHS)
    best, last = record.path / BEST, record.path / LAST
    older, _ = begin(EPOCHS[:1])
    for spoil, message in (
        (lambda: best.unlink(), f"{best}: is gone, and {LAST} is of epoch 3, not of the best, 1; put it back"),
        (lambda: best.write_bytes(last.read_bytes()), f"{best}: of epoch 3, but the best is 1; put that back"),
        (lambda: best.write_bytes((older.path / BEST).read_bytes()), f"{best}: of another trial"),
    ):
        spoil()
        before = {path.name: path.read_bytes() for path in record.path.iterdir()}
        with pytest.raises(UserError) as refusal:
            TrialRecord(record.trial, record.words).restore(parts)
        assert message in str(refusal.value) and "\n" not in str(refusal.value)
        assert {path.name: path.read_bytes() for path in record.path.iterdir()} == before


@pytest.mark.parametrize(("epochs", "settings"), [("3", []), ("3", ["data_conf.cache=disk"]), ("9", [])])
def test_resuming_a_finished_trial_does_not_make_it_the_newest(begin, epochs, settings):
    older, parts = begin(EPOCHS, "param_conf.num_epoch=3")
    newer, _ = begin(EPOCHS[:1])
    for seconds, record in enumerate((older, newer)):
        os.utime(record.path / CONF, (seconds, seconds))
    conf = load_conf(older.path / CONF, [f"param_conf.num_epoch={epochs}", *settings])
    TrialRecord(Trial(older.path, conf), older.words).restore(parts)
    assert load_conf(older.path / CONF, []) == conf
    assert newest_trial(conf, []) == (newer if epochs == "3" else older).path


def test_event_files_of_other_trials_are_kept(begin):
    """One's own, a stranger's and another trial's, by TensorBoard's names."""
    pytest.importorskip("tensorboard")
    record, _ = begin(EPOCHS[:1])
    other, _ = begin(EPOCHS[:1])
    event_writer(other.path, other.history, other.identity).close()
    (theirs,) = other.path.glob("events.*")
    foreign = [record.path / theirs.name, record.path / "events.out.tfevents.9.host.1.0"]
    for path in foreign:
        path.write_bytes(theirs.read_bytes())
    for _ in range(2):
        event_writer(record.path, record.history, record.identity).close()
    found = set(record.path.glob("events.*"))
    assert set(foreign) < found and len(found) == 3
    assert all(path.read_bytes() == theirs.read_bytes() for path in foreign)


def test_another_vocabulary_is_refused(begin):
    record, parts = begin(EPOCHS[:1])
    with pytest.raises(UserError, match="the vocabulary is not the one"):
        TrialRecord(record.trial, ["<pad>", "b", "a"]).restore(parts)

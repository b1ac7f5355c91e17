import pytest

from tests.helpers import ROOT, record_of, results_of
from utils.common.errors import UserError
from utils.conf.reading import load_conf
from utils.trial.checkpoint import load_checkpoint, load_model
from utils.trial.directory import create_trial
from utils.trial.names import BEST, LAST, METRICS
from utils.trial.record import TrialRecord

EPOCHS = [results_of(0, 0.9, 0.1), results_of(1, 0.5, 0.3), results_of(2, 0.5, 0.4), results_of(3, 0.7, 0.4)]


@pytest.fixture
def begin(tmp_path):
    """begin(epochs, override, ...) -> the record of a new trial that had these epochs, and the parts it keeps."""

    def begin(epochs, *overrides):
        conf = load_conf(ROOT / "conf.yaml", [f"trial_base={tmp_path}", *overrides])
        return record_of(create_trial(conf, {}), conf, epochs)

    return begin


@pytest.mark.parametrize(("select_by", "best"), [("val_obj", 1), ("val_map", 2)])
def test_the_best_epoch_is_kept_the_earliest_on_a_tie(begin, select_by, best):
    record, _ = begin(EPOCHS, f"param_conf.select_by={select_by}")
    model, _, words, epoch = load_model(record.trial / BEST)
    assert epoch == best and model.audio_enc.cnn[0].weight.item() == best and words == ["<pad>", "a", "b"]
    last = load_checkpoint(record.trial / LAST)
    assert last["epoch"] == 3 and last["best"]["epoch"] == best


def test_a_kill_between_the_last_checkpoint_and_what_follows_it_is_mended(begin):
    record, parts = begin(EPOCHS[:2])
    files = [record.trial / METRICS, record.trial / BEST]
    contents = [file.read_bytes() for file in files]
    files[0].write_bytes(contents[0].splitlines(keepends=True)[0])
    files[1].unlink()
    TrialRecord(record.trial, record.conf, record.words).restore(parts)
    assert [file.read_bytes() for file in files] == contents


def test_a_vocabulary_of_another_run_is_refused(begin):
    record, parts = begin(EPOCHS[:1])
    with pytest.raises(UserError, match="the vocabulary is not the one"):
        TrialRecord(record.trial, record.conf, ["<pad>", "b", "a"]).restore(parts)

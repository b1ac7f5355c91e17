import os

import pytest
import torch

from models.core import CRNNWordModel
from tests.conftest import ROOT
from utils.conf_utils import load_conf
from utils.io_utils import UserError
from utils.model_utils import build_criterion, build_optimizer
from utils.trial_utils import BEST, LAST, TrialRecord, create_trial, load_checkpoint, load_model, newest_trial


def conf_with(folder, *overrides):
    return load_conf(ROOT / "conf.yaml", [f"trial_base={folder}", *overrides])


def results(epoch, val_obj, val_map):
    numbers = {"val_map_text_to_audio": val_map, "val_map_audio_to_text": val_map, "score_std": 0.1}
    return {"epoch": epoch, "lr": 1e-3, "val_obj": val_obj, "val_map": val_map} | numbers


def parts_of(conf, model):
    criterion = build_criterion(conf)
    optimizer, scheduler = build_optimizer(conf, model, criterion)
    return {"model": model, "criterion": criterion, "optimizer": optimizer, "scheduler": scheduler}


def run_record(conf, epochs):
    """A record of a run with these results; the model's first weight counts the epochs."""
    model = CRNNWordModel(64, 4, torch.zeros(3, 4))
    parts = parts_of(conf, model)
    record = TrialRecord(create_trial(conf), conf, ["<pad>", "a", "b"])
    for epoch in epochs:
        with torch.no_grad():
            model.audio_enc.cnn[0].weight.fill_(epoch["epoch"])
        record.add(epoch, 1.0, parts)
    return record


EPOCHS = [results(0, 0.9, 0.1), results(1, 0.5, 0.3), results(2, 0.5, 0.4), results(3, 0.7, 0.4)]


@pytest.mark.parametrize(("select_by", "best"), [("val_obj", 1), ("val_map", 2)])
def test_the_best_epoch_is_kept_the_earliest_on_a_tie(tmp_path, select_by, best):
    record = run_record(conf_with(tmp_path, f"param_conf.select_by={select_by}"), EPOCHS)
    model, words, epoch = load_model(record.trial / BEST)
    assert epoch == best and model.audio_enc.cnn[0].weight.item() == best and words == ["<pad>", "a", "b"]
    last = load_checkpoint(record.trial / LAST)
    assert last["epoch"] == 3 and last["best"]["epoch"] == best


def test_trials_never_share_a_directory_and_the_newest_is_found(tmp_path):
    conf = conf_with(tmp_path)
    with pytest.raises(UserError, match=r"run main\.py first"):
        newest_trial(conf)
    trials = [run_record(conf, EPOCHS[:1]).trial for _ in range(3)]
    create_trial(conf)  # has no checkpoint yet
    assert len(set(trials)) == 3
    os.utime(trials[1] / "conf.yaml", ns=(2**62, 2**62))
    assert newest_trial(conf) == trials[1]


def test_a_vocabulary_of_another_run_is_refused(tmp_path):
    conf = conf_with(tmp_path)
    trial = run_record(conf, EPOCHS[:1]).trial
    model = CRNNWordModel(64, 4, torch.zeros(3, 4))
    with pytest.raises(UserError, match="the vocabulary is not the one"):
        TrialRecord(trial, conf, ["<pad>", "b", "a"]).restore(parts_of(conf, model))


class Malicious:
    def __reduce__(self):
        return (os.mkdir, (os.environ["OWNED"],))


def test_a_checkpoint_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.setenv("OWNED", str(tmp_path / "owned"))
    torch.save({"model": Malicious()}, tmp_path / BEST)
    with pytest.raises(UserError, match="not a loadable checkpoint"):
        load_checkpoint(tmp_path / BEST)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [{"model": {}}, {"a": 1}, torch.zeros(3), ({}, {})])
def test_other_checkpoints_are_refused(tmp_path, content):
    torch.save(content, tmp_path / BEST)
    with pytest.raises(UserError, match=r"not a checkpoint that main\.py wrote"):
        load_checkpoint(tmp_path / BEST)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    content = {"model": {"x": torch.zeros(1)}, "words": [], "conf": {}, "history": [], "epoch": 0}
    torch.save(content, tmp_path / BEST)
    with pytest.raises(UserError, match="not a checkpoint of CRNNWordModel"):
        load_model(tmp_path / BEST)

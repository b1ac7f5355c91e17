"""A trial that starts from another one's weights."""

import json

import pytest
import torch

from models.audio_encoders import CRNNEncoder, FeatureEncoder
from models.core import CRNNWordModel
from models.text_encoders import WordEncoder
from tests.helpers import ROOT, STAGES, call, only_trial, run_pipeline, state_of, tiny_conf
from utils.common.errors import UserError
from utils.conf.load import load_conf
from utils.criterion_utils import TripletLoss
from utils.score_utils import Score
from utils.trial.checkpoint import checkpoint_bytes, load_checkpoint
from utils.trial.start import load_start, start_sources


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A trained trial, and its configuration. Read-only."""
    folder = tmp_path_factory.mktemp("first")
    conf = tiny_conf(folder)
    run_pipeline(conf, stages=STAGES[:6])
    return only_trial(folder), conf


def later(first, folder, *settings, status=0):
    arguments = ["--conf", first[1], f"trial_base={folder / 'output'}", "trial_series=demo"]
    return call("main.py", *arguments, f"param_conf.start_from={first[0]}", *settings, status=status)


def test_a_crnn_goes_on_with_another_vocabulary(first, tmp_path):
    conf = tiny_conf(tmp_path)
    run_pipeline(conf, "demo_dataset.seed=1", "text_cleaning.corrections={the: thee}", stages=STAGES[:5])
    said = later(first, tmp_path, f"data_conf.dataset={tmp_path / 'data'}", "param_conf.num_epoch=0",
                 "text_cleaning.corrections={the: thee}")  # fmt: skip
    epoch = load_checkpoint(first[0] / "checkpoint_best.pt")["epoch"]
    line = f"starts from {first[0]}/checkpoint_best.pt, epoch {epoch}: audio encoder"
    assert line in said and line in (only_trial(tmp_path) / "train.log").read_text()
    before, after = (load_checkpoint(path / "checkpoint_best.pt") for path in (first[0], only_trial(tmp_path)))
    assert before["words"] != after["words"]
    for key, weights in before["model"].items():
        if key.startswith("audio_enc."):
            assert torch.equal(weights, after["model"][key])


def test_a_resumed_trial_equals_an_uninterrupted_one_and_needs_its_start_no_more(first, tmp_path):
    later(first, tmp_path / "whole")
    start = tmp_path / "start.pt"
    start.write_bytes((first[0] / "checkpoint_best.pt").read_bytes())
    later(first, tmp_path / "parts", "param_conf.num_epoch=1", f"param_conf.start_from={start}")
    start.unlink()
    whole, parts = only_trial(tmp_path / "whole"), only_trial(tmp_path / "parts")
    call("main.py", "--resume", parts, "param_conf.num_epoch=2")
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert (whole / "metrics.jsonl").read_bytes() != (first[0] / "metrics.jsonl").read_bytes()


def test_the_start_is_part_of_the_identity(first, tmp_path):
    later(first, tmp_path, "param_conf.num_epoch=0")
    record = only_trial(tmp_path) / "provenance.json"
    made = json.loads(record.read_text())
    assert made["main.py"]["sources"] == start_sources(load_conf(first[1], [f"param_conf.start_from={first[0]}"]))
    made["main.py"]["sources"]["start"] = "0" * 64
    record.write_text(json.dumps(made))
    assert "of another trial" in call("main.py", "--resume", only_trial(tmp_path), "param_conf.num_epoch=1", status=2)


def test_a_missing_or_damaged_start_leaves_no_trial(first, tmp_path):
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes((first[0] / "checkpoint_best.pt").read_bytes()[:-1])
    for start, message in ((tmp_path / "absent", "no such trial or checkpoint"), (damaged, "it is damaged")):
        assert message in later(first, tmp_path, f"param_conf.start_from={start}", status=2)
    assert not (tmp_path / "output").exists()


# --- which parts fit -------------------------------------------------------------------------------------


def model_of(encoder, text_dim=10, audio_projection=6, text_projection=6):
    torch.manual_seed(text_dim)
    words = torch.randn(5, text_dim)
    return CRNNWordModel(encoder, WordEncoder(words), audio_projection, text_projection)


def started(folder, source, target):
    """Save a state as a checkpoint and start another from it. Returns what was said."""
    path = folder / "start.pt"
    parts = {"model": source.model.state_dict(), "score": source.score.state_dict()}
    rest = {"words": ["<pad>"], "conf": {}, "history": [], "epoch": 3, "trial": ""}
    path.write_bytes(checkpoint_bytes(parts | rest))
    conf = load_conf(ROOT / "conf.yaml", [f"param_conf.start_from={path}"])
    return load_start(target, conf, start_sources(conf))


def test_parts_that_fit_are_loaded_and_others_named(tmp_path):
    loss = TripletLoss(0.5, "random-NS")
    source = state_of(model_of(CRNNEncoder(64, 20)), loss, score=Score("softmax", 5.0, learn_sharpness=True))
    target = state_of(model_of(CRNNEncoder(64, 20), 12), loss, score=Score("softmax", 10.0, learn_sharpness=True))
    said = started(tmp_path, source, target)
    loaded = "audio encoder, audio projection, score"
    assert said.endswith(f", epoch 3: {loaded}; not loaded, because it does not fit: text projection")
    assert target.score.log_sharpness == source.score.log_sharpness
    assert torch.equal(target.model.audio_projection.weight, source.model.audio_projection.weight)
    assert target.model.text_enc.embedding.weight.shape == (5, 12)


def test_a_configured_sharpness_is_kept(tmp_path):
    loss = TripletLoss(0.5, "random-NS")
    source = state_of(model_of(FeatureEncoder(8)), loss, score=Score("softmax", 5.0, learn_sharpness=True))
    target = state_of(model_of(FeatureEncoder(8)), loss, score=Score("softmax", 20.0))
    assert started(tmp_path, source, target).endswith(": audio projection, text projection")
    assert target.score.log_sharpness.exp().item() == pytest.approx(20)


def test_features_start_from_projections(tmp_path):
    source, target = (state_of(model_of(FeatureEncoder(8), seed), TripletLoss(0.5, "hard-NS")) for seed in (10, 12))
    said = started(tmp_path, source, target)
    assert said.endswith(": audio projection; not loaded, because it does not fit: text projection")


def test_a_start_of_which_nothing_fits_is_refused(tmp_path):
    source = state_of(model_of(FeatureEncoder(8)), TripletLoss(0.5, "hard-NS"))
    target = state_of(model_of(CRNNEncoder(64, 20), 12, 7, 7), TripletLoss(0.5, "hard-NS"))
    with pytest.raises(UserError, match=r"nothing of .*start\.pt fits this model \(audio encoder, audio"):
        started(tmp_path, source, target)

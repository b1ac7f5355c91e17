"""A trial on features at the clip level, through the real commands."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from models.mobilenet import MobileNetV3
from tests.helpers import ON_FEATURES, STAGES, call, only_trial, run_pipeline, tiny_conf
from tests.test_sentences import LEVELS, scores_of
from utils.search.clip_search import ClipSearch
from utils.trial.directory import open_trial

SCORE, MEASURE, REPORT = STAGES[-3:]
FEATURES, EXPLORE = "preprocessing/5_audio_features.py", "postprocessing/5_explore.py"
SETTINGS = [*ON_FEATURES, *LEVELS["clip"], "score.mask_frames=true"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set with features of random weights and without log-mels, and its configuration. Read-only."""
    folder = tmp_path_factory.mktemp("pretrained")
    conf = tiny_conf(folder)
    run_pipeline(conf, stages=STAGES[:4])
    torch.manual_seed(0)
    torch.save(MobileNetV3(0.1).state_dict(), folder / "mn01.pt")
    call(FEATURES, "--conf", conf, f"audio_features.weights={folder / 'mn01.pt'}")
    return folder, [*SETTINGS, f"audio_features.weights={folder / 'mn01.pt'}"]


def trained(prepared, folder, *settings):
    call("main.py", "--conf", prepared[0] / "conf.yaml", *prepared[1], *settings, f"trial_base={folder / 'output'}",
         "trial_series=demo")  # fmt: skip
    return only_trial(folder)


@pytest.fixture(scope="module")
def trial(prepared):
    """A finished trial, scored and measured. Read-only."""
    path = trained(prepared, prepared[0])
    for stage in (SCORE, MEASURE, REPORT, EXPLORE):
        call(stage, "--trial", path)
    return path


def test_scores_are_cosines_of_the_best_models_vectors(prepared, trial):
    best, table = open_trial(trial, []).best, pd.read_csv(prepared[0] / "data" / "evaluation_text.csv")
    scores, fids, _ = scores_of(trial)
    with h5py.File(trial / "evaluation_xmodal_scores.hdf5") as store:
        assert store.attrs["score"] == str(best.score) == "level=clip, words=mean"
    with h5py.File(prepared[0] / "data" / "evaluation_audio_features.hdf5") as store, torch.no_grad():
        for (clip, fid), (caption, tokens) in zip(enumerate(fids[:3]), table["tokens"].items(), strict=False):
            frames = torch.from_numpy(store[fid][()]).unsqueeze(0)
            words = torch.tensor([[best.words.index(word) for word in json.loads(tokens)]])
            audio, text = best.model.encode_audio(frames)[0].mean(dim=0), best.model.encode_text(words)[0].mean(dim=0)
            expected = torch.cosine_similarity(audio, text, dim=0).item()
            assert scores[clip, caption] == pytest.approx(expected, abs=1e-6)


def test_search_ranks_as_the_scores_do(prepared, trial):
    search, table = ClipSearch.open(trial), pd.read_csv(prepared[0] / "data" / "evaluation_text.csv")
    scores, fids, tids = scores_of(trial)
    hits = search.by_text(table["raw_text"][5], top=len(fids))
    assert [fids.index(hit.fid) for hit in hits] == np.argsort(-scores[:, 5], kind="stable").tolist()
    for hit in search.by_audio(hits[0].path, top=4):
        assert hit.score == pytest.approx(scores[fids.index(hits[0].fid), tids.index(hit.tid)], abs=1e-4)


def test_pages_say_what_they_show(trial):
    report, page = (trial / "report" / "report.html").read_text(), (trial / "explore" / "index.html").read_text()
    assert "add to the cosine of the clip and the caption" in report and "speaks against a clip" in page


@pytest.mark.parametrize(("settings", "message"), [
    (["CRNNWordModel.audio_enc.projection=null"], "clips would have 96 dimensions but captions 6; set"),
    ([f"CRNNWordModel.{side}_enc.projection=null" for side in ("audio", "text")], "nothing would be trained"),
    (["CRNNWordModel.text_enc.projection=8"], "clips would have 6 dimensions but captions 8; set"),
])  # fmt: skip
def test_dimensions_that_differ_are_refused(prepared, settings, message):
    assert message in call("main.py", "--conf", prepared[0] / "conf.yaml", *prepared[1], *settings, status=2)


def test_the_frame_level_keeps_the_published_score(prepared, tmp_path):
    path = trained(prepared, tmp_path, "score.level=frame", "param_conf.num_epoch=1", "score.mask_frames=false")
    call(SCORE, "--trial", path)
    with h5py.File(path / "evaluation_xmodal_scores.hdf5") as store:
        assert store.attrs["score"] == "frames=mean, words=mean" and store["scores"][()].min() >= 0

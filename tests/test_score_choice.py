"""A trial with another score than the published one, through the real commands."""

import hashlib
import json
import re
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from tests.helpers import STAGES, call, only_trial, run_pipeline, tiny_conf
from utils.search.clip_search import ClipSearch
from utils.trial.checkpoint import load_checkpoint
from utils.trial.directory import open_trial

SCORE, MEASURE, REPORT = STAGES[-3:]
SHARP = ("score.frames=softmax", "score.learn_sharpness=true", "score.words=idf", "param_conf.criterion=InfoNCE")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A preprocessed data set and its configuration. Read-only."""
    folder = tmp_path_factory.mktemp("score")
    conf = tiny_conf(folder)
    run_pipeline(conf, stages=STAGES[:5])
    return folder, conf


@pytest.fixture(scope="module")
def sharp(prepared):
    """A finished trial with a learnt softmax over frames and idf word weights. Read-only."""
    folder, conf = prepared
    call("main.py", "--conf", conf, *SHARP, f"trial_base={folder / 'output'}", "trial_series=demo")
    trial = only_trial(folder)
    for stage in (SCORE, MEASURE, REPORT):
        call(stage, "--trial", trial)
    return trial


def test_sharpness_is_learnt_and_saved(sharp):
    best = open_trial(sharp, []).best
    assert best.score.log_sharpness.item() != pytest.approx(np.log(10), abs=1e-7)
    assert best.score.idf.shape == (len(best.words),) and best.score.idf[0] == 0 and best.score.idf[1:].min() >= 1
    for kind in ("xmodal", "word"):
        with h5py.File(sharp / f"evaluation_{kind}_scores.hdf5") as store:
            assert store.attrs["score"] == str(best.score)
    assert str(best.score).startswith("frames=softmax(") and str(best.score).endswith("), words=idf")


def test_resume_restores_the_sharpness(prepared, sharp, tmp_path):
    short = ("param_conf.num_epoch=1", f"trial_base={tmp_path / 'output'}", "trial_series=demo")
    call("main.py", "--conf", prepared[1], *SHARP, *short)
    trial = only_trial(tmp_path)
    call("main.py", "--resume", trial, "param_conf.num_epoch=2")
    assert (trial / "metrics.jsonl").read_bytes() == (sharp / "metrics.jsonl").read_bytes()
    ours, theirs = (load_checkpoint(path / "checkpoint_last.pt")["score"] for path in (trial, sharp))
    assert ours.keys() == {"log_sharpness", "idf"}
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_search_uses_the_trials_score(prepared, sharp):
    with h5py.File(sharp / "evaluation_xmodal_scores.hdf5") as store:
        scores, tids = store["scores"][()], store["tids"].asstr()[()].tolist()
        fids = store["fids"].asstr()[()].tolist()
    search = ClipSearch.open(sharp)
    captions = pd.read_csv(prepared[0] / "data" / "evaluation_text.csv")
    assert captions["tid"].tolist() == tids
    hits = search.by_text(captions["raw_text"][5], top=len(fids))
    assert [hit.score for hit in hits] == pytest.approx(sorted(scores[:, 5], reverse=True), abs=1e-6)
    for hit in search.by_audio(hits[0].path, top=4):
        assert hit.score == pytest.approx(scores[fids.index(hits[0].fid), tids.index(hit.tid)], abs=1e-4)


def test_report_terms_add_up_to_the_score(sharp):
    page = (sharp / "report" / "report.html").read_text()
    cards = re.findall(r'<p><b>\d+</b> <span class="soft">score (\d\.\d{4})</span>.*?score = ([^<]+)</p>', page, re.S)
    assert len(cards) > 10
    for score, total in cards:
        parts = [part.split(" · ") for part in total.split(" + ")]
        assert sum(float(share) * float(value) for share, value in parts) == pytest.approx(float(score), abs=0.01)
    assert "weighted towards its best frames" in page


def test_scores_of_another_score_are_refused(sharp, tmp_path):
    trial = tmp_path / "trial"
    shutil.copytree(sharp, trial)
    made = json.loads((trial / "provenance.json").read_text())
    path = trial / "evaluation_word_scores.hdf5"
    with h5py.File(path, "a") as store:
        store.attrs["score"] = "frames=max, words=mean"
    made["postprocessing/1_xmodal_scores.py"]["outputs"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (trial / "provenance.json").write_text(json.dumps(made))
    message = call("postprocessing/4_search.py", "--trial", trial, "a", status=2)
    assert f"{path}: of the score 'frames=max, words=mean', but the trial's is 'frames=softmax(" in message

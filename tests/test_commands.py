"""The real commands, end to end, on a tiny data set: what each writes, resumes and refuses."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from models.core import CRNNWordModel
from models.mobilenet import MobileNetV3
from tests.common.test_workers import NO_THREADS
from tests.helpers import (
    ROOT,
    SEARCH,
    STAGES,
    STEP_5,
    call,
    closed_pipe,
    equal,
    only_trial,
    read_until,
    record_step,
    run_pipeline,
    started,
    tiny_conf,
)
from utils.common.digests import KEPT
from utils.common.folders import WRITTEN
from utils.common.steps import LOG_MELS
from utils.conf.load import load_conf
from utils.negative_utils import STATISTICS
from utils.trial.checkpoint import load_checkpoint

# Four training clips, for tests that need no more
FEW = ("data_conf.train_data=validation", "data_conf.val_data=evaluation")
ENDLESS = ("param_conf.num_epoch=1000", "TrialPlateauStopper.std=0")
SPLITS = ("development", "validation", "evaluation")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A finished run: its folder, its configuration and what each command printed. Read-only."""
    folder = tmp_path_factory.mktemp("pipeline")
    conf = tiny_conf(folder)
    return folder, conf, run_pipeline(conf, apart=True)


@pytest.fixture
def copy_of_data(pipeline, tmp_path):
    """The finished run's data set and configuration, free to be changed."""
    shutil.copytree(pipeline[0] / "data", tmp_path / "data")
    return tmp_path / "data", tiny_conf(tmp_path)


def test_every_command_prints_what_it_wrote(pipeline):
    folder, _, printed = pipeline
    for script, lines in printed.items():
        assert str(folder) in lines, script
    assert "8 clips" in printed["preprocessing/2_clotho_dataset.py"]
    assert "unknown" in printed["preprocessing/3_word2vec_embeddings.py"]
    assert printed["main.py"].count("epoch   ") == 3


def test_a_batch_larger_than_memory_is_refused_before_a_trial_is_created(pipeline, tmp_path, monkeypatch):
    assert "the longest batch, 8 clips x " in pipeline[2]["main.py"]
    monkeypatch.setattr("utils.memory_utils.free_memory", lambda: 1e6)
    message = call("main.py", "--conf", pipeline[1], f"trial_base={tmp_path}", status=2)
    assert re.fullmatch(r"error: development: .*\.wav.* or lower param_conf\.batch_size\n", message)
    assert not list(tmp_path.iterdir())


def test_contents_of_the_data_set_directory(pipeline):
    data = pipeline[0] / "data"
    assert not (data / "bad_data.csv").exists() and not list(data.rglob("*.tmp"))
    info = json.loads((data / "audio_info.json").read_text())
    vocabulary = json.loads((data / "vocab_info.json").read_text())["vocabulary"]
    with np.load(data / "word2vec_embeds.npz", allow_pickle=False) as arrays:
        assert arrays["words"].tolist() == ["<pad>", *vocabulary]
        assert arrays["vectors"].shape == (len(vocabulary) + 1, 300)
    for split, clips in zip(SPLITS, (8, 4, 4), strict=True):
        with h5py.File(data / f"{split}_audio_logmels.hdf5") as store:
            assert set(store) == set(info[split]["clips"]) and len(store) == clips
            for fid, clip in info[split]["clips"].items():
                assert store[fid].dtype == np.float32
                assert store[fid].shape == (1 + round(clip["seconds"] * 16000) // 320, 64)


def test_contents_of_the_trial_directory(pipeline):
    trial = only_trial(pipeline[0])
    names = {"conf.yaml", "metrics.jsonl", "train.log", "checkpoint_best.pt", "checkpoint_last.pt"}
    scores = {f"{split}_{kind}_scores.hdf5" for split in SPLITS for kind in ("xmodal", "word")}
    others = {"retrieval_metrics.json", "provenance.json", "report", ".lock"}
    assert {path.name for path in trial.iterdir()} - {KEPT} == names | scores | others
    epochs = metrics_of(trial)
    assert [epoch["epoch"] for epoch in epochs] == [0, 1, 2]
    keys = {"train_loss", "active", "val_obj", "val_random", "val_map_text_to_audio", *STATISTICS}
    assert keys | {"val_map_audio_to_text", "val_map", "score_std", "lr"} <= epochs[1].keys()
    assert "train_loss" not in epochs[0] and epochs[0].keys().isdisjoint(STATISTICS)
    checkpoint = torch.load(trial / "checkpoint_last.pt", weights_only=True)
    parts = {"model", "score", "criterion", "optimizer", "scheduler"}
    assert checkpoint.keys() == parts | {"history", "epoch", "best", "conf", "words", "trial"}
    assert checkpoint["conf"] == yaml.safe_load((trial / "conf.yaml").read_text())
    assert checkpoint["best"]["val_obj"] == min(epoch["val_obj"] for epoch in epochs)
    assert isinstance(CRNNWordModel.from_state_dict(checkpoint["model"]), CRNNWordModel)


def test_contents_of_scores_and_metrics(pipeline):
    trial = only_trial(pipeline[0])
    with h5py.File(trial / "evaluation_xmodal_scores.hdf5") as store:
        assert store["scores"].shape == (4, 20) and store["scores"].dtype == np.float32
        assert len(store["fids"]) == 4 and len(store["tids"]) == len(store["caption_fids"]) == 20
    metrics = json.loads((trial / "retrieval_metrics.json").read_text())
    ranked = {"mAP", "mAP10", "mAP16", "R1", "R5", "R10", "HR1", "HR5", "HR10"}
    keys = ranked | {"MedR", "queries", "tied_queries"}
    for split in SPLITS:
        assert metrics[split]["text_to_audio"].keys() == metrics[split]["audio_to_text"].keys() == keys
    assert metrics["evaluation"]["text_to_audio"]["queries"] == 20
    rows = pipeline[2]["postprocessing/2_xmodal_retrieval.py"].splitlines()
    chance = {tuple(row.split()[:2]): row.split()[2] for row in rows if len(row.split()) > 2}
    assert chance["evaluation", "text-to-audio"] == f"{np.mean(1 / np.arange(1, 5)):.3f}"
    assert metrics["evaluation"]["audio_to_text"]["queries"] == 4


def test_search_ranks_by_the_stored_scores(pipeline, tmp_path):
    folder, conf, _ = pipeline
    trial, list_file = only_trial(folder), tmp_path / "found.m3u8"
    captions = pd.read_csv(folder / "data" / "evaluation_text.csv")
    with h5py.File(trial / "evaluation_xmodal_scores.hdf5") as store:
        fids, scores = store["fids"].asstr()[()].tolist(), store["scores"][()]

    # a caption of the split finds its clips by the stored scores, and a sound of the split its captions
    arguments = ("--conf", conf, captions["raw_text"][7], "--top", 3, "--json", "--play-list", list_file)
    hits = json.loads(call("postprocessing/4_search.py", *arguments))
    assert [hit["fid"] for hit in hits] == [fids[i] for i in np.argsort(-scores[:, 7], kind="stable")[:3]]
    assert [hit["score"] for hit in hits] == pytest.approx(sorted(scores[:, 7])[:0:-1], abs=1e-6)
    assert hits[0]["captions"] == captions["raw_text"][captions["fid"] == hits[0]["fid"]].tolist()
    assert list_file.read_text().splitlines()[2::2] == [hit["path"] for hit in hits]
    arguments = ("--trial", trial, "--audio", hits[0]["path"], "--top", 2)
    header, first, _ = call("postprocessing/4_search.py", *arguments).splitlines()
    assert header.split() == ["rank", "score", "tid", "caption"]
    of_clip = scores[fids.index(hits[0]["fid"])]
    assert first.split()[:3] == ["1", f"{of_clip.max():.4f}", captions["tid"][of_clip.argmax()]]
    message = call("postprocessing/4_search.py", "zorgly", "--trial", trial, status=2)
    assert "no word of the query is known (zorgly)" in message and len(message.splitlines()) == 1


def test_a_second_run_writes_identical_files(pipeline, tmp_path):
    run_pipeline(tiny_conf(tmp_path))
    (folder, *_), first, second = pipeline, only_trial(pipeline[0]), only_trial(tmp_path)
    for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
        assert equal(weights(first, name), weights(second, name))
    files = [path for root in (folder / "data", first / "report") for path in root.rglob("*") if path.is_file()]
    files = [path for path in files if path.name not in (KEPT, WRITTEN)]  # the times of files; a digest of report.html
    for path in [*files, first / "retrieval_metrics.json"]:
        content = path.read_bytes()
        if path.name == "report.html":  # tells when and where
            content = content.replace(bytes(folder), bytes(tmp_path)).replace(first.name.encode(), second.name.encode())
        name = path.relative_to(first if path.is_relative_to(first) else folder)
        assert content == ((second if path.is_relative_to(first) else tmp_path) / name).read_bytes(), path


def test_report_and_comparison(pipeline, tmp_path):
    trial = only_trial(pipeline[0])
    assert f"-> {trial / 'report' / 'report.html'}" in pipeline[2]["postprocessing/3_report.py"]
    page = (trial / "report" / "report.html").read_text()
    assert 4 < len(list((trial / "report" / "clips").iterdir())) <= 4 + 8  # and anchors of training, with negatives
    values = json.loads((trial / "retrieval_metrics.json").read_text())["evaluation"]["text_to_audio"]
    assert f"{values['mAP']:.3f}" in page
    other = tmp_path / "other"
    shutil.copytree(trial, other, ignore=shutil.ignore_patterns("report", "*.pt", "*xmodal_scores.hdf5"))
    conf = (trial / "conf.yaml").read_text()
    (other / "conf.yaml").write_text(conf.replace("sampling: semi-hard-NS", "sampling: hard-NS"))
    message = call("postprocessing/3_report.py", "--compare", trial, other, status=2)
    assert "criteria.TripletLoss.sampling is 'hard-NS' but the trial was run with 'semi-hard-NS'" in message
    made = (other / "provenance.json").read_text()
    (other / "provenance.json").write_text(made.replace('sampling": "semi-hard-NS', 'sampling": "hard-NS'))
    out = tmp_path / "comparison"
    compared = call("postprocessing/3_report.py", "--compare", trial, other, "--out", out)
    assert f"-> {out / 'comparison.html'}" in compared
    names = {"comparison.html", "comparison.md", "comparison.csv", "figures", WRITTEN}
    assert {path.name for path in out.iterdir()} == names
    rows = (out / "comparison.csv").read_text().splitlines()[1::3]
    assert [row.split(",")[0] for row in rows] == ["semi-hard-NS", "hard-NS", "chance"]
    same = "| hard-NS |" + " +0.000 [+0.000, +0.000] ≈ not told apart |" * 3  # by the same scores
    assert same in (out / "comparison.md").read_text()
    assert call("postprocessing/3_report.py", "--compare", trial, "--out", tmp_path / "one")  # one group, one seed
    scores = other / "evaluation_word_scores.hdf5"
    scores.unlink()
    message = call("postprocessing/3_report.py", "--compare", trial, other, status=2)
    assert message == f"error: {scores}: no such file; postprocessing/1_xmodal_scores.py makes it\n"
    (other / "retrieval_metrics.json").unlink()
    message = call("postprocessing/3_report.py", "--compare", other, status=2)
    assert f"{other}/retrieval_metrics.json" in message and "2_xmodal_retrieval.py makes it" in message
    assert "leave out --trial" in call("postprocessing/3_report.py", "--compare", trial, "--trial", trial, status=2)
    assert "goes with --compare" in call("postprocessing/3_report.py", "--trial", trial, "--out", out, status=2)


def weights(trial, name="checkpoint_last.pt"):
    return torch.load(trial / name, weights_only=True)["model"]


def metrics_of(trial):
    return [json.loads(line) for line in (trial / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def unbroken(pipeline, tmp_path_factory):
    """A trial of three epochs, and one that ended after the first. Read-only.

    Negatives are random, and every epoch counts as a plateau, so that the learning rate falls.
    """
    folder = tmp_path_factory.mktemp("unbroken")
    plateau = ("ReduceLROnPlateau.patience=0", "ReduceLROnPlateau.threshold=1")
    settings = (*FEW, "criteria.TripletLoss.sampling=random-NS", "TrialPlateauStopper.std=0", *plateau)
    for epochs in (3, 1):
        base = f"trial_base={folder / str(epochs) / 'output'}"
        call("main.py", "--conf", pipeline[1], *settings, base, f"param_conf.num_epoch={epochs}")
    return only_trial(folder / "3"), only_trial(folder / "1")


@pytest.mark.parametrize("cache", ["memory", "disk"])  # disk: a thread reads the batches ahead
def test_a_resumed_trial_equals_an_uninterrupted_one(unbroken, tmp_path, cache):
    whole, broken = unbroken[0], tmp_path / "broken"
    shutil.copytree(unbroken[1], broken)
    call("main.py", "param_conf.num_epoch=3", "--resume", broken, f"data_conf.cache={cache}")
    assert yaml.safe_load((broken / "conf.yaml").read_text())["param_conf"]["num_epoch"] == 3
    assert equal(weights(whole), weights(broken))
    assert (whole / "metrics.jsonl").read_bytes() == (broken / "metrics.jsonl").read_bytes()
    assert [epoch["lr"] for epoch in metrics_of(whole)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])


OPTIONS = [
    # the loss, and what a step drops
    ["param_conf.criterion=InfoNCE", "CRNNWordModel.audio_enc.dropout=0.5"],
    # how it moves the weights, and which are kept
    ["AdamOptimizer.decoupled_weight_decay=true", "AdamOptimizer.weight_decay=0.1", "param_conf.average_from=1"],
]


@pytest.mark.parametrize("settings", OPTIONS, ids=lambda settings: settings[0].partition("=")[0])
def test_resuming_with_options_equals_an_uninterrupted_trial(pipeline, tmp_path, settings):
    command = ("main.py", "--conf", pipeline[1], *FEW, "criteria.TripletLoss.sampling=random-NS", *settings)
    for name, epochs in (("whole", 3), ("broken", 2)):
        call(*command, f"param_conf.num_epoch={epochs}", f"trial_base={tmp_path / name / 'output'}")
    whole, broken = (only_trial(tmp_path / name) for name in ("whole", "broken"))
    call("main.py", "--resume", broken, "param_conf.num_epoch=3")
    assert (whole / "metrics.jsonl").read_bytes() == (broken / "metrics.jsonl").read_bytes()
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        contents = [torch.load(trial / name, weights_only=True) for trial in (whole, broken)]
        assert equal(*(content | {"trial": None, "conf": None} for content in contents))


def test_resume_restarts_a_trial_killed_before_its_first_checkpoint(unbroken, tmp_path):
    fresh = tmp_path / "trial"
    fresh.mkdir()
    for name in ("conf.yaml", "provenance.json"):
        shutil.copy(unbroken[1] / name, fresh)
    call("main.py", "--resume", fresh)
    assert (unbroken[1] / "metrics.jsonl").read_bytes() == (fresh / "metrics.jsonl").read_bytes()


def test_a_trial_records_its_data_and_versions(pipeline):
    data = pipeline[0] / "data"
    made = json.loads((only_trial(pipeline[0]) / "provenance.json").read_text())
    assert list(made) == ["main.py", "postprocessing/1_xmodal_scores.py", "postprocessing/2_xmodal_retrieval.py"]
    training = made["main.py"]
    names = [f"{split}_{kind}" for split in SPLITS[:2] for kind in ("text.csv", "audio_logmels.hdf5")]
    digests = {name: hashlib.sha256((data / name).read_bytes()).hexdigest() for name in (*names, "word2vec_embeds.npz")}
    assert training["data"] == digests
    (first,) = training["runs"]
    assert training["seed"] == 0 and first["first_epoch"] == 0
    assert first["torch"] == torch.__version__ and first["numpy"] == np.__version__ and first["threads"] >= 1
    assert {"python", "librosa", "commit", "clean", "device"} <= first.keys()


def test_resume_refuses_data_that_changed_since_the_trial_began(copy_of_data, pipeline):
    data, conf = copy_of_data
    captions = data / "clotho_captions_development.csv"
    captions.write_text(captions.read_text().replace("a ", "slowly a "))
    for step in STAGES[1:4]:
        call(step, "--conf", conf)
    trial = only_trial(pipeline[0])
    message = call("main.py", "--resume", trial, f"data_conf.dataset={data}", "param_conf.num_epoch=3", status=2)
    assert "has changed since" in message and "start a new trial" in message and len(message.splitlines()) == 1
    assert yaml.safe_load((trial / "conf.yaml").read_text())["param_conf"]["num_epoch"] == 2


# --- features of a pretrained network --------------------------------------------------------------------


@pytest.fixture
def encode(copy_of_data, tmp_path):
    """encode(settings) -> what step 5 prints with random weights; and the data set's directory."""
    data, conf = copy_of_data
    torch.manual_seed(0)
    torch.save(MobileNetV3(0.1).state_dict(), tmp_path / "mn01.pt")
    command = (STEP_5, "--conf", conf, f"audio_features.weights={tmp_path / 'mn01.pt'}")
    return partial(call, *command), data


def features_of(data):
    return [(data / f"{split}_audio_features.hdf5").read_bytes() for split in SPLITS]


def test_features_are_the_same_by_any_number_of_workers(encode):
    encode, data = encode
    made = []
    for workers in (1, 2):
        printed = encode(f"audio_features.workers={workers}")
        assert printed.startswith("development: 8 clips, ") and " frames of 96 dimensions -> " in printed
        made.append(features_of(data))
        for split in SPLITS:
            (data / f"{split}_audio_features.hdf5").unlink()
    assert made[0] == made[1]


def test_features_are_recorded_with_their_weights_and_kept(encode):
    encode, data = encode
    encode()
    made, weights = features_of(data), data.parent / "mn01.pt"
    entry = json.loads((data / "provenance.json").read_text())[STEP_5]
    assert entry["settings"] == {"audio_features.model": "efficientat", "audio_features.weights": str(weights)}
    assert entry["inputs"].keys() == {"audio_info.json", str(weights)} and len(entry["outputs"]) == 3
    assert entry["inputs"][str(weights)] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert entry["outputs"].keys() == {f"{split}_audio_features.hdf5" for split in SPLITS}
    assert encode().count(" clips, as they are in ") == 3
    (data / "validation_audio_features.hdf5").unlink()
    assert "validation: 4 clips, " in encode() and features_of(data) == made
    torch.manual_seed(1)
    torch.save(MobileNetV3(0.1).state_dict(), weights)
    assert "as they are in" not in encode() and features_of(data)[0] != made[0]


def test_features_of_ones_own_are_written_as_documented_and_then_checked_and_recorded(copy_of_data):
    data, conf = copy_of_data
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "features.md").read_text(), re.DOTALL)
    exec(block.replace("data/Clotho", str(data)), {"encode": lambda path: np.ones((3, 7), "f4")})
    made = features_of(data)
    printed = call(STEP_5, "--conf", conf, "audio_features.model=own")
    assert "evaluation: 4 clips, 12 frames of 7 dimensions, as they are in" in printed and features_of(data) == made
    entry = json.loads((data / "provenance.json").read_text())[STEP_5]
    assert entry["settings"] == {"audio_features.model": "own"} and len(entry["outputs"]) == 3


# --- several processes -----------------------------------------------------------------------------------


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def failing(*arguments):
    """The standard error of main.py in two processes, which fail."""
    command = [sys.executable, *TORCHRUN, "2", "main.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode, done.stdout
    return done.stderr


def errors(printed):
    return [line for line in printed.splitlines() if line.startswith("error: ")]


def test_a_trial_resumes_with_more_processes_and_after_one_is_killed_with_one(unbroken, tmp_path):
    trial = tmp_path / "trial"
    shutil.copytree(unbroken[1], trial)
    before = metrics_of(trial)
    settings = ("data_conf.cache=disk", "param_conf.num_epoch=1000")
    with started(*TORCHRUN, "2", "main.py", "--resume", trial, *settings) as process:
        printed = read_until(process, "epoch   3")
        os.kill(child_with(process.pid, "RANK=1"), signal.SIGKILL)
        printed += process.communicate(timeout=60)[0]
    (line,) = errors(printed)
    assert process.returncode != 0 and "one of this run's processes was killed" in line and "--resume" in line
    assert printed.count("2 processes on the CPU") == printed.count("epoch   2") == 1
    assert (trial / "train.log").read_text().count("epoch   2") == 1
    runs = json.loads((trial / "provenance.json").read_text())["main.py"]["runs"]
    assert [(entry["first_epoch"], entry["processes"]) for entry in runs] == [(0, 1), (2, 2)]
    assert isinstance(CRNNWordModel.from_state_dict(weights(trial)), CRNNWordModel)
    done = len(metrics_of(trial))
    call("main.py", "--resume", trial, f"param_conf.num_epoch={done}")
    assert metrics_of(trial)[:2] == before
    assert [epoch["epoch"] for epoch in metrics_of(trial)] == list(range(done + 1))
    names = {"conf.yaml", "metrics.jsonl", "train.log", "checkpoint_best.pt", "checkpoint_last.pt", "provenance.json"}
    assert {path.name for path in trial.iterdir()} == names | {".lock"}


def test_an_error_in_some_or_all_processes_is_one_line(copy_of_data):
    data, conf = copy_of_data
    message = failing("--conf", conf, "param_conf.batchsize=3")
    assert len(errors(message)) == 1 and "unknown key" in message
    with h5py.File(data / "development_audio_logmels.hdf5", "a") as store:
        store[sorted(store)[0]][0, 0] = np.nan
    record_step(load_conf(conf), LOG_MELS)
    message = failing("--conf", conf, "data_conf.cache=disk")  # one of them reads it first
    assert len(errors(message)) == 1 and "are not finite" in message
    assert re.findall(r"exitcode +: (\S+)", message) == ["2", "2"]
    assert message.count("Traceback") == 1  # torchrun's own


def child_with(parent, variable):
    """Return the id of a child process that has this environment variable."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if variable.encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no child with {variable}")


def test_training_stops_on_a_plateau(pipeline, tmp_path):
    stopper = ("TrialPlateauStopper.std=10", "TrialPlateauStopper.num_results=2", "TrialPlateauStopper.grace_period=2")
    printed = call("main.py", "--conf", pipeline[1], f"trial_base={tmp_path}", *FEW, *stopper)
    assert "the validation objective has settled: stopped" in printed
    assert printed.count("epoch   ") == 2


def test_divergence_names_the_clips_and_the_last_checkpoint(pipeline, tmp_path):
    base = f"trial_base={tmp_path / 'output'}"
    message = call("main.py", "--conf", pipeline[1], base, *FEW, "AdamOptimizer.lr=1e6", status=2)
    line = message.splitlines()[-1]
    assert "diverged in epoch 1: the loss is nan" in line and "AdamOptimizer.lr" in line
    fids = {fid for fid in line.split() if len(fid.rstrip(";")) == 16}
    info = json.loads((pipeline[0] / "data" / "audio_info.json").read_text())
    assert fids and {fid.rstrip(";") for fid in fids} <= info["validation"]["clips"].keys()
    assert "checkpoint_last.pt holds epoch 0" in line
    assert load_checkpoint(only_trial(tmp_path) / "checkpoint_last.pt")["epoch"] == 0


@pytest.fixture
def no_threads(tmp_path, monkeypatch):
    """This process and its children cannot start a thread."""
    (tmp_path / "sitecustomize.py").write_text(NO_THREADS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))


@pytest.mark.parametrize(
    "command",
    [(STAGES[3],), ("main.py", "data_conf.cache=disk")],
    ids=["gensim's threads", "the thread that reads ahead"],
)
def test_commands_report_in_one_line_that_no_thread_can_be_started(copy_of_data, no_threads, command):
    (line,) = call(*command, "--conf", copy_of_data[1], status=2).splitlines()
    assert line.startswith("error: no further thread or process can be started (can't start new thread), ")


def test_log_mels_are_computed_where_no_thread_can_be_started(copy_of_data, no_threads):
    data, conf = copy_of_data
    files = list(data.glob("*_audio_logmels.hdf5"))
    made = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    call(STAGES[4], "--conf", conf, "audio_logmel.workers=3")
    assert len(made) == 3 and [file.read_bytes() for file in files] == made


def test_commands_run_as_modules_and_print_help(pipeline):
    assert "-> " in call("-m", "preprocessing.1_text_cleaning", "--conf", pipeline[1])
    for script in STAGES[:6]:
        assert "section.key=value" in call(script, "--help")
    for script in STAGES[6:]:
        assert "--trial" in call(script, "--help")


@pytest.mark.parametrize(
    "command",
    [
        *([stage] for stage in STAGES[1:]),
        ["postprocessing/4_search.py", "rain"],
        ["postprocessing/4_search.py", "--audio", "x.wav"],
        ["postprocessing/5_explore.py"],
    ],
    ids=" ".join,
)
def test_every_command_says_what_to_put_into_a_missing_data_set(pipeline, tmp_path, command):
    for folder, what in ((tmp_path / "gone", "no such folder"), (tmp_path, "is empty")):
        message = call(*command, "--conf", pipeline[1], f"data_conf.dataset={folder}", status=2)
        advice = "put the data set's {split}/ and clotho_captions_{split}.csv there, or set data_conf.dataset to where"
        assert message.startswith(f"error: {folder}: {what}; {advice}") and len(message.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_tensorboard_events_equal_the_metrics_and_no_epoch_appears_twice(pipeline, tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = (f"trial_base={tmp_path / 'output'}", "log_tensorboard=true", "param_conf.num_epoch=1")
    call("main.py", "--conf", pipeline[1], *settings)
    trial = only_trial(tmp_path)
    call("main.py", "--resume", trial, "param_conf.num_epoch=2")
    assert metrics_of(trial) == metrics_of(only_trial(pipeline[0]))
    events = event_accumulator.EventAccumulator(str(trial)).Reload()
    epochs = metrics_of(trial)
    names = set().union(*epochs) - {"epoch"}
    assert set(events.Tags()["scalars"]) == names
    for name in names:
        expected = [(epoch["epoch"], pytest.approx(epoch[name], rel=1e-6)) for epoch in epochs if name in epoch]
        assert [(event.step, event.value) for event in events.Scalars(name)] == expected


@pytest.mark.parametrize(
    ("package", "settings", "advice"),
    [
        ("torch.utils.tensorboard", ["log_tensorboard=true"], "pip install tensorboard=="),
        ("ray", ["--sweep"], "pip install -r requirements-sweep.txt"),
    ],
)
def test_a_missing_package_is_one_line_and_creates_no_trial(pipeline, tmp_path, monkeypatch, package, settings, advice):
    monkeypatch.setitem(sys.modules, package, None)
    message = call("main.py", "--conf", pipeline[1], f"trial_base={tmp_path / 'output'}", *settings, status=2)
    assert advice in message and len(message.splitlines()) == 1
    assert not (tmp_path / "output").exists()


# --- sweep -----------------------------------------------------------------------------------------------


def end(process, number):
    """Send a signal to a command and its children, as a terminal does. Returns what it printed."""
    os.killpg(process.pid, number)
    return process.communicate()[0]


def test_interrupted_training_says_how_to_resume(pipeline, tmp_path):
    settings = (f"trial_base={tmp_path}", *ENDLESS, *FEW)
    with started("main.py", "--conf", pipeline[1], *settings) as process:
        read_until(process, "epoch   1")
        last = end(process, signal.SIGINT).splitlines()[-1]
    (trial,) = (tmp_path / "demo").iterdir()
    assert process.returncode == 130 and last == f"stopped; to resume: python main.py --resume {trial}"
    done = len(metrics_of(trial))
    call(*last.partition("python ")[2].split(), f"param_conf.num_epoch={done}")
    assert [epoch["epoch"] for epoch in metrics_of(trial)] == list(range(done + 1))


def test_training_ends_quietly_on_a_closed_pipe(pipeline, tmp_path):
    settings = (f"trial_base={tmp_path / 'output'}", *ENDLESS, *FEW)
    with started("main.py", "--conf", pipeline[1], *settings, stderr=subprocess.PIPE) as process:
        read_until(process, "epoch   1")
        process.stdout.close()
        assert (process.wait(timeout=60), process.stderr.read()) == (141, "")
        process.stderr.close()
    trial = only_trial(tmp_path)
    done = len(metrics_of(trial))
    assert done >= 2 and not list(tmp_path.rglob("*.tmp"))
    call("main.py", "--resume", trial, f"param_conf.num_epoch={done}")
    assert [epoch["epoch"] for epoch in metrics_of(trial)] == list(range(done + 1))


def test_several_processes_on_a_closed_pipe_print_no_error(pipeline, tmp_path):
    command = [sys.executable, *TORCHRUN, "2", "main.py", "--conf", str(pipeline[1]), f"trial_base={tmp_path}", *FEW]
    with closed_pipe() as pipe:
        done = subprocess.run(command, cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert done.returncode and not errors(done.stderr)
    assert done.stderr.count("Traceback") == 1  # torchrun's own


@pytest.mark.parametrize(("script", "locale"), [(STAGES[1], {"LC_ALL": "C"}), (SEARCH, {"PYTHONIOENCODING": "ascii"})])
def test_names_and_captions_beyond_ascii_print_in_any_locale(pipeline, tmp_path, script, locale):
    folder, trial = tmp_path / "données 雨", only_trial(pipeline[0])
    shutil.copytree(pipeline[0] / "data", folder / "data")
    captions = folder / "data" / "clotho_captions_evaluation.csv"
    captions.write_text(captions.read_text().replace("rain", "pluie-tiède"))
    searching = ["--trial", trial, "été rain", "--play-list", folder / "é.m3u8"]
    arguments = ["--conf", tiny_conf(folder)] if script == STAGES[1] else searching
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | locale, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"-> " in done.stdout and b"Error" not in done.stderr


def kill_writer(trial):
    """Kill the process that trains the trial."""
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if entry.readlink() == trial / ".lock":
                os.kill(int(entry.parts[2]), signal.SIGKILL)


def trials_of(sweep):
    """{trial: whether the sweep's files mark it as finished}."""
    points = [json.loads(path.read_text()) for path in (sweep / "points").iterdir()]
    return {(sweep / point["trial"]).resolve(): point["finished"] for point in points}


def test_a_killed_sweep_resumes_and_its_trials_equal_single_runs(pipeline, tmp_path):
    """Two trials, one at a time. Both equal the finished run, since their setting has no effect so early."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-sweep.txt")
    series, threads = tmp_path / "demo", torch.get_num_threads()
    ray = (f"ray_conf.trial_resources.cpu={threads}", f"ray_conf.init_args.num_cpus={threads}")
    grid = "sweep_conf={TrialPlateauStopper.num_results: [10, 11]}"
    with started("main.py", "--sweep", "--conf", pipeline[1], f"trial_base={tmp_path}", grid, *ray) as process:
        while not (checkpoints := list(series.glob("*/checkpoint_last.pt"))):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        died = checkpoints[0].parent
        kill_writer(died)
        printed = read_until(process, "(1 of 2)")
        end(process, signal.SIGKILL)
    assert printed.count("; resumes from its checkpoint") == 1
    (sweep,) = series.glob("*_sweep")
    (finished,) = (trial for trial, is_finished in trials_of(sweep).items() if is_finished)
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir() if path.name != KEPT}

    with started("main.py", "--sweep", "--resume", sweep) as process:
        assert "2 trials, 1 of them finished" in read_until(process, "started")  # Ray may warn between these lines
        printed = end(process, signal.SIGINT)
    assert "Traceback" not in printed
    if process.returncode:  # else the trial was done before the signal came
        assert process.returncode == 130 and f"to resume: python main.py --sweep --resume {sweep}" in printed

    last = call("main.py", "--sweep", "--resume", sweep, apart=True)
    assert "(2 of 2)" in printed + last and f"2 trials -> {sweep / 'comparison'}" in last
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir() if path.name != KEPT} == before
    assert (died / "train.log").read_text().count("40 pairs, 5 batches an epoch") >= 2
    assert len(trials_of(sweep)) == 2 and all(trials_of(sweep).values()) and died in trials_of(sweep)
    confs = [yaml.safe_load((trial / "conf.yaml").read_text()) for trial in trials_of(sweep)]
    assert {conf["TrialPlateauStopper"]["num_results"] for conf in confs} == {10, 11}
    single = only_trial(pipeline[0])
    for trial in trials_of(sweep):
        names, others = ({path.name for path in place.iterdir()} - {"report", KEPT} for place in (trial, single))
        assert names == others
        assert metrics_of(trial) == metrics_of(single)
        for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
            assert equal(weights(trial, name), weights(single, name))
        for name in ("retrieval_metrics.json", "evaluation_xmodal_scores.hdf5"):
            assert (trial / name).read_bytes() == (single / name).read_bytes()

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

from tests.helpers import ROOT, record_step
from utils.common.errors import UserError
from utils.common.io import write_json
from utils.common.steps import CLEANING, EMBEDDING, INDEXING, LOG_MELS
from utils.conf.load import load_conf
from utils.dataset.index import clip_info
from utils.trial.dataset_provenance import check_steps, holds, record_step_outputs
from utils.trial.provenance import PROVENANCE, read_provenance, versions

RAW, CLEAN, TEXT = "clotho_captions_x.csv", "x_clean_captions.csv", "x_text.csv"


@pytest.fixture
def data(tmp_path):
    """conf(*overrides) of a data set whose first two steps ran on its captions, and its directory."""

    def conf(*overrides):
        splits = [f"data_conf.{name}=x" for name in ("train_data", "val_data", "eval_data")]
        return load_conf(ROOT / "conf.yaml", [f"data_conf.dataset={tmp_path}", *splits, *overrides])

    for path in (RAW, CLEAN, TEXT, "vocab_info.json", "audio_info.json"):
        (tmp_path / path).write_text(path)
    write_json(tmp_path / "audio_info.json", clip_info({"x": {}}))
    record_step(conf(), CLEANING)
    record_step(conf(), INDEXING)
    return conf, tmp_path


def test_an_unchanged_data_set_passes(data):
    conf, folder = data
    check_steps(conf(), CLEANING, INDEXING)
    check_steps(conf("param_conf.seed=3", "audio_logmel.workers=2"), CLEANING, INDEXING)
    (folder / RAW).unlink()  # preprocessed data may travel without what they were made from
    check_steps(conf(), CLEANING, INDEXING)


@pytest.mark.parametrize(
    ("changed", "override", "steps", "complaint"),
    [
        (RAW, [], [CLEANING, INDEXING], f"{RAW}: has changed since {CLEANING} read it; run that again"),
        (CLEAN, [], [CLEANING, INDEXING], f"{CLEAN}: is not as {CLEANING} wrote it; run that again"),
        (TEXT, [], [CLEANING, INDEXING], f"{TEXT}: is not as {INDEXING} wrote it; run that again"),
        ("y_text.csv", ["data_conf.eval_data=y"], [INDEXING], f"y_text.csv: not recorded as made by {INDEXING} with"),
        (None, [], [CLEANING, EMBEDDING], f"{PROVENANCE}: no record of {EMBEDDING}; run it"),
        (None, ["text_cleaning.named_entities=keep"], [CLEANING], "named_entities replace, but it is now keep; set it"),
    ],
)
def test_a_change_is_named_with_the_step_to_run(data, changed, override, steps, complaint):
    """A split without a record too: its file may be one of other settings, whose record is gone."""
    conf, folder = data
    if changed:
        (folder / changed).write_text("other")
    with pytest.raises(UserError, match=re.escape(complaint)) as refusal:
        check_steps(conf(*override), *steps)
    assert str(refusal.value).startswith(str(folder))


def test_running_a_step_again_makes_later_steps_stale(data):
    conf, folder = data
    (folder / CLEAN).write_text("cleaned otherwise")
    record_step(conf(), CLEANING)
    check_steps(conf(), CLEANING)
    with pytest.raises(UserError, match="has changed since preprocessing"):
        check_steps(conf(), CLEANING, INDEXING)


def test_an_input_that_changes_while_a_step_runs_is_refused_by_the_next_step(data):
    conf, folder = data
    with record_step_outputs(conf(), CLEANING):
        (folder / RAW).write_text("edited meanwhile")
    with pytest.raises(UserError, match="has changed since preprocessing/1_text_cleaning"):
        check_steps(conf(), CLEANING)


def test_an_output_holds_while_its_file_and_settings_are_unchanged(data):
    conf, folder = data
    path = folder / "x_audio_logmels.hdf5"
    path.write_text("log-mels")
    assert not holds(conf(), LOG_MELS, path)
    record_step(conf(), LOG_MELS)
    assert holds(conf(), LOG_MELS, path) and holds(conf("audio_logmel.backend=librosa"), LOG_MELS, path)
    assert not holds(conf("audio_logmel.hop=0.01"), LOG_MELS, path)
    assert not holds(conf(), LOG_MELS, folder / TEXT) and not holds(conf(), LOG_MELS, folder / "absent")
    path.write_text("other")
    assert not holds(conf(), LOG_MELS, path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("[]", "the file"),
        ('{"x": []}', "x"),
        ('{"x": {"inputs": {"a": 1}}}', "x.inputs.a"),
        ('{"x": {"settings": 3}}', "x.settings"),
        ('{"x": {"format": "two"}}', "x.format"),
        ('{"x": {"format": null}}', "x.format"),
        ('{"a\\nb": 3}', r"a\nb"),
        ('{"x": {', "the file': Invalid JSON"),
        ("[" * 100_000, "the file': Invalid JSON"),
    ],
)
def test_a_garbled_record_is_refused_in_one_line(tmp_path, content, what):
    """Of a trial it is never to be removed: nothing can make it again."""
    (tmp_path / PROVENANCE).write_text(content)
    for advice in ("move it away, and run the steps again", "put a copy back"):
        with pytest.raises(UserError) as refusal:
            read_provenance(tmp_path)
        message = str(refusal.value)
        assert message.startswith(f"{tmp_path / PROVENANCE}: not as its step writes it ('{what}")
        assert message.count("\n") == 0 and advice in message and "remove" not in message
        (tmp_path / "conf.yaml").touch()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_versions_name_the_commit_of_a_checkout(tmp_path, monkeypatch):
    def git(*arguments):
        who = ("-c", "user.name=x", "-c", "user.email=x")
        command = ["git", "-C", tmp_path, *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr("utils.trial.provenance.ROOT", tmp_path)
    found = versions()
    assert found["commit"] is None and found["clean"] is None
    assert found["torch"] == torch.__version__ and found["numpy"] == np.__version__
    git("init")
    git("commit", "--allow-empty", "--message", "x")
    found = versions()
    assert found["commit"] == git("rev-parse", "HEAD") and found["clean"] is True
    (tmp_path / "new").touch()
    assert versions()["clean"] is False


def test_entries_are_in_the_order_of_the_steps(data):
    conf, folder = data
    record_step(conf(), CLEANING)
    assert list(json.loads((folder / PROVENANCE).read_text())) == [CLEANING, INDEXING]

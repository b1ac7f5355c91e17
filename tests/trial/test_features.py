"""Trials whose training reads features: what they need, and what they refuse."""

import numpy as np
import pytest

from tests.helpers import ON_FEATURES, WORDS, record_step, write_features, write_trial
from utils.common.errors import UserError
from utils.common.steps import FEATURES, LOG_MELS, TRAINING
from utils.conf.load import load_conf, save_conf
from utils.dataset.index import read_clips
from utils.dataset.paths import DatasetPaths
from utils.trial.checks import check_trial
from utils.trial.dataset_provenance import OWN_FEATURES, sources
from utils.trial.identity import begin, data_digests
from utils.trial.provenance import PROVENANCE, read_provenance, record
from utils.trial.start import load_training_data
from utils.trial.trial import Trial


@pytest.fixture
def conf(tmp_path):
    """The configuration of a data set without log-mels, with features of 10 dimensions."""
    _, conf = write_trial(tmp_path)
    save_conf(conf, tmp_path / "conf.yaml")
    projected = [f"CRNNWordModel.{side}_enc.projection=6" for side in ("audio", "text")]
    settings = [*ON_FEATURES, *projected, "data_conf.val_data=evaluation", "param_conf.batch_size=2"]
    conf, paths = load_conf(tmp_path / "conf.yaml", settings), DatasetPaths(conf.data_conf.dataset)
    for split in conf.data_conf.splits:
        paths.log_mels(split).unlink()
        write(paths, split, 10)
    made = read_provenance(paths.root)
    del made[LOG_MELS]
    (tmp_path / "data" / PROVENANCE).unlink()
    for step, entry in made.items():
        record(paths.root, step, entry)
    record_step(conf, FEATURES)
    return conf


def write(paths, split, size, seed=0):
    rng = np.random.default_rng(seed)
    features = {fid: rng.random((2, size), np.float32) for fid in read_clips(paths, split)}
    write_features(paths.audio_features(split), features)


@pytest.fixture(autouse=True)
def word_vectors(monkeypatch):
    """Stand for the file, which is empty."""
    vectors = WORDS, np.zeros((len(WORDS), 300), np.float32)
    monkeypatch.setattr("utils.text_input.load_embeddings", lambda path, dim, made_by: vectors)


@pytest.fixture
def trial(conf, tmp_path):
    path = tmp_path / "features"
    path.mkdir()
    begin(path, conf, data_digests(conf, ["development"]))
    return Trial(path, conf)


def test_features_are_trained_on_without_log_mels(conf):
    data = load_training_data(conf)
    assert data.train.width == data.val.width == 10 and data.train.frames == [2, 2]
    files = {
        f"{split}_{kind}" for split in ("development", "evaluation") for kind in ("text.csv", "audio_features.hdf5")
    }
    assert data.files.keys() == files | {"word2vec_embeds.npz"}


def test_validation_features_of_another_size_are_refused(conf):
    write(DatasetPaths(conf.data_conf.dataset), "evaluation", 12)
    record_step(conf, FEATURES)
    message = r"evaluation_audio_features\.hdf5: clip .* \(2, 12\), but the clips of development have \(frames, 10\)"
    with pytest.raises(UserError, match=message):
        load_training_data(conf)


def test_features_that_step_5_has_not_recorded_are_refused(conf, trial):
    write(DatasetPaths(conf.data_conf.dataset), "development", 10, seed=1)
    with pytest.raises(UserError, match=r"development_audio_features\.hdf5: is not as .*5_audio_features\.py wrote it"):
        check_trial(trial, TRAINING)


def test_a_trial_refuses_other_features_than_it_was_trained_on(conf, trial):
    """Whether other weights made them, or the same weights of other sounds."""
    check_trial(trial, TRAINING)
    write(DatasetPaths(conf.data_conf.dataset), "development", 10, seed=1)
    record_step(conf, FEATURES)
    with pytest.raises(UserError, match=r"development_audio_features\.hdf5: has changed since .* was begun"):
        check_trial(trial, TRAINING)


def test_features_of_the_user_are_a_source_of_the_data_set(conf):
    assert OWN_FEATURES not in sources(conf)
    entry = read_provenance(conf.data_conf.dataset)[FEATURES]
    record(conf.data_conf.dataset, FEATURES, entry.model_copy(update={"settings": {"audio_features.model": "own"}}))
    assert sources(conf)[OWN_FEATURES] == entry.outputs["development_audio_features.hdf5"]

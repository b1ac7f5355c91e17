"""Sounds from outside the data set, as a model on features reads them."""

import numpy as np
import pytest
import soundfile
import torch

from models.mobilenet import MobileNetV3
from tests.helpers import ON_FEATURES, ROOT
from utils.common.digests import file_digest
from utils.common.errors import UserError
from utils.conf.load import load_conf
from utils.dataset.feature_model import read_features
from utils.dataset.mobilenet_features import find_mobilenet
from utils.search.sounds import Features, Heard


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mn01.pt"
    torch.save(MobileNetV3(0.1).state_dict(), path)
    return path


@pytest.fixture
def made(weights, tmp_path):
    """The configuration, and how a split's sounds were read."""
    path = tmp_path / "evaluation_audio_features.hdf5"
    return conf_with(f"audio_features.weights={weights}"), Heard(str(path), None, file_digest(weights))


def conf_with(*settings):
    return load_conf(ROOT / "conf.yaml", [*ON_FEATURES, *settings])


def test_a_sound_is_read_by_the_weights_of_step_5(made, weights, tmp_path):
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    features = Features(*made).read(sound)
    assert features.shape == (4, 96)  # of 0.32 s
    np.testing.assert_array_equal(features, read_features(sound, find_mobilenet(str(weights))))
    with pytest.raises(UserError, match=r"x\.wav: no such file"):
        Features(*made).read(tmp_path / "x.wav")


def test_other_weights_are_refused(made):
    conf, heard = made
    with pytest.raises(UserError, match=r"mn01\.pt: not the weights that .*_features\.hdf5 was made by"):
        Features(conf, heard._replace(weights_sha256="0" * 64))


def test_features_of_the_user_cannot_be_made_of_a_sound(made):
    with pytest.raises(UserError, match=r"audio_features\.model: is own: no features can be made of another sound"):
        Features(conf_with("audio_features.model=own"), made[1])

"""The pretrained network is EfficientAT's: its values, its state dicts of every width, and no other network."""

import numpy as np
import pytest
import torch

from models.mobilenet import BANDS, RATE, MobileNetV3, divisible
from tests.helpers import random_model

PUBLISHED = {"mn01": 0.1, "mn02": 0.2, "mn04": 0.4, "mn05": 0.5, "mn10": 1.0, "mn20": 2.0, "mn30": 3.0, "mn40": 4.0}


@pytest.fixture
def arrays(golden):
    return golden("mn01_random")


@pytest.fixture
def network(arrays):
    """The golden network, of width 0.1 with random weights."""
    state = {key: torch.from_numpy(arrays[key]) for key in arrays if key.startswith("state/")}
    return MobileNetV3.from_state_dict({key.removeprefix("state/"): weights for key, weights in state.items()})


@pytest.mark.parametrize("is_folded", [False, True])
@torch.inference_mode()
def test_golden_features_and_logits(arrays, network, is_folded):
    network = network.folded() if is_folded else network
    log_mel, noise = (torch.from_numpy(arrays[name]).float()[None] for name in ("log_mel", "noise"))
    np.testing.assert_allclose(network.image(log_mel)[0], arrays["features"], atol=1e-4)
    np.testing.assert_allclose(network.logits(log_mel)[0], arrays["logits"], atol=1e-4)
    np.testing.assert_allclose(network.image(noise)[0], arrays["noise_features"], atol=1e-4)
    np.testing.assert_allclose(network(log_mel)[0], arrays["features"].mean(axis=1).T, atol=1e-4)


@pytest.mark.parametrize("frames", [1, RATE, RATE + 1, 3 * RATE])
@torch.inference_mode()
def test_a_frame_of_features_for_every_32_frames_begun(network, frames):
    assert network(torch.zeros(2, BANDS, frames)).shape == (2, -(-frames // RATE), network.size)


@pytest.mark.parametrize("width", PUBLISHED.values(), ids=PUBLISHED)
def test_the_width_follows_from_a_state_dict(width):
    with torch.device("meta"):  # no memory
        state = MobileNetV3(width).state_dict()
        last = state["features.16.1.weight"]
        assert len(last) == 6 * divisible(160 * width)
        assert {key: weights.shape for key, weights in MobileNetV3(len(last) / 960).state_dict().items()} == {
            key: weights.shape for key, weights in state.items()
        }


def test_channels_are_multiples_of_8_that_rounding_hardly_lowers():
    assert [divisible(channels) for channels in (1.6, 8, 11.9, 12, 19, 20, 43, 44)] == [8, 8, 16, 16, 24, 24, 40, 48]


def test_state_dicts_of_other_networks_are_refused(network):
    with pytest.raises(KeyError):
        MobileNetV3.from_state_dict(random_model().state_dict())
    state = network.state_dict()
    with pytest.raises(RuntimeError):
        MobileNetV3.from_state_dict(state | {"features.3.block.0.0.weight": torch.zeros(3)})
    with pytest.raises(RuntimeError):
        MobileNetV3.from_state_dict({key: weights for key, weights in state.items() if "fc1" not in key})

"""Weights are downloaded once and checked, or read from a path; anything else is one line that says what to do."""

import pytest
import torch

from models.mobilenet import MobileNetV3
from utils.common.errors import UserError
from utils.dataset import mobilenet_features
from utils.dataset.mobilenet_features import PUBLISHED, find_mobilenet, find_weights

NAME = "mn01_as"


@pytest.fixture
def released(tmp_path, monkeypatch):
    """The published file of mn01_as, which holds random weights; it is not in the cache."""
    (tmp_path / "release").mkdir()
    monkeypatch.setattr(mobilenet_features, "RELEASE", (tmp_path / "release").as_uri())
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "release" / PUBLISHED[NAME]
    torch.manual_seed(0)
    torch.save(MobileNetV3(0.1).state_dict(), path)
    return path


@pytest.fixture
def cached(tmp_path):
    """Where a download goes."""
    return tmp_path / "cache" / "torch" / "hub" / "checkpoints" / PUBLISHED[NAME]


def refusal(weights):
    with pytest.raises(UserError) as error:
        find_mobilenet(str(weights))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_published_name_is_downloaded_once(released, cached, capsys):
    weights = find_weights(NAME)
    assert weights == (NAME, cached) and cached.read_bytes() == released.read_bytes()
    assert released.name in capsys.readouterr().out
    released.unlink()
    assert find_weights(NAME) == weights and capsys.readouterr().out == ""
    assert list(cached.parent.iterdir()) == [cached]


def test_weights_without_internet(released, cached):
    released.unlink()
    message = refusal(NAME)
    assert message.startswith(f"audio_features.weights: {NAME} could not be downloaded (")
    advice = f"elsewhere, and name the file in audio_features.weights, or put it at {cached}"
    assert message.endswith(f"download {released.as_uri()} {advice}")
    assert not list(cached.parent.iterdir())


@pytest.mark.parametrize("damage", ["cut short", "other digest"])
def test_a_damaged_download_is_not_kept(released, cached, monkeypatch, damage):
    if damage == "cut short":
        released.write_bytes(released.read_bytes()[:-1000])
    else:
        monkeypatch.setitem(mobilenet_features.SHA256, NAME, "0" * 64)
    assert f"put it at {cached}" in refusal(NAME)
    assert not list(cached.parent.iterdir())


def test_a_file_in_the_cache_that_is_not_the_published_one(released, cached, monkeypatch):
    find_weights(NAME)
    monkeypatch.setitem(mobilenet_features.SHA256, NAME, "0" * 64)
    assert refusal(NAME) == f"{cached}: not {NAME} as published (by its SHA-256); remove it, and run this again"


def test_a_path_to_weights(released):
    assert find_weights(str(released)) == (released.stem, released)
    assert refusal("mn03_as").startswith("audio_features.weights: no such file: mn03_as; name a file, or one of ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"conv.weight": torch.zeros(3)}, "weights of another network"),
        ([torch.zeros(3)], "weights of another network"),
        ({"features.16.1.weight": 3}, "weights of another network"),
        (MobileNetV3(0.1).state_dict() | {"features.3.block.0.0.weight": torch.zeros(3)}, "weights of another network"),
        (MobileNetV3(0.1).state_dict() | {"features.0.1.bias": torch.full((8,), torch.nan)}, "not finite"),
    ],
)
def test_files_of_other_content_are_refused(tmp_path, content, words):
    torch.save(content, tmp_path / "x.pt")
    message = refusal(tmp_path / "x.pt")
    assert message.startswith(f"{tmp_path / 'x.pt'}: ") and words in message and "mn04_as_mAP_432.pt" in message

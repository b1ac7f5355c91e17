"""Features are those of the clip alone and whole, or of its windows; they are kept while sound and weights stay."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import soundfile
import torch

import utils.dataset.audio
from models.mobilenet import MobileNetV3
from tests.helpers import CPU, finish_clips
from utils.common.errors import UserError
from utils.dataset.audio import Clip, probe_clip
from utils.dataset.audio_features import LISTED, Sizes, check_own_features, feature_store, refuse_to_replace
from utils.dataset.feature_model import read_features
from utils.dataset.mobilenet_features import SAMPLE_RATE, find_mobilenet, kaldi_log_mel, load_network

FRAME = 10_240  # samples


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The weights of a small random network."""
    return save_weights(tmp_path_factory.mktemp("weights") / "mn01.pt", seed=0)


def save_weights(path, seed):
    torch.manual_seed(seed)
    torch.save(MobileNetV3(0.1).state_dict(), path)
    return find_mobilenet(str(path))


@pytest.fixture
def network(weights):
    return load_network(weights.place)


def noise(samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


@torch.inference_mode()
def encoded(network, waveform):
    return network(kaldi_log_mel(waveform, CPU)[None])[0].numpy()


# --- log-mels --------------------------------------------------------------------------------------------


def test_golden_log_mel(golden):
    arrays = golden("mn01_random")
    log_mel = kaldi_log_mel(arrays["pcm16"].astype(np.float32) / 32768, CPU)
    assert log_mel.shape == (128, 150)
    np.testing.assert_allclose(log_mel, arrays["log_mel"], atol=1e-4)


@pytest.mark.parametrize("samples", [2, 3, 320, 321, 512, 513, 514, 640])
def test_a_frame_of_log_mels_for_every_hop_begun(samples):
    log_mel = kaldi_log_mel(noise(samples), CPU)
    assert log_mel.shape == (128, -(-samples // 320)) and log_mel.isfinite().all()


# --- of a file -------------------------------------------------------------------------------------------


def test_a_file_read_in_blocks_has_the_features_of_the_whole(tmp_path, weights, monkeypatch):
    soundfile.write(tmp_path / "x.wav", noise(50_000), 44100)
    whole = read_features(tmp_path / "x.wav", weights)
    monkeypatch.setattr(utils.dataset.audio, "BLOCK", 7001)
    assert whole.shape[0] == -(-round(50_000 / 44100 * SAMPLE_RATE) // FRAME)
    np.testing.assert_allclose(read_features(tmp_path / "x.wav", weights), whole, atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "cuts"),
    [
        *((samples, []) for samples in (300, FRAME, FRAME + 1, 4 * FRAME - 1)),
        (4 * FRAME, [2]),
        (7 * FRAME + 9, [2, 4]),
    ],
)
def test_a_long_clip_is_encoded_in_windows_and_a_shorter_one_whole(
    tmp_path, network, weights, monkeypatch, samples, cuts
):
    waveform = noise(samples)
    soundfile.write(tmp_path / "x.wav", np.stack([waveform, waveform], axis=1), SAMPLE_RATE, subtype="FLOAT")
    windowed = replace(weights, window=2 * FRAME, longest=4 * FRAME - 1)
    monkeypatch.setattr(utils.dataset.audio, "BLOCK", 9001)
    windows = np.split(waveform, [FRAME * cut for cut in cuts])
    expected = np.concatenate([encoded(network, window) for window in windows])
    features = read_features(tmp_path / "x.wav", windowed)
    assert features.shape == (-(-samples // FRAME), network.size) and features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-6)


@pytest.mark.parametrize(("samples", "rate", "words"), [(1, SAMPLE_RATE, "too short"), (2000, 900, "900 Hz is too")])
def test_sounds_that_cannot_be_encoded_are_refused(tmp_path, weights, samples, rate, words):
    soundfile.write(tmp_path / "x.wav", noise(samples), rate)
    with pytest.raises(UserError, match=rf"x\.wav: .*{words}.*; remove it and its row of captions"):
        read_features(tmp_path / "x.wav", weights)


# --- of a split ------------------------------------------------------------------------------------------


def finish(store, clips, folder):
    """Finish clips and assemble the file; returns the fids of the computed ones."""
    computed, places = finish_clips(store, clips, folder)
    store.assemble(clips, store.stored(), places)
    return computed


@pytest.fixture
def clips(tmp_path):
    for i, name in enumerate("abc"):
        soundfile.write(tmp_path / f"{name}.wav", noise(9000 * (i + 1), i), 16000)
    return {name: probe_clip(tmp_path / f"{name}.wav").clip for name in "abc"}


def test_a_file_of_features_holds_each_clip_encoded_alone_and_says_by_which_model(tmp_path, clips, weights):
    store = feature_store(tmp_path / "x.hdf5", weights)
    assert finish(store, clips, tmp_path) == ["a", "b", "c"]
    with h5py.File(tmp_path / "x.hdf5") as opened:
        model = {"model": "efficientat mn01", "seconds_per_frame": 0.32, "weights_sha256": weights.sha256}
        assert dict(opened.attrs) == model
        for fid in clips:
            expected = read_features(tmp_path / f"{fid}.wav", weights)  # by any number of threads
            np.testing.assert_allclose(opened[fid][()], expected, rtol=1e-4, atol=1e-6)
            assert opened[fid].attrs["audio_sha256"] == clips[fid].sha256.encode()
    (tmp_path / "y").mkdir()
    finish(feature_store(tmp_path / "y" / "x.hdf5", weights), dict(reversed(clips.items())), tmp_path)
    with h5py.File(tmp_path / "x.hdf5") as one, h5py.File(tmp_path / "y" / "x.hdf5") as other:
        assert all(np.array_equal(one[fid][()], other[fid][()]) for fid in clips)


def test_finished_features_are_kept_until_the_sound_or_the_weights_change(tmp_path, clips, weights):
    store = feature_store(tmp_path / "x.hdf5", weights)
    finish(store, clips, tmp_path)
    store.clear()
    assert finish(feature_store(tmp_path / "x.hdf5", weights), clips, tmp_path) == []
    soundfile.write(tmp_path / "b.wav", noise(9000, 9), 16000)
    clips["b"] = probe_clip(tmp_path / "b.wav").clip
    assert finish(feature_store(tmp_path / "x.hdf5", weights), clips, tmp_path) == ["b"]
    others = feature_store(tmp_path / "x.hdf5", save_weights(tmp_path / "mn01.pt", seed=1))
    assert others.stored() == {} and others.prepare()
    assert finish(others, clips, tmp_path) == ["a", "b", "c"]


def test_features_that_the_user_wrote_are_not_replaced(tmp_path, clips, weights):
    path = tmp_path / "x.hdf5"
    refuse_to_replace(path)  # absent
    finish(feature_store(path, weights), clips, tmp_path)
    refuse_to_replace(path)
    for model in ("PANNs", np.bytes_("PANNs"), "efficientat, fine-tuned"):
        with h5py.File(path, "w") as store:
            store["f0"], store.attrs["model"] = np.ones((2, 3), np.float32), model
        with pytest.raises(UserError, match=rf"^{path}: holds features of another model .*model to own"):
            refuse_to_replace(path)
    path.write_bytes(b"damaged")
    refuse_to_replace(path)


# --- of the user -----------------------------------------------------------------------------------------

CLIPS = {fid: Clip(f"{fid}.wav", 1.0, 16000, 1, "0" * 64) for fid in "abc"}


@pytest.fixture
def files(tmp_path):
    """Two files without a fault, of 5 dimensions, with their clips."""
    for name in ("x", "y"):
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as store:
            store.attrs["model"], store.attrs["seconds_per_frame"] = "PANNs", 0.5
            for frames, fid in enumerate("abcd", start=1):
                store[fid] = np.ones((frames, 5), np.float16 if fid == "a" else np.float32)
    return {tmp_path / f"{name}.hdf5": CLIPS for name in ("x", "y")}


def test_good_features_have_their_sizes(files):
    assert check_own_features(files) == dict.fromkeys(files, Sizes(6, 5))


def put(content, fid="b"):
    def change(store):
        del store[fid]
        store[fid] = content

    return change


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda store: store.pop("b"), "lacks 1 clip of the split, such as b ('b.wav'); add"),
        (put(np.ones((2, 0), "f4")), "b ('b.wav') has the shape (2, 0); write (frames, dimensions)"),
        (put(np.ones((0, 5), "f4")), "b ('b.wav') has no frames; write one or more"),
        (put(np.ones((2, 5), int)), "b holds int64, not floating-point numbers"),
        (put(np.full((2, 5), 1e300)), "b ('b.wav') has features that are not finite"),
        (put(h5py.ExternalLink("z.hdf5", "b")), "b is not a data set of this file"),
        (put(np.ones((2, 6), "f4"), "c"), "c has 6 dimensions, but a has 5; write all by one model"),
        (lambda store: store.attrs.pop("model"), "the attribute model is missing or no text"),
        (lambda store: store.attrs.pop("seconds_per_frame"), "the attribute seconds_per_frame is missing or not"),
        (lambda store: store.attrs.modify("seconds_per_frame", np.nan), "the attribute seconds_per_frame is missing"),
    ],
)
def test_each_fault_is_one_line(files, change, line):
    path = next(iter(files))
    with h5py.File(path, "a") as store:
        change(store)
    with pytest.raises(UserError) as error:
        check_own_features(files)
    assert str(error.value).startswith(f"{path}: {line}") and "\n" not in str(error.value)


def test_all_faults_are_reported_and_many_are_counted(files, tmp_path):
    first, second = files
    clips = {f"{number:03}": CLIPS["a"] for number in range(30)}
    with h5py.File(first, "a") as store:
        for fid in clips:
            store[fid] = np.zeros((1, 5), int)
    with h5py.File(second, "a") as store:
        for fid in CLIPS:
            put(np.ones((1, 7), "f4"), fid)(store)
        store["other"] = 3  # of no clip
    third = tmp_path / "z.hdf5"
    with pytest.raises(UserError) as error:
        check_own_features({first: CLIPS | clips, second: CLIPS, third: CLIPS})
    lines = str(error.value).splitlines()
    assert sum("holds int64" in line for line in lines) == LISTED
    assert lines[LISTED:] == [
        f"{first}: 20 more faults",
        f"{third}: no such file; write it (docs/features.md), or set audio_features.model to efficientat",
        f"{second}: 7 dimensions, but {first} has 5; write all by one model",
    ]

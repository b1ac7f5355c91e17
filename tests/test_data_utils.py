"""Splits as they are read from a small data set, and their batches."""

import os
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from tests.helpers import CPU, ON_FEATURES, ROOT, random_split, write_features
from utils import data_utils
from utils.audio_input import audio_input
from utils.common.errors import UserError
from utils.common.io import write_csv
from utils.conf.load import load_conf
from utils.data_utils import DiskAudio, batches, load_split, on_device
from utils.dataset.index import TEXT_COLUMNS, read_table
from utils.dataset.paths import DatasetPaths
from utils.device_utils import DeviceAudio
from utils.model_utils import seed_epoch

WORDS = ["<pad>", "a", "b"]


def audio_of(*settings):
    """What a configuration of these settings reads."""
    return audio_input(load_conf(ROOT / "conf.yaml", settings))


AUDIO, FEATURES = audio_of(), audio_of(*ON_FEATURES)


@pytest.fixture
def dataset(tmp_path):
    """A data set directory with one split `dev` of two clips."""
    paths = DatasetPaths(str(tmp_path))
    rows = [[f"t{i}", f"f{i // 2}", "x.wav", "A", "a b", '["a", "b"]'] for i in range(4)]
    write_csv(paths.text("dev"), TEXT_COLUMNS, rows)
    with h5py.File(paths.log_mels("dev"), "w") as store:
        store["f0"], store["f1"] = np.zeros((5, 64)), np.ones((7, 64), np.float32)
    return paths


def test_load_split(dataset):
    split = load_split(dataset, "dev", WORDS, AUDIO)
    assert split.fids == ["f0", "f1"] and split.caption_clips.tolist() == [0, 0, 1, 1]
    assert [caption.tolist() for caption in split.captions] == [[1, 2]] * 4
    assert [log_mel.dtype for log_mel in split.audio] == [torch.float32] * 2  # the first is stored as float64


def test_log_mels_on_disk_are_those_in_memory(dataset, capsys, monkeypatch):
    memory = load_split(dataset, "dev", WORDS, AUDIO)
    assert "in memory" in capsys.readouterr().out
    disk = load_split(dataset, "dev", WORDS, AUDIO, cache="disk")
    assert "read from disk" in capsys.readouterr().out
    assert isinstance(disk.audio, DiskAudio) and disk.frames == memory.frames == [5, 7]
    for ours, theirs in zip(disk.audio, memory.audio, strict=True):
        assert torch.equal(ours, theirs)
    monkeypatch.setattr("utils.data_utils.free_memory", lambda: 1000.0)
    assert isinstance(load_split(dataset, "dev", WORDS, AUDIO).audio, DiskAudio)
    assert "do not fit into memory" in capsys.readouterr().out


def test_features_are_read_in_place_of_log_mels(dataset, capsys):
    """The log-mels are gone; the size of the features is that in their file, and a single frame is enough."""
    dataset.log_mels("dev").unlink()
    features = {"f0": np.arange(10, dtype=np.float32).reshape(1, 10), "f1": np.ones((3, 10), np.float32)}
    write_features(dataset.audio_features("dev"), features)
    memory, disk = (load_split(dataset, "dev", WORDS, FEATURES, cache) for cache in ("memory", "disk"))
    said = capsys.readouterr().out
    assert "dev: 2 clips, features in memory (0 MB)" in said and "features read from disk" in said
    assert isinstance(disk.audio, DiskAudio) and not isinstance(memory.audio, DiskAudio)
    device = replace(memory, audio=DeviceAudio(memory.audio, CPU))
    for split in (memory, disk, device):
        assert split.width == 10 and split.frames == [1, 3]
        (batch,) = batches(split, 4)
        assert batch.audio.shape == (4, 3, 10) and batch.audio_lens.tolist() == [1, 1, 3, 3]
        np.testing.assert_array_equal(batch.audio[0, 0], features["f0"][0])
        assert not batch.audio[0, 1:].any() and (batch.audio[2] == 1).all()


def test_batches_are_zero_padded_and_visit_every_caption_once():
    torch.manual_seed(0)
    split, seen = random_split(), []
    for batch in batches(split, batch_size=4, shuffle=True):
        assert batch.audio.shape[1] == batch.audio_lens.max() and batch.text.shape[1] == batch.text_lens.max()
        for i, clip in enumerate(batch.clips):
            torch.testing.assert_close(batch.audio[i, : batch.audio_lens[i]], split.audio[clip])
            assert not batch.audio[i, batch.audio_lens[i] :].any() and not batch.text[i, batch.text_lens[i] :].any()
            seen.append((clip.item(), batch.text[i, : batch.text_lens[i]].tolist()))
    clips = split.caption_clips.tolist()
    assert sorted(seen) == sorted((clips[i], caption.tolist()) for i, caption in enumerate(split.captions))


def test_batches_from_disk_are_those_from_memory(dataset, monkeypatch):
    """And no process is forked to read them: this one has threads."""
    monkeypatch.delattr(os, "fork")
    epochs = []
    for cache in ("memory", "disk"):
        loader = batches(load_split(dataset, "dev", WORDS, AUDIO, cache), 3, shuffle=True)
        epochs.append([])
        for epoch in (1, 2):
            seed_epoch(0, epoch)
            epochs[-1] += [part for batch in loader for part in batch] + [torch.rand(1)]
    assert len(epochs[0]) == len(epochs[1]) == 2 * (2 * 5 + 1)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*epochs, strict=True))


@pytest.mark.parametrize(("rank", "ranks"), [(0, 1), (0, 3), (1, 3), (2, 3)])
def test_batches_from_a_device_are_those_from_memory(monkeypatch, rank, ranks):
    """Of odd lengths, and of a rank's shard of them; the order and what is drawn after it are the same too."""
    monkeypatch.setattr("utils.common.processes.rank", lambda: rank)
    monkeypatch.setattr("utils.common.processes.world_size", lambda: ranks)
    split = random_split()
    there = replace(split, audio=DeviceAudio(split.audio, CPU))
    assert there.frames == split.frames and len(there.audio) == 6
    assert all(torch.equal(*pair) for pair in zip(there.audio, split.audio, strict=True))
    epochs = []
    for loader in (batches(split, 4, shuffle=True), batches(there, 4, shuffle=True)):
        seed_epoch(0, 1)
        epochs.append([*(part for batch in loader for part in batch), torch.rand(1)])
        assert len(loader) == 5
    assert len(epochs[0]) == len(epochs[1]) == 5 * 5 + 1
    assert all(torch.equal(*pair) for pair in zip(*epochs, strict=True))


def test_log_mels_go_to_a_gpu_that_has_room_and_the_choice_is_printed(monkeypatch, capsys):
    split, cuda = random_split(), torch.device("cuda", 0)
    size = sum(log_mel.nbytes for log_mel in split.audio)
    monkeypatch.setattr(data_utils, "DeviceAudio", lambda log_mels, device: f"on {device}")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * size + 100, 1e12))
    for cache in ("memory", "device"):
        assert on_device(split, "dev", cuda, cache, 100).audio == "on cuda:0"
        assert "dev: 6 clips, log-mels on the device (0 MB)" in capsys.readouterr().out
        assert on_device(split, "dev", cuda, cache, 102) is split  # what a step needs is left
        assert "stay in memory: they do not fit on the device" in capsys.readouterr().out
    assert on_device(split, "dev", cuda, "disk", 0) is split and on_device(split, "dev", CPU, "device", 0) is split


def test_a_split_of_one_clip_cannot_be_trained_on(dataset):
    write_csv(dataset.text("dev"), TEXT_COLUMNS, [["t0", "f0", "x.wav", "A", "a b", '["a", "b"]']])
    assert load_split(dataset, "dev", WORDS, AUDIO).fids == ["f0"]
    with pytest.raises(UserError, match=r"dev_text\.csv: .*negatives need two"):
        load_split(dataset, "dev", WORDS, AUDIO, needs_negatives=True)


def test_unfit_captions_are_refused(dataset):
    with pytest.raises(UserError, match=r"dev_text\.csv: the word 'b' has no vector.* run .*3_word2vec_embeddings\.py"):
        load_split(dataset, "dev", WORDS[:2], AUDIO)
    with pytest.raises(UserError, match=r"test_text\.csv: no such file; preprocessing/2_clotho_dataset\.py makes it"):
        load_split(dataset, "test", WORDS, AUDIO)


def test_a_caption_of_sentences_is_one_word_and_never_its_words(dataset):
    texts = read_table(dataset.text("dev"), TEXT_COLUMNS, "step 2")["text"].tolist()
    vocabulary = ["<pad>", *sorted(set(texts)), "of two words"]
    split = load_split(dataset, "dev", vocabulary, AUDIO)
    assert [vocabulary[ids.item()] for ids in split.captions] == texts
    with pytest.raises(UserError, match=r"dev_text\.csv: the caption '.*' has no vector.* run .*3_sentence_embeddings"):
        load_split(dataset, "dev", [*WORDS, "of two words"], AUDIO)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            np.zeros((3, 9)),
            r"f1 has the shape \(3, 9\), but clip f0 has \(frames, 10\); run .*5_audio_features\.py again",
        ),
        (np.zeros(10), r"clip f1 has the shape \(10,\), but clip f0 has \(frames, 10\)"),
        (np.zeros((0, 10)), "clip f1 has 0 frames; the model needs at least 1"),
        (np.full((3, 10), np.nan), r"the features of clip f1 are not finite; run .*5_audio_features\.py again"),
        (None, r"no features of clip f1; run .*5_audio_features\.py again"),
    ],
    ids=["other size", "one axis", "no frames", "NaN", "missing"],
)
def test_unfit_features_are_refused(dataset, features, message):
    clips = {"f0": np.zeros((3, 10)), "f1": features}
    write_features(dataset.audio_features("dev"), {fid: clip for fid, clip in clips.items() if clip is not None})
    with pytest.raises(UserError, match=rf"dev_audio_features\.hdf5: .*{message}"):
        load_split(dataset, "dev", WORDS, FEATURES)


def test_features_of_another_size_than_asked_for_are_refused(dataset):
    write_features(dataset.audio_features("dev"), {"f0": np.zeros((3, 10)), "f1": np.zeros((3, 10))})
    sized = audio_of(*ON_FEATURES, "CRNNWordModel.audio_enc.in_dim=10")
    assert load_split(dataset, "dev", WORDS, sized).width == 10
    other = audio_of(*ON_FEATURES, "CRNNWordModel.audio_enc.in_dim=12")
    with pytest.raises(UserError, match=r"f0 has the shape \(3, 10\), but CRNNWordModel\.audio_enc\.in_dim .* 12\)"):
        load_split(dataset, "dev", WORDS, other)
    train = FEATURES.of_width(12, "the clips of development have")
    with pytest.raises(UserError, match=r"but the clips of development have \(frames, 12\); run .*5_audio_features"):
        load_split(dataset, "dev", WORDS, train)


def test_missing_features_are_refused(dataset):
    with pytest.raises(UserError, match=r"dev_audio_features\.hdf5: no such file; .*5_audio_features\.py makes it"):
        load_split(dataset, "dev", WORDS, FEATURES)


@pytest.mark.parametrize("value", [None, 0, -1.0, np.nan, np.inf, "soon", [0.1, 0.2]])
def test_the_seconds_between_frames_are_those_of_the_settings_or_of_the_file(dataset, value):
    assert AUDIO.seconds_per_frame(dataset, "dev") == 0.02
    path = dataset.audio_features("dev")
    write_features(path, {"f0": np.zeros((3, 10))})
    assert FEATURES.seconds_per_frame(dataset, "dev") == 0.32
    with h5py.File(path, "a") as store:
        del store.attrs["seconds_per_frame"]
        if value is not None:
            store.attrs["seconds_per_frame"] = value
    with pytest.raises(UserError, match=r"dev_audio_features\.hdf5: .* run .*5_audio_features\.py again"):
        FEATURES.seconds_per_frame(dataset, "dev")

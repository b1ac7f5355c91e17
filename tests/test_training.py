"""Data, training and evaluation of a small model on random data."""

import copy
import json
import shutil

import h5py
import numpy as np
import pytest
import torch

from models.core import CRNNWordModel
from tests.conftest import ROOT
from utils.conf_utils import load_conf
from utils.criterion_utils import TripletLoss
from utils.data_utils import DiskLogMels, Split, batches, collate, load_split
from utils.index_utils import TEXT_COLUMNS, DatasetPaths
from utils.io_utils import UserError, write_csv
from utils.metric_utils import both_directions
from utils.model_utils import (
    PlateauStopper,
    SplitScores,
    build_optimizer,
    evaluate,
    prepare_model,
    seed_epoch,
    train_epoch,
    train_step,
)
from utils.sampling_utils import STRATEGIES
from utils.score_utils import score_matrix
from utils.trial_utils import collapse_warning

CPU = torch.device("cpu")
VOCABULARY = 12
RECIPE = load_conf(ROOT / "conf.yaml").audio_logmel.recipe


@pytest.fixture
def split():
    """6 clips of 9 to 40 frames with 3 captions of 2 to 6 words each."""
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    return Split(
        fids=[f"clip{i}" for i in range(6)],
        log_mels=[torch.randn(int(rng.integers(9, 40)), 64, generator=generator) - 5 for _ in range(6)],
        tids=[f"caption{i}" for i in range(18)],
        captions=[torch.from_numpy(rng.integers(1, VOCABULARY, rng.integers(2, 7))) for _ in range(18)],
        caption_clips=np.repeat(np.arange(6), 3),
    )


@pytest.fixture
def model():
    torch.manual_seed(0)
    words = torch.randn(VOCABULARY, 20)
    words[0] = 0
    return CRNNWordModel(64, 20, words)


def conf_with(*overrides):
    return load_conf(ROOT / "conf.yaml", list(overrides))


def test_batches_are_zero_padded_and_visit_every_caption_once(split):
    torch.manual_seed(0)
    seen = []
    for batch in batches(split, batch_size=4, shuffle=True):
        assert batch.audio.shape[1] == batch.audio_lens.max() and batch.text.shape[1] == batch.text_lens.max()
        for i, clip in enumerate(batch.clips):
            torch.testing.assert_close(batch.audio[i, : batch.audio_lens[i]], split.log_mels[clip])
            assert not batch.audio[i, batch.audio_lens[i] :].any() and not batch.text[i, batch.text_lens[i] :].any()
            seen.append(tuple(batch.text[i, : batch.text_lens[i]].tolist()))
    assert sorted(seen) == sorted(tuple(caption.tolist()) for caption in split.captions)


def test_split_scores_are_those_of_each_clip_and_caption_alone(split, model):
    model.eval()
    scores = SplitScores(model, split, CPU).cross
    for clip, caption in np.ndindex(*scores.shape):
        with torch.no_grad():
            audio, text = model(split.log_mels[clip].unsqueeze(0), split.captions[caption].unsqueeze(0))
        assert scores[clip, caption] == pytest.approx(score_matrix(audio, text).item(), abs=1e-6)


@pytest.mark.parametrize("mask_words", [False, True])
@pytest.mark.parametrize("name", STRATEGIES)
def test_objective_is_the_loss_of_the_batch_with_every_clip_at_its_own_length(split, model, name, mask_words):
    model.eval()
    captions = np.array([0, 1, 4, 7, 8, 12, 17])
    criterion = TripletLoss(0.5, name, mask_words=mask_words, mask_frames=True)
    batch = collate(split, captions.tolist())
    with torch.no_grad():
        frames = [model.audio_branch(split.log_mels[clip].unsqueeze(0))[0] for clip in batch.clips]
    audio = torch.nn.utils.rnn.pad_sequence(frames, batch_first=True)
    torch.manual_seed(0)
    expected = criterion(audio, model.text_branch(batch.text), batch.clips, batch.audio_lens, batch.text_lens)
    scores = SplitScores(model, split, CPU, keep_steps=True).of_batch(captions, mask_words)
    actual = criterion.of_scores(scores, batch.clips, torch.Generator().manual_seed(0)).loss
    assert actual.item() == pytest.approx(expected.item(), abs=1e-6)


def test_evaluation_repeats_itself_and_leaves_training_randomness_alone(split, model):
    criterion = TripletLoss(0.5, "random-NS")
    torch.manual_seed(3)
    first = evaluate(model, split, criterion, {"x": criterion}, 5, CPU)
    state = torch.get_rng_state()
    assert evaluate(model, split, criterion, {"x": criterion}, 5, CPU) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert first["val_x"] == first["val_obj"]
    retrieval = both_directions(SplitScores(model, split, CPU).cross, split.caption_clips)
    assert first["val_map_text_to_audio"] == retrieval["text_to_audio"]["mAP"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_training_repeats_itself_bit_for_bit(split, name):
    def run():
        torch.manual_seed(0)
        words = torch.randn(VOCABULARY, 20)
        words[0] = 0
        model = CRNNWordModel(64, 20, words)
        criterion = TripletLoss(0.1, name)
        optimizer, _ = build_optimizer(conf_with(), model)
        losses = []
        for epoch in range(1, 4):
            seed_epoch(0, epoch)
            epoch_results = train_epoch(model, batches(split, 6, shuffle=True), criterion, optimizer, CPU)
            losses.append(epoch_results["train_loss"])
        return losses, model.state_dict()

    (losses, state), (again, state_again) = run(), run()
    assert losses == again
    assert all(torch.equal(state[key], state_again[key]) for key in state)
    assert np.isfinite(losses).all()


def test_training_lowers_the_loss(split, model):
    criterion = TripletLoss(0.5, "full-batch-NS")
    optimizer, _ = build_optimizer(conf_with("AdamOptimizer.lr=0.003"), model)
    losses = []
    for epoch in range(1, 9):
        seed_epoch(0, epoch)
        losses.append(train_epoch(model, batches(split, 9, shuffle=True), criterion, optimizer, CPU)["train_loss"])
    assert np.mean(losses[-2:]) < losses[0] - 0.03


def test_batches_without_negatives_are_skipped(split, model):
    one_clip = Split(split.fids[:1], split.log_mels[:1], split.tids[:3], split.captions[:3], split.caption_clips[:3])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer, _ = build_optimizer(conf_with(), model)
    results = train_epoch(model, batches(one_clip, 2), TripletLoss(0.5, "hard-NS"), optimizer, CPU)
    assert results == {"train_loss": 0.0, "active_triplets": 0.0}
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_stopper_looks_at_the_last_results_once_the_grace_period_is_over():
    stopper = PlateauStopper(std=0.001, num_results=10, grace_period=60)
    assert not stopper.should_stop([0.5] * 59)
    assert stopper.should_stop([0.5] * 60)
    assert stopper.should_stop([9.0] * 50 + [0.5] * 10)
    assert not stopper.should_stop([0.5] * 59 + [0.6])
    # strictly below: a standard deviation of exactly 0.001
    assert not PlateauStopper(0.25, 2, 2).should_stop([0.5, 1.0])


def test_collapse_is_said_aloud():
    conf = conf_with("criteria.TripletLoss.sampling=hard-NS")
    warning = collapse_warning({"train_loss": 1.0004, "score_std": 1e-6}, conf)
    assert "collapsed under hard-NS" in warning and "1.0004" in warning
    assert collapse_warning({"train_loss": 0.99, "score_std": 0.05}, conf) is None  # semi-hard's loss, while it learns
    assert collapse_warning({"train_loss": 0.5, "score_std": 1e-6}, conf) is None
    assert collapse_warning({"score_std": 1e-6}, conf) is None  # epoch 0


@pytest.fixture
def dataset(tmp_path):
    """A data set directory with one split `dev` of two clips."""
    paths = DatasetPaths(str(tmp_path))
    rows = [[f"t{i}", f"f{i // 2}", "x.wav", "A", "a b", '["a", "b"]'] for i in range(4)]
    write_csv(paths.text("dev"), TEXT_COLUMNS, rows)
    with h5py.File(paths.log_mels("dev"), "w") as store:
        store.attrs["recipe"] = json.dumps(RECIPE | {"backend": "librosa"})
        store["f0"], store["f1"] = np.zeros((5, 64)), np.ones((7, 64), np.float32)
    return paths


def test_load_split(dataset):
    split = load_split(dataset, "dev", ["<pad>", "a", "b"], RECIPE)
    assert split.fids == ["f0", "f1"] and split.caption_clips.tolist() == [0, 0, 1, 1]
    assert [caption.tolist() for caption in split.captions] == [[1, 2]] * 4
    assert [log_mel.dtype for log_mel in split.log_mels] == [torch.float32] * 2  # the first is stored as float64


def test_log_mels_on_disk_are_those_in_memory(dataset, capsys, monkeypatch):
    words = ["<pad>", "a", "b"]
    memory = load_split(dataset, "dev", words, RECIPE)
    assert "2 clips, log-mels in memory" in capsys.readouterr().out
    disk = load_split(dataset, "dev", words, RECIPE, cache="disk")
    assert "2 clips, log-mels read from disk" in capsys.readouterr().out
    assert isinstance(disk.log_mels, DiskLogMels) and len(disk.log_mels) == 2
    for ours, theirs in zip(disk.log_mels, memory.log_mels, strict=True):
        assert torch.equal(ours, theirs)
    monkeypatch.setattr("utils.data_utils.free_memory", lambda: 1000.0)
    assert isinstance(load_split(dataset, "dev", words, RECIPE).log_mels, DiskLogMels)
    assert "they do not fit into memory" in capsys.readouterr().out


def test_batches_from_disk_are_those_from_memory(dataset):
    words = ["<pad>", "a", "b"]
    epochs = []
    for cache in ("memory", "disk"):
        loader = batches(load_split(dataset, "dev", words, RECIPE, cache), 3, shuffle=True)
        epochs.append([])
        for epoch in (1, 2):
            seed_epoch(0, epoch)
            epochs[-1] += [part for batch in loader for part in batch] + [torch.rand(1)]
    assert len(epochs[0]) == len(epochs[1]) == 2 * (2 * 5 + 1)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*epochs, strict=True))


def test_bfloat16_is_near_float32(split, model):
    model.eval()  # no dropout
    batch = collate(split, list(range(0, 18, 2)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses = {}
    for precision in ("float32", "bfloat16"):
        model.load_state_dict(before)
        optimizer, _ = build_optimizer(conf_with(), model)
        terms = train_step(model, batch, TripletLoss(0.5, "full-batch-NS"), optimizer, CPU, precision)
        losses[precision] = terms.loss.item()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        assert all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in gradients)
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=2e-3)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")
def test_a_compiled_model_takes_the_same_step(split, model):
    plain = copy.deepcopy(model)
    prepare_model(conf_with("param_conf.compile=true"), model, CPU)
    losses = []
    for each in (plain, model):
        each.eval()
        optimizer, _ = build_optimizer(conf_with(), each)
        for captions in ([0, 4, 8], [2, 10, 17]):  # two lengths
            terms = train_step(each, collate(split, captions), TripletLoss(0.5, "full-batch-NS"), optimizer, CPU)
            losses.append(terms.loss.item())
    assert losses[:2] == pytest.approx(losses[2:], abs=1e-5)
    assert list(plain.state_dict()) == list(model.state_dict())


def test_compiling_without_a_compiler_is_said(model, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=r"param_conf.compile: true needs a C\+\+ compiler"):
        prepare_model(conf_with("param_conf.compile=true"), model, CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_gpu_takes_the_same_step(split, model, name):
    cuda, losses = torch.device("cuda"), []
    for device, each in ((CPU, copy.deepcopy(model)), (cuda, model)):
        prepare_model(conf_with(), each, device)
        each.eval()
        optimizer, _ = build_optimizer(conf_with(), each)
        criterion = TripletLoss(0.5, "full-batch-NS" if name == "random-NS" else name)
        losses.append(train_step(each, collate(split, [0, 4, 8, 12]), criterion, optimizer, device).loss.item())
        losses.append(evaluate(each, split, criterion, {}, 6, device)["val_obj"])
    assert losses[:2] == pytest.approx(losses[2:], abs=1e-3)


def test_unfit_splits_are_refused(dataset):
    words = ["<pad>", "a", "b"]
    with pytest.raises(UserError, match="the word 'b' has no vector"):
        load_split(dataset, "dev", words[:2], RECIPE)
    with pytest.raises(UserError, match=r"made with audio_logmel\.n_mels 64, but it is now 128"):
        load_split(dataset, "dev", words, RECIPE | {"n_mels": 128})
    with pytest.raises(UserError, match=r"test_text\.csv: no such file; preprocessing/2_clotho_dataset\.py makes it"):
        load_split(dataset, "test", words, RECIPE)
    with h5py.File(dataset.log_mels("dev"), "a") as store:
        store["f1"][3, 3] = np.nan
    with pytest.raises(UserError, match="clip f1 are not finite"):
        load_split(dataset, "dev", words, RECIPE)
    with h5py.File(dataset.log_mels("dev"), "a") as store:
        del store["f1"]
    with pytest.raises(UserError, match="no log-mels of clip f1"):
        load_split(dataset, "dev", words, RECIPE)
    with h5py.File(dataset.log_mels("dev"), "a") as store:
        store["f1"] = np.zeros((3, 64), np.float32)
    with pytest.raises(UserError, match="has 3 frames; the model needs at least 4"):
        load_split(dataset, "dev", words, RECIPE)
    dataset.log_mels("dev").write_bytes(b"\x89HDF")
    with pytest.raises(UserError, match="not a readable HDF5 file"):
        load_split(dataset, "dev", words, RECIPE)
    dataset.log_mels("dev").unlink()
    with pytest.raises(UserError, match=r"preprocessing/4_audio_logmel\.py makes it"):
        load_split(dataset, "dev", words, RECIPE)

"""Training of a small model on random data."""

import copy
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers import CPU, ROOT, VOCABULARY, embedding_scores, equal, random_model, random_split, state_of
from utils.common.errors import UserError
from utils.common.io import write_csv
from utils.conf.load import load_conf
from utils.criterion_utils import TripletLoss, negative_mask
from utils.data_utils import Split, batches, collate
from utils.dataset.index import TEXT_COLUMNS
from utils.dataset.paths import DatasetPaths
from utils.device_utils import Diverged, Draws
from utils.evaluation_utils import evaluate
from utils.memory_utils import require_memory, step_memory
from utils.model_utils import PlateauStopper, build_state, prepare_model, seed_epoch, train_epoch, train_step
from utils.sampling_utils import STRATEGIES
from utils.score_utils import Score

FULL = TripletLoss(0.5, "full-batch-NS")
CUDA = torch.device("cuda")


@pytest.fixture
def split():
    return random_split()


@pytest.fixture
def model():
    return random_model()


def conf_with(*overrides):
    return load_conf(ROOT / "conf.yaml", list(overrides))


def state_with(*settings):
    """The state before training by these settings, the same at every call."""
    torch.manual_seed(0)
    return build_state(conf_with(*settings), torch.randn(12, 20).numpy(), CPU)


def after_a_step(split, *settings):
    """The state after one step by these settings."""
    state = state_with(*settings)
    state.model.train()
    batch = collate(split, list(range(0, 18, 2)))
    train_step(state, batch, negative_mask(batch.clips), Draws(seed_epoch(0, 1), CPU))
    return state


def step(state, split, captions):
    """The loss of one training step on some captions."""
    batch = collate(split, captions)
    return train_step(state, batch, negative_mask(batch.clips)).loss.item()


def test_a_state_trains_what_the_configuration_says():
    settings = ("param_conf.criterion=InfoNCE", "CRNNWordModel.text_enc.trainable=true", "score.mask_words=true")
    state = build_state(conf_with(*settings, "AdamOptimizer.lr=0.5"), np.eye(4, dtype=np.float32), CPU)
    (group,) = state.optimizer.param_groups
    trained = {id(weight) for weight in group["params"]}
    assert {id(state.criterion.log_temperature), id(state.model.text_enc.embedding.weight)} < trained
    assert group["lr"] == 0.5 and state.score.mask_words and not state.score.mask_frames


def test_decoupled_weight_decay_shrinks_each_weight_by_lr_times_itself(split):
    """Beside Adam's step, whose gradient it leaves alone (Loshchilov and Hutter, ICLR 2019)."""
    decay = ["AdamOptimizer.lr=0.01", "AdamOptimizer.weight_decay=0.1"]
    plain, coupled, decoupled = (
        {name: weight.detach() for name, weight in after_a_step(split, *settings).model.named_parameters()}
        for settings in (decay[:1], decay, [*decay, "AdamOptimizer.decoupled_weight_decay=true"])
    )
    before = dict(state_with().model.named_parameters())
    for name, weight in before.items():
        if weight.requires_grad:
            torch.testing.assert_close(decoupled[name], plain[name] - 0.01 * 0.1 * weight, atol=1e-6, rtol=1e-5)
    assert not all(torch.equal(coupled[name], decoupled[name]) for name in before)


@pytest.mark.parametrize("dropout", [0, 0.3, 0.75])
def test_a_step_drops_the_share_that_is_set(split, dropout):
    state = state_with(f"CRNNWordModel.audio_enc.dropout={dropout}")
    cnn, ends = state.model.audio_enc.cnn, []
    cnn[-1].register_forward_hook(lambda module, inputs, output: ends.append((inputs[0], output)))
    state.model.train()
    step(state, split, list(range(0, 18, 2)))
    ((before, after),) = ends
    kept = after != 0
    assert kept.float().mean().item() == pytest.approx(1 - dropout, abs=0.03)
    torch.testing.assert_close(after[kept], before[kept] / (1 - dropout))
    before = len(ends)
    evaluate(state, split, {}, 6)
    assert all(torch.equal(*pair) for pair in ends[before:])


def test_an_epoch_is_a_step_for_each_batch_by_its_gradients_alone(split, model):
    theirs = copy.deepcopy(model).train()

    def state_by(model):
        optimizer = torch.optim.SGD(model.audio_enc.parameters(), lr=0.1)
        return replace(state_of(model, FULL), optimizer=optimizer)

    torch.manual_seed(0)
    train_epoch(state_by(model.eval()), batches(split, 9))  # as an evaluation leaves it
    torch.manual_seed(0)
    for batch in batches(split, 9):
        theirs.zero_grad()
        train_step(state_by(theirs), batch, negative_mask(batch.clips))
    assert equal(model.state_dict(), theirs.state_dict())


def test_batches_without_negatives_are_skipped(split, model):
    one_clip = Split(split.fids[:1], split.audio[:1], split.tids[:3], split.captions[:3], split.caption_clips[:3])
    before = copy.deepcopy(model.state_dict())
    results = train_epoch(state_of(model, FULL), batches(one_clip, 2))
    assert results == {"train_loss": 0.0, "active": 0.0}
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_step_that_is_not_finite_names_its_clips_and_updates_nothing(split, model):
    split.audio[2][0, 0] = torch.inf
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with pytest.raises(Diverged) as stop:
        step(state_of(model, FULL), split, [0, 6, 12])
    assert stop.value.clips == [0, 2, 4]
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


@pytest.mark.parametrize(
    ("off", "on"),
    [
        (["criteria.InfoNCE.temperature=1"], ["param_conf.criterion=InfoNCE"]),
        # what a step drops
        (["CRNNWordModel.audio_enc.dropout=0.3"], ["CRNNWordModel.audio_enc.dropout=0"]),
        # how it moves the weights
        (["AdamOptimizer.decoupled_weight_decay=true"], ["AdamOptimizer.weight_decay=0.1"]),
        # which weights are kept
        (["param_conf.average_from=null"], ["param_conf.average_from=1"]),
    ],
)
def test_an_option_that_is_off_changes_no_bit(split, off, on):
    """Nor what a checkpoint keeps of optimiser and schedule: what plays no part may change on --resume."""
    states = [after_a_step(split, *settings) for settings in ([], off, [*off, *on])]
    dicts = [{name: part.state_dict() for name, part in state.checkpointables.items()} for state in states]
    published, same, other = dicts
    assert equal(published, same) and not equal(published, other)


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"mask_words": True},
        {"mask_frames": True},
        {"frames": "max"},
        {"frames": "softmax", "mask_frames": True},
        {"words": "idf", "vocabulary": VOCABULARY, "mask_words": True, "frames": "max"},
    ],
)
def test_a_step_scores_as_the_state_says(split, model, choice):
    model.audio_enc.cnn[-1].eval()  # dropout
    captions = list(range(0, 18, 2))
    audio, text = copy.deepcopy(model)(*collate(split, captions)[:2])
    batch = collate(split, captions)
    lens = (batch.audio_lens if "mask_frames" in choice else None, batch.text_lens if "mask_words" in choice else None)
    score = Score(**choice)
    score.count_words(split.captions)
    negatives = negative_mask(batch.clips)
    plain = embedding_scores(audio, text, *lens, score, batch.text)
    expected = FULL(plain, negatives)
    terms = train_step(state_of(model, FULL, score=score), batch, negatives)
    assert terms.loss.item() == pytest.approx(expected.loss.item(), abs=1e-6)


def test_bfloat16_is_near_float32(split, model):
    model.eval()  # no dropout
    losses = []
    for precision in ("float32", "bfloat16"):
        state = state_of(copy.deepcopy(model), FULL, precision=precision)
        losses.append(step(state, split, list(range(0, 18, 2))))
        gradients = [p.grad for p in state.model.parameters() if p.requires_grad]
        assert all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in gradients)
    assert losses[0] != losses[1] == pytest.approx(losses[0], abs=2e-3)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")
def test_a_compiled_model_takes_the_same_step(split, model):
    plain = copy.deepcopy(model)
    prepare_model(conf_with("param_conf.compile=true"), model, CPU)
    losses = []
    for each in (plain, model):
        state = state_of(each.eval(), FULL)
        losses += [step(state, split, captions) for captions in ([0, 4, 8], [2, 10, 17])]  # two lengths
    assert losses[:2] == pytest.approx(losses[2:], abs=1e-5)
    assert list(plain.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_compiling_for_cuda_alone_uses_its_graphs(model, device, monkeypatch):
    given = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: module)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **options: given.append((module, options)))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    prepare_model(conf_with("param_conf.compile=true"), model, device)
    ((compiled, options),) = given
    assert compiled is model.audio_enc.cnn and options.pop("dynamic")
    torch.compile(compiled, **options)  # which refuses options that are none
    graphs = torch._inductor.list_mode_options("reduce-overhead")
    assert graphs.items() <= options.get("options", {}).items() if device == CUDA else options == {}


def test_compiling_without_a_compiler_is_refused(model, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=r"param_conf\.compile: true needs a C\+\+ compiler"):
        prepare_model(conf_with("param_conf.compile=true"), model, CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_gpu_takes_the_same_step(split, model, name):
    captions = split.captions[::3], split.caption_clips[::3]  # of one clip they tie, and rounding decides
    one_each = Split(split.fids, split.audio, split.tids[::3], *captions)
    losses = []
    for device, each in ((CPU, copy.deepcopy(model)), (CUDA, model)):
        prepare_model(conf_with(), each, device)
        state = state_of(each, TripletLoss(0.5, "full-batch-NS" if name == "random-NS" else name), device)
        losses.append(evaluate(state, one_each, {}, 6)["val_obj"])
        each.train()  # cuDNN takes no gradient through a GRU in evaluation mode
        each.audio_enc.cnn[-1].eval()  # dropout
        losses.append(step(state, split, [0, 4, 8, 12]))
    assert losses[:2] == pytest.approx(losses[2:], abs=1e-3)


# --- memory ----------------------------------------------------------------------------------------------


def test_the_longest_batch_is_said_or_refused(split, tmp_path, monkeypatch, capsys):
    conf = conf_with(f"data_conf.dataset={tmp_path}", "param_conf.batch_size=4")
    split.audio[3] = torch.randn(5000, 64)
    rows = [[f"t{fid}", fid, f" {fid} é.wav", "A", "a", '["a"]'] for fid in split.fids]
    write_csv(DatasetPaths(str(tmp_path)).text("development"), TEXT_COLUMNS, rows)
    need = step_memory(conf, 20, 4, 5000, 4 * max(map(len, split.captions)))
    monkeypatch.setattr("utils.memory_utils.free_memory", lambda: need + 1)
    require_memory(conf, 20, split, CPU)
    said = capsys.readouterr().out
    assert "development: the longest batch, 4 clips x 5000 frames (as clip clip3, ' clip3 é.wav', has), needs" in said
    monkeypatch.setattr("utils.memory_utils.free_memory", lambda: need / 1.27)
    with pytest.raises(UserError, match=r"4 clips x 5000 frames .* clip3 é\.wav.*leave it out, or lower param_conf"):
        require_memory(conf, 20, split, CPU)
    monkeypatch.setattr("utils.memory_utils.world_size", lambda: 3)  # a GPU each: two clips at the most
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (need / 2 + 1, 1e12))
    require_memory(conf, 20, split, torch.device("cuda", 0))
    assert "2 clips x 5000 frames" in capsys.readouterr().out
    small = conf_with(f"data_conf.dataset={tmp_path}", "param_conf.batch_size=1000")
    monkeypatch.setattr("utils.memory_utils.free_memory", lambda: 1e15)
    require_memory(small, 20, split, CPU)
    assert "18 clips x 5000 frames" in capsys.readouterr().out  # no more than there are captions


STEPS = """
import sys, torch
from utils.conf.load import load_conf
from utils.data_utils import Batch
from utils.memory_utils import step_memory
from utils.model_utils import build_state, train_step

def memory(what):
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what))

conf = load_conf("conf.yaml", sys.argv[1:])
state = build_state(conf, torch.randn(50, 300).numpy(), torch.device("cpu"))
before = memory("VmRSS")
for _ in range(2):
    text = torch.randint(1, 50, (16, 10))
    lens = torch.full((16,), 600), torch.full((16,), 10)
    train_step(state, Batch(torch.randn(16, 600, 64), text, torch.arange(16), *lens), ~torch.eye(16, dtype=torch.bool))
print((memory("VmHWM") - before) / step_memory(conf, 300, 16, 600, 160))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are Linux's to tell")
@pytest.mark.parametrize("settings", [(), ("param_conf.precision=bfloat16",)])
def test_the_memory_estimate_of_a_step_is_near_its_peak(settings):
    command = [sys.executable, "-c", STEPS, *settings]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0.7 < float(done.stdout) < 1.3


def test_stopper_looks_at_the_last_results_once_the_grace_period_is_over():
    stopper = PlateauStopper(std=0.001, num_results=10, grace_period=60)
    assert not stopper.should_stop([0.5] * 59)
    assert stopper.should_stop([0.5] * 60)
    assert stopper.should_stop([9.0] * 50 + [0.5] * 10)
    assert not stopper.should_stop([0.5] * 59 + [0.6])
    # strictly below: a standard deviation of exactly 0.25
    assert not PlateauStopper(0.25, 2, 2).should_stop([0.5, 1.0])

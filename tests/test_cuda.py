"""Training and evaluation on a CUDA device: a real one, or the pretend one, on which a child process runs these."""

import copy
import importlib
import shutil
import sys
from contextlib import contextmanager

import pytest
import torch
import yaml

from tests.helpers import CPU, STAGES, call, random_model, random_split, run_pipeline, state_of, tiny_conf
from tests.pretend_cuda.build import COMPILER
from utils import device_utils, fast_score_utils, score_utils
from utils.criterion_utils import InfoNCE, TripletLoss, negative_mask
from utils.data_utils import batches, collate
from utils.device_utils import Diverged, FiniteSteps
from utils.evaluation_utils import evaluate
from utils.fast_score_utils import clip_scores
from utils.model_utils import seed_epoch, train_epoch, train_step
from utils.sampling_utils import STRATEGIES
from utils.score_utils import self_score_matrix
from utils.trial.names import LAST

CUDA = torch.device("cuda")
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no C++ compiler ({COMPILER})")
@pytest.mark.skipif(torch.version.cuda is not None, reason="a CUDA build of PyTorch")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gpu_tests_pass_on_the_pretend_device():
    files = ["tests/test_cuda.py", "tests/test_model_utils.py"]
    out = call("-m", "tests.pretend_cuda.run", "-m", "pytest", "-p", "no:cacheprovider", "-k", "cuda or gpu", *files)
    assert " passed" in out and " 1 skipped" in out, out  # itself


def cuda_state(model, **settings):
    return state_of(model.to(CUDA), TripletLoss(0.5, "semi-hard-NS"), CUDA, **settings)


def take_step(state, captions=range(0, 18, 2)):
    """A step on some captions of the random split; its terms."""
    batch = collate(random_split(), list(captions))
    return train_step(state, batch, negative_mask(batch.clips))


@on_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_gru_is_in_float32_whatever_the_precision(precision):
    state, seen = cuda_state(random_model(), precision=precision), []
    gru = state.model.audio_enc.gru
    gru.register_forward_hook(lambda module, inputs, outputs: seen.extend([inputs[0], outputs[0]]))
    take_step(state)
    assert [part.dtype for part in seen] == [torch.float32] * 2


@on_cuda
def test_a_step_that_is_not_finite_updates_nothing_though_it_is_noticed_later():
    """Nor does any after it; the optimiser's state is what it was as well."""
    split, state = random_split(), cuda_state(random_model())
    take_step(state)
    kept = [weight.detach().clone() for weight in state.model.parameters()]
    moments = copy.deepcopy(state.optimizer.state_dict()["state"])
    split.audio[2][0, 0] = torch.inf
    for captions in ([0, 6, 12], [1, 4, 9], [6, 13, 16]):
        batch = collate(split, captions)
        train_step(state, batch, negative_mask(batch.clips))
    with pytest.raises(Diverged, match="the loss is nan and the gradient's length nan") as stop:
        state.finite.read()
    assert stop.value.clips == [0, 2, 4]  # the first
    assert all(torch.equal(*pair) for pair in zip(kept, state.model.parameters(), strict=True))
    for place, values in state.optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, values[name]) for name, value in moments[place].items())


@on_cuda
def test_an_epoch_looks_at_its_steps_before_it_ends(monkeypatch):
    split, state, looks = random_split(), cuda_state(random_model()), []
    monkeypatch.setattr(device_utils, "READ_EVERY", 4)
    read = FiniteSteps.read
    monkeypatch.setattr(FiniteSteps, "read", lambda finite: (looks.append(len(finite.unread)), read(finite)))
    seed_epoch(0, 1)
    train_epoch(state, batches(split, 3, shuffle=True))
    assert looks == [4, 2]
    split.audio[5][0, 0] = torch.inf
    with pytest.raises(Diverged):
        train_epoch(state, batches(split, 3, shuffle=True))


@on_cuda
def test_random_negatives_are_those_of_the_cpu():
    """An epoch's draws are made and copied at once there."""
    results = []
    for device in (CPU, CUDA):
        model = random_model()
        model.audio_enc.cnn[-1].p = 0.0  # dropout
        state = state_of(model.to(device), TripletLoss(0.1, "random-NS"), device)
        state.optimizer.param_groups[0]["lr"] = 0.0
        results.append(train_epoch(state, batches(random_split(), 6), torch.Generator().manual_seed(0)))
    assert results[0] == pytest.approx(results[1], abs=1e-5)


@on_cuda
@pytest.mark.parametrize("at_once", [1, 150, 2000, 2**27])  # a pair of 12 frames is 144
@pytest.mark.parametrize("masked", [False, True])
def test_scores_within_a_modality_are_those_of_the_cpu(monkeypatch, at_once, masked):
    """There they are made in one product, or so many pairs at a time."""
    for module in (score_utils, fast_score_utils):
        monkeypatch.setattr(module, "AT_ONCE", at_once)
    steps, lens = torch.randn(7, 3, 6), torch.tensor([12, 1, 2, 12, 4, 5, 11]) if masked else None
    there = None if lens is None else lens.to(CUDA)
    for scores, plain in (
        (clip_scores(steps.to(CUDA), 12, there), clip_scores(steps, 12, lens)),
        (
            clip_scores(steps.to(CUDA), 12, there, range(1, 7, 3)),
            clip_scores(steps, 12, lens, range(1, 7, 3)),
        ),
        (
            self_score_matrix(steps.to(CUDA), there if there is None else there.clamp(max=3)),
            self_score_matrix(steps, lens if lens is None else lens.clamp(max=3)),
        ),
    ):
        assert torch.equal(scores, scores.T)
        torch.testing.assert_close(scores.cpu(), plain)


def pretend_counts():
    """The module that counts what the pretend device does."""
    if "tests.pretend_cuda.pretend" not in sys.modules:
        pytest.skip("only the pretend device counts")
    return importlib.import_module("tests.pretend_cuda.counts")


@on_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["random-NS", "semi-hard-NS", "hard-text-NS", "hard-audio-NS", "InfoNCE"])
def test_no_training_step_waits_for_the_device(name, precision):
    """No synchronisation and no copy from pageable memory. The other strategies differ in a sign."""
    counts = pretend_counts()
    watch = counts.of_step([*counts.OBJECTIVES[name], f"param_conf.precision={precision}"])
    assert watch.kernels.total() > 100 and watch.syncs.total() == watch.pageable.total() == 0, watch.report()


# --- evaluation ------------------------------------------------------------------------------------------


@on_cuda
@pytest.mark.parametrize("name", ["semi-hard-NS", "hard-text-NS", "easy-audio-NS"])
def test_an_evaluation_of_64_clips_is_few_kernels_and_one_wait(name):
    counts = pretend_counts()
    watch = counts.of_evaluation(counts.OBJECTIVES[name])
    assert watch.kernels.total() <= 330, watch.report()  # of which each of two batches of the objective takes 20 to 40
    assert watch.syncs.total() <= 3 and not watch.pageable, watch.report()


@on_cuda
@pytest.mark.parametrize(  # in several products; clips with clips also clip by clip, and in one
    ("name", "at_once"),
    [*((name, 2000) for name in ("InfoNCE", *STRATEGIES)), ("hard-audio-NS", 1), ("hard-audio-NS", 2**27)],
)
def test_evaluation_on_cuda_is_that_of_the_cpu(monkeypatch, name, at_once):
    monkeypatch.setattr(fast_score_utils, "AT_ONCE", at_once)
    criterion = InfoNCE(0.07) if name == "InfoNCE" else TripletLoss(0.5, name)
    results = []
    for device in (CPU, CUDA):
        state = state_of(random_model().to(device), copy.deepcopy(criterion).to(device), device)
        results.append(evaluate(state, random_split(), {"x": TripletLoss(0.1, "full-batch-NS")}, 5))
    assert results[1] == pytest.approx(results[0], abs=1e-5)


# --- checkpoints ---------------------------------------------------------------------------------------------


@contextmanager
def on(device):
    """Within it, commands run on this device."""
    with pytest.MonkeyPatch.context() as patch:
        if device == CPU:
            patch.setattr(torch.cuda, "is_available", lambda: False)
        elif torch.version.cuda is None:  # the pretend one lacks it
            patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (2**33, 2**34))
        yield


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """Trials of one epoch on either device, and of two on CUDA, by name. Not to be changed."""
    folder = tmp_path_factory.mktemp("trials")
    conf = tiny_conf(folder)
    clips = dict.fromkeys(("development", "validation", "evaluation"), 3)
    conf.write_text(yaml.safe_dump(yaml.safe_load(conf.read_text()) | {"demo_dataset": {"num_clips": clips}}))
    run_pipeline(conf, stages=STAGES[:5])
    made = {}
    for name, device, epochs in (("cpu", CPU, 1), ("cuda", CUDA, 1), ("whole", CUDA, 2)):
        with on(device):
            out = call("main.py", "--conf", conf, f"param_conf.num_epoch={epochs}", f"trial_base={folder / name}")
        assert ("log-mels on the device" in out) == (device == CUDA)
        (made[name],) = (folder / name / "demo").iterdir()
    return made


@on_cuda
@pytest.mark.parametrize(("before", "after"), [("cpu", CUDA), ("cuda", CPU), ("cuda", CUDA)])
def test_a_run_goes_on_on_another_device_or_on_the_same(trials, tmp_path, before, after):
    """By the optimiser of the new device, whose step counters are where it wants them; ends as the unbroken run."""
    trial = tmp_path / "trial"
    shutil.copytree(trials[before], trial)
    with on(after):
        call("main.py", "--resume", trial, "param_conf.num_epoch=2")
    ours, theirs = (torch.load(path / LAST, weights_only=True) for path in (trial, trials["whole"]))
    assert ours["optimizer"]["param_groups"][0]["fused"] is (after == CUDA)
    steps = [state["step"] for state in ours["optimizer"]["state"].values()]
    assert {step.device.type for step in steps} == {after.type} and {step.item() for step in steps} == {4}
    if before == after.type:
        for name, weight in ours["model"].items():
            torch.testing.assert_close(weight, theirs["model"][name])

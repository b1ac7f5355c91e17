"""Training on a CUDA device: on a real one, or on the pretended one, where this file runs once more in a process."""

import shutil
from contextlib import contextmanager

import pytest
import torch
import yaml

from tests.helpers import (
    CPU,
    PRETEND,
    STAGES,
    call,
    needs_pretended_device,
    random_model,
    random_split,
    run,
    state_of,
    tiny_conf,
)
from utils.criterion_utils import TripletLoss, negative_mask
from utils.data_utils import collate
from utils.model_utils import train_step
from utils.trial.names import LAST

CUDA = torch.device("cuda")
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@needs_pretended_device
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_what_wants_a_gpu_holds_on_the_pretended_device():
    files = ["tests/test_cuda.py", "tests/test_model_utils.py"]
    out = run(PRETEND / "run.py", "-m", "pytest", "-p", "no:cacheprovider", "-k", "cuda or gpu", *files)
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


# --- checkpoints ---------------------------------------------------------------------------------------------


@contextmanager
def on(device):
    """Within it, commands run on this device."""
    with pytest.MonkeyPatch.context() as patch:
        if device == CPU:
            patch.setattr(torch.cuda, "is_available", lambda: False)
        elif torch.version.cuda is None:  # the pretended one does not tell
            patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (2**33, 2**34))
        yield


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """Trials of one epoch on either device, and of two on CUDA, by name. Not to be changed."""
    folder = tmp_path_factory.mktemp("trials")
    conf = tiny_conf(folder)
    clips = dict.fromkeys(("development", "validation", "evaluation"), 3)
    conf.write_text(yaml.safe_dump(yaml.safe_load(conf.read_text()) | {"demo_dataset": {"num_clips": clips}}))
    for stage in STAGES[:5]:
        call(stage, "--conf", conf)
    made = {}
    for name, device, epochs in (("cpu", CPU, 1), ("cuda", CUDA, 1), ("whole", CUDA, 2)):
        with on(device):
            call("main.py", "--conf", conf, f"param_conf.num_epoch={epochs}", f"trial_base={folder / name}")
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

"""Several processes against one: the same batches, losses and gradients."""

import copy
import os
import socket
import time
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist

from models.core import CRNNWordModel
from tests.conftest import ROOT
from utils import distributed_utils
from utils.conf_utils import load_conf
from utils.criterion_utils import InfoNCE, TripletLoss, negative_mask
from utils.data_utils import Split, batches
from utils.distributed_utils import process_group, require_pair_each, share, sum_over_processes
from utils.io_utils import UserError
from utils.model_utils import prepare_model, seed_epoch, train_epoch, train_step
from utils.sampling_utils import STRATEGIES

VOCABULARY = 12
FORKS = get_context("forkserver")  # imports once for all processes
FORKS.set_forkserver_preload([__name__])


class Case(NamedTuple):
    """An epoch of training without dropout, and with frozen batch-norm statistics unless `live`."""

    strategy: str  # or InfoNCE
    masked: bool = False
    trainable_words: bool = False
    batch_size: int = 7  # of 18 pairs: the last batch has 4
    live: bool = False


CASES = [Case(name, masked) for name in STRATEGIES for masked in (False, True)] + [
    Case("semi-hard-NS", trainable_words=True),
    Case("full-batch-NS", masked=True, trainable_words=True, batch_size=8),  # the last batch has 2
    Case("InfoNCE", masked=True),
]
SHORT = [
    Case("hard-audio-NS", True, True, 4),
    Case("random-NS", False, True, 4),
    Case("InfoNCE", False, True, 4),
]  # the last has 2, fewer than processes


def make_split():
    """6 clips of 9 to 23 frames with 3 captions of 2 to 6 words each: shuffled, fids repeat across shares."""
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    return Split(
        fids=[f"clip{i}" for i in range(6)],
        log_mels=[torch.randn(int(rng.integers(9, 24)), 64, generator=generator) for _ in range(6)],
        tids=[f"caption{i}" for i in range(18)],
        captions=[torch.from_numpy(rng.integers(1, VOCABULARY, rng.integers(2, 7))) for _ in range(18)],
        caption_clips=np.repeat(np.arange(6), 3),
    )


def train(case, device="cpu"):
    """Loss, active share, and every parameter's gradient of each step of an epoch, in float64."""
    device = torch.device(device)
    torch.manual_seed(0)
    words = torch.randn(VOCABULARY, 20)
    words[0] = 0
    model = CRNNWordModel(64, 20, words, case.trainable_words).double()
    prepare_model(load_conf(ROOT / "conf.yaml"), model, device)
    model.train(case.live)
    model.audio_enc.cnn[-1].eval()  # dropout
    if case.strategy == "InfoNCE":
        criterion = InfoNCE(0.1, case.masked, case.masked).double().to(device)
    else:
        criterion = TripletLoss(0.01, case.strategy, case.masked, case.masked)
    named = dict(model.named_parameters()) | dict(criterion.named_parameters())
    named = {name: weight for name, weight in named.items() if weight.requires_grad}
    optimizer = torch.optim.SGD(named.values(), lr=0.01)
    draws = seed_epoch(0, 1)
    steps, split = [], make_split()
    split = replace(split, log_mels=[log_mel.double() for log_mel in split.log_mels])
    if "audio" in case.strategy:  # clips tie with themselves, and rounding decides which of their captions it is
        split = replace(split, captions=[split.captions[3 * clip] for clip in split.caption_clips])
    for batch in batches(split, case.batch_size, shuffle=True):
        if negative_mask(batch.clips).any():
            terms = train_step(model, batch, criterion, optimizer, device, generator=draws)
            gradients = {name: weight.grad.cpu().clone() for name, weight in named.items()}
            steps.append((terms.loss.item(), terms.active.item(), gradients))
    return steps


def same_steps(ours, theirs):
    """Assert equal losses and gradients."""
    assert len(ours) == len(theirs) > 1
    for (loss, active, gradients), (their_loss, their_active, their_gradients) in zip(ours, theirs, strict=True):
        assert loss == pytest.approx(their_loss, rel=1e-9) and active == pytest.approx(their_active)
        for name, gradient in gradients.items():
            error = (gradient - their_gradients[name]).norm()
            assert gradient.norm() > 0 and error < 1e-9 * their_gradients[name].norm(), name


def in_processes(count, job, folder, backend="gloo"):
    """What job() returns in each process of a group."""
    processes = [FORKS.Process(target=_process, args=(place, count, job, folder, backend)) for place in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * count
    return [torch.load(folder / f"{place}.pt", weights_only=True) for place in range(count)]


def _process(place, count, job, folder, backend):
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(place)
    store = dist.FileStore(str(folder / "store"), count)
    dist.init_process_group(backend, store=store, rank=place, world_size=count)
    torch.save(job(), folder / f"{place}.pt")
    dist.destroy_process_group()


def train_cases(cases, device="cpu"):
    return [train(case, device) for case in cases]


def train_with_dropout():
    """The mean loss of an epoch with dropout, the weights after it, and the seed of what was drawn last."""
    torch.manual_seed(0)
    model = CRNNWordModel(64, 20, torch.randn(VOCABULARY, 20))
    optimizer = torch.optim.Adam(model.audio_enc.parameters())
    draws, loader = seed_epoch(0, 1), batches(make_split(), 7, shuffle=True)
    results = train_epoch(model, loader, TripletLoss(0.5, "random-NS"), optimizer, torch.device("cpu"), generator=draws)
    return [results["train_loss"], dict(model.named_parameters()), torch.initial_seed()]


def all_jobs():
    return [train_cases(CASES), train_with_dropout()]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    return in_processes(2, all_jobs, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_two_processes_are_one(two_processes, case):
    for steps, _ in two_processes:
        same_steps(steps[CASES.index(case)], train(case))


def test_a_batch_smaller_than_the_processes(tmp_path):
    for steps in in_processes(3, partial(train_cases, SHORT), tmp_path):
        for ours, case in zip(steps, SHORT, strict=True):
            same_steps(ours, train(case))


def test_processes_stay_alike_though_each_has_its_own_dropout(two_processes):
    (_, (loss, weights, seed)), (_, (their_loss, their_weights, their_seed)) = two_processes
    assert loss == their_loss and seed != their_seed
    assert all(torch.equal(weights[name], their_weights[name]) for name in weights)


def wait_in_a_collective(place, port, folder):
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(place), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["LOCAL_RANK"] = str(place)
    with process_group():
        sum_over_processes(torch.zeros(1))
        (folder / str(place)).touch()
        if place == 0:
            sum_over_processes(torch.zeros(1))
        time.sleep(60)


def test_a_process_that_waits_for_another_obeys_torchrun(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # a free one
    processes = [FORKS.Process(target=wait_in_a_collective, args=(place, port, tmp_path)) for place in range(2)]
    for process in processes:
        process.start()
    while len(list(tmp_path.iterdir())) < 2:
        assert all(process.is_alive() for process in processes)
        time.sleep(0.1)
    processes[0].terminate()
    processes[0].join(timeout=20)
    processes[1].kill()
    assert processes[0].exitcode == 2


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_two_gpus_with_synchronised_batch_norm_are_one(tmp_path):
    cases = [case._replace(live=True) for case in CASES]
    for steps in in_processes(2, partial(train_cases, cases, "cuda"), tmp_path, "nccl"):
        for ours, case in zip(steps, cases, strict=True):
            same_steps(ours, train(case, "cuda"))


def test_synchronised_batch_norm_leaves_evaluation_and_state_dict_as_they_are():
    torch.manual_seed(0)
    model = CRNNWordModel(64, 20, torch.randn(VOCABULARY, 20))
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)).eval()
    assert sum(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules()) == 5
    loaded = CRNNWordModel.from_state_dict(converted.state_dict()).eval()
    assert list(loaded.state_dict()) == list(model.state_dict())
    audio, lens = torch.randn(2, 12, 64), torch.tensor([12, 8])
    assert torch.equal(converted.audio_steps(audio, lens), loaded.audio_steps(audio, lens))


@pytest.mark.parametrize("processes", range(1, 6))
def test_shares_cover_a_batch_once_and_evenly(monkeypatch, processes):
    monkeypatch.setattr(distributed_utils, "world_size", lambda: processes)
    for items in range(1, 13):
        shares = []
        for place in range(processes):
            monkeypatch.setattr(distributed_utils, "rank", lambda place=place: place)
            shares.append(list(range(items))[share(items)])
        if items < processes:
            assert shares == [list(range(items))] * processes
        else:
            assert [item for part in shares for item in part] == list(range(items))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_batch_must_have_a_pair_for_each_process(monkeypatch):
    monkeypatch.setattr(distributed_utils, "world_size", lambda: 4)
    require_pair_each(4)
    with pytest.raises(UserError, match=r"param_conf\.batch_size: is 3, but 4 processes share a batch"):
        require_pair_each(3)

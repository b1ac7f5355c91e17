"""Several processes against one: the same batches, losses and gradients."""

import copy
import os
import socket
import time
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist

from tests.helpers import CPU, ROOT, random_model, random_split, state_of
from utils.common import processes
from utils.common.errors import UserError
from utils.common.processes import all_reduce_sum, process_group, require_pair_each, shard
from utils.conf.reading import load_conf
from utils.criterion_utils import InfoNCE, TripletLoss, negative_mask
from utils.data_utils import batches
from utils.model_utils import TrainState, prepare_model, seed_epoch, train_epoch, train_step

FORKS = get_context("forkserver")  # imports once for all processes
FORKS.set_forkserver_preload([__name__])


class Case(NamedTuple):
    """An epoch of training without dropout, and with frozen batch-norm statistics unless `live`."""

    strategy: str  # or InfoNCE
    masked: bool = False
    trainable_words: bool = False
    batch_size: int = 7  # of 18 pairs: the last batch has 4
    live: bool = False


CASES = [
    Case("random-NS"),
    Case("semi-hard-NS", trainable_words=True),
    Case("full-batch-NS", masked=True, trainable_words=True, batch_size=8),  # the last batch has 2
    Case("hard-text-NS", masked=True),
    Case("hard-audio-NS"),
    Case("easy-audio-NS", masked=True),
    Case("InfoNCE", masked=True),
]
SHORT = [Case("hard-audio-NS", True, True, 4), Case("InfoNCE", False, True, 4)]  # the last has 2, fewer than processes


def make_split():
    """Clips so short that an epoch takes a moment."""
    return random_split(longest=24)


def train(case, device=CPU):
    """Loss, active share, and every parameter's gradient of each step of an epoch, in float64."""
    model = random_model(case.trainable_words).double()
    prepare_model(load_conf(ROOT / "conf.yaml"), model, device)
    model.train(case.live)
    model.audio_enc.cnn[-1].eval()  # dropout
    criterion = InfoNCE(0.1) if case.strategy == "InfoNCE" else TripletLoss(0.01, case.strategy)
    criterion = criterion.double().to(device)
    named = dict(model.named_parameters()) | dict(criterion.named_parameters())
    named = {name: weight for name, weight in named.items() if weight.requires_grad}
    optimizer, masks = torch.optim.SGD(named.values(), lr=0.01), {"mask_words": case.masked, "mask_frames": case.masked}
    state = TrainState(model, criterion, optimizer, None, device, **masks)
    draws = seed_epoch(0, 1)
    steps, split = [], make_split()
    split = replace(split, log_mels=[log_mel.double() for log_mel in split.log_mels])
    if "audio" in case.strategy:  # clips tie with themselves, and rounding decides which of their captions it is
        split = replace(split, captions=[split.captions[3 * clip] for clip in split.caption_clips])
    for batch in batches(split, case.batch_size, shuffle=True):
        negatives = negative_mask(batch.clips)
        if negatives.any():
            terms = train_step(state, batch, negatives, draws)
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
    started = [FORKS.Process(target=_process, args=(place, count, job, folder, backend)) for place in range(count)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=120)
        process.kill()
    assert [process.exitcode for process in started] == [0] * count
    return [torch.load(folder / f"{place}.pt", weights_only=True) for place in range(count)]


def _process(place, count, job, folder, backend):
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(place)
    store = dist.FileStore(str(folder / "store"), count)
    dist.init_process_group(backend, store=store, rank=place, world_size=count)
    torch.save(job(), folder / f"{place}.pt")
    dist.destroy_process_group()


def train_cases(cases, device=CPU):
    return [train(case, device) for case in cases]


def train_with_dropout():
    """The mean loss of an epoch with dropout, the weights after it, and the seed of what was drawn last."""
    state = state_of(random_model(), TripletLoss(0.5, "random-NS"))
    draws, loader = seed_epoch(0, 1), batches(make_split(), 7, shuffle=True)
    results = train_epoch(state, loader, draws)
    return [results["train_loss"], dict(state.model.named_parameters()), torch.initial_seed()]


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
        all_reduce_sum(torch.zeros(1))
        (folder / str(place)).touch()
        if place == 0:
            all_reduce_sum(torch.zeros(1))
        time.sleep(60)


def test_a_process_that_waits_for_another_obeys_torchrun(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # a free one
    first, second = (FORKS.Process(target=wait_in_a_collective, args=(place, port, tmp_path)) for place in range(2))
    first.start()
    second.start()
    while len(list(tmp_path.iterdir())) < 2:
        assert first.is_alive() and second.is_alive()
        time.sleep(0.1)
    first.terminate()
    first.join(timeout=20)
    second.kill()
    assert first.exitcode == 2


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_two_gpus_with_synchronised_batch_norm_are_one(tmp_path):
    cases, cuda = [case._replace(live=True) for case in CASES], torch.device("cuda")
    for steps in in_processes(2, partial(train_cases, cases, cuda), tmp_path, "nccl"):
        for ours, case in zip(steps, cases, strict=True):
            same_steps(ours, train(case, cuda))


def test_synchronised_batch_norm_leaves_evaluation_and_state_dict_as_they_are():
    model = random_model()
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)).eval()
    assert sum(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules()) == 5
    loaded = type(model).from_state_dict(converted.state_dict()).eval()
    assert list(loaded.state_dict()) == list(model.state_dict())
    audio, lens = torch.randn(2, 12, 64), torch.tensor([12, 8])
    assert torch.equal(converted.audio_steps(audio, lens), loaded.audio_steps(audio, lens))


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_shards_cover_a_batch_once_and_evenly(monkeypatch, ranks):
    monkeypatch.setattr(processes, "world_size", lambda: ranks)
    for items in range(1, 13):
        shards = []
        for place in range(ranks):
            monkeypatch.setattr(processes, "rank", lambda place=place: place)
            shards.append(list(range(items))[shard(items)])
        if items < ranks:
            assert shards == [list(range(items))] * ranks
        else:
            assert [item for part in shards for item in part] == list(range(items))
            assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_batch_must_have_a_pair_for_each_process(monkeypatch):
    monkeypatch.setattr(processes, "world_size", lambda: 4)
    require_pair_each(4)
    with pytest.raises(UserError, match=r"param_conf\.batch_size: is 3, but 4 processes"):
        require_pair_each(3)

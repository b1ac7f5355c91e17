"""Several processes against one: the same batches, losses and gradients."""

import copy
import os
import signal
import socket
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist

from tests.helpers import CPU, ROOT, VOCABULARY, equal, random_model, random_split, state_of
from utils import evaluation_utils
from utils.common import processes
from utils.common.errors import UserError
from utils.common.processes import all_reduce_sum, on_rank_zero, process_group, require_pair_each, shard
from utils.conf.load import load_conf
from utils.criterion_utils import InfoNCE, TripletLoss, negative_mask
from utils.data_utils import Split, batches
from utils.device_utils import Draws
from utils.evaluation_utils import evaluate
from utils.model_utils import TrainState, prepare_model, seed_epoch, train_epoch, train_step
from utils.negative_utils import pick_statistics
from utils.score_utils import ClipScore, Score
from utils.swa_utils import WeightAverage

CUDA = torch.device("cuda")
FORKS = get_context("forkserver")  # imports once for all processes
FORKS.set_forkserver_preload([__name__])


class Case(NamedTuple):
    """An epoch of training without dropout, and with frozen batch-norm statistics unless `live`."""

    strategy: str  # or InfoNCE
    masked: bool = False
    trainable_words: bool = False
    batch_size: int = 7  # of 18 pairs: the last batch has 4
    live: bool = False
    frames: str = "mean"
    words: str = "mean"
    level: str = "frame"


CASES = [
    Case("random-NS"),
    Case("semi-hard-NS", trainable_words=True),
    Case("full-batch-NS", masked=True, trainable_words=True, batch_size=8),  # the last batch has 2
    Case("hard-text-NS", masked=True),
    Case("hard-audio-NS"),
    Case("easy-audio-NS", masked=True),
    Case("InfoNCE", masked=True),
    Case("InfoNCE", masked=True, frames="softmax", words="idf"),
    Case("full-batch-NS", frames="max"),
    Case("hard-audio-NS", masked=True, level="clip"),
    Case("hard-text-NS", trainable_words=True, words="idf", level="clip"),
]
# the last batch has 2, fewer than processes
SHORT = [Case("hard-audio-NS", True, True, 4), Case("InfoNCE", False, True, 4)]


def make_split():
    """Clips so short that an epoch takes a moment."""
    return random_split(longest=24)


def train(case, device=CPU):
    """Loss, active share and what was picked, and every parameter's gradient of each step of an epoch, in float64."""
    model = random_model(case.trainable_words).double()
    prepare_model(load_conf(ROOT / "conf.yaml"), model, device)
    model.train(case.live)
    model.audio_enc.cnn[-1].eval()  # dropout
    criterion = InfoNCE(0.1) if case.strategy == "InfoNCE" else TripletLoss(0.01, case.strategy)
    criterion = criterion.double().to(device)
    if case.level == "clip":
        score = ClipScore(case.words, case.masked, VOCABULARY)
    else:
        score = Score(case.frames, 10.0, True, case.words, case.masked, case.masked, vocabulary=VOCABULARY)
    score = score.double().to(device)
    split = make_split()
    score.count_words(split.captions)
    named = dict(model.named_parameters()) | dict(criterion.named_parameters()) | dict(score.named_parameters())
    named = {name: weight for name, weight in named.items() if weight.requires_grad}
    optimizer = torch.optim.SGD(named.values(), lr=0.01)
    state = TrainState(model, criterion, optimizer, None, device, score=score)
    draws = Draws(seed_epoch(0, 1), device)
    steps = []
    split = replace(split, audio=[log_mel.double() for log_mel in split.audio])
    if "audio" in case.strategy:  # clips tie with themselves, and rounding decides which of their captions it is
        split = replace(split, captions=[split.captions[3 * clip] for clip in split.caption_clips])
    for batch in batches(split, case.batch_size, shuffle=True):
        negatives = negative_mask(batch.clips)
        if negatives.any():
            terms = train_step(state, batch, negatives, draws)
            gradients = {name: weight.grad.cpu().clone() for name, weight in named.items()}
            picked = pick_statistics([terms.picked] if terms.picked else [])
            if "audio" in case.strategy:  # which of two pairs of one clip is picked, and so these two, is rounding's
                picked = {name: value for name, value in picked.items() if name.startswith("negative")}
            steps.append((terms.loss.item(), {"active": terms.active.item()} | picked, gradients))
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
    """The results of an epoch with dropout, the weights after it, and the seed of what was drawn last."""
    state = state_of(random_model(), TripletLoss(0.5, "random-NS"))
    draws, loader = seed_epoch(0, 1), batches(make_split(), 7, shuffle=True)
    results = train_epoch(state, loader, draws)
    return [results, dict(state.model.named_parameters()), torch.initial_seed()]


def evaluate_apart(clips, score):
    """An evaluation of a split of so many clips, in groups of two, where the ranks' running statistics differ."""
    evaluation_utils.FRAMES_AT_ONCE = 60
    whole, criterion = make_split(), TripletLoss(0.01, "hard-audio-NS")
    captions, caption_clips = whole.captions[: 3 * clips], whole.caption_clips[: 3 * clips]
    split = Split(whole.fids[:clips], whole.audio[:clips], whole.tids, captions, caption_clips)
    state = state_of(random_model(), criterion, score=score)
    state.model.audio_enc.cnn[0].running_mean -= processes.rank()
    return evaluate(state, split, {"semi_hard": TripletLoss(0.5, "semi-hard-NS")}, 5)


def evaluations():
    return [evaluate_apart(clips, Score()) for clips in (6, 5, 1)] + [evaluate_apart(6, ClipScore())]


def average_apart():
    """The average of two epochs, where each rank has running statistics of its own, and what is trained."""
    model = random_model()
    state, split = state_of(model, TripletLoss(0.5, "random-NS"), average=WeightAverage(model, 1)), make_split()
    for epoch in (1, 2):
        draws = seed_epoch(0, epoch)
        train_epoch(state, batches(split, 7, shuffle=True), draws)
        state.average.add(state.model, epoch)
        evaluate(state, split, {}, 7)
    return [state.evaluated.state_dict(), state.model.state_dict()]


def all_jobs():
    return [train_cases(CASES), train_with_dropout(), evaluations(), average_apart()]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    return in_processes(2, all_jobs, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_two_processes_are_one(two_processes, case):
    alone = train(case)
    for steps, *_ in two_processes:
        same_steps(steps[CASES.index(case)], alone)


def of_three():
    return [train_cases(SHORT), evaluations()]


@pytest.fixture(scope="module")
def three_processes(tmp_path_factory):
    return in_processes(3, of_three, tmp_path_factory.mktemp("three"))


def test_a_batch_with_fewer_pairs_than_processes_trains_as_in_one(three_processes):
    alone = train_cases(SHORT)
    for steps, _ in three_processes:
        for ours, theirs in zip(steps, alone, strict=True):
            same_steps(ours, theirs)


def test_processes_that_share_out_the_encoding_evaluate_as_one(two_processes, three_processes, monkeypatch):
    monkeypatch.setattr(evaluation_utils, "FRAMES_AT_ONCE", 60)
    alone = evaluations()
    assert [results for _, _, results, _ in two_processes] == [alone] * 2  # to the bit
    assert [results for _, results in three_processes] == [alone] * 3


def test_each_rank_encodes_its_share(monkeypatch):
    encoded, split, model = [], make_split(), random_model().eval()
    monkeypatch.setattr(evaluation_utils, "FRAMES_AT_ONCE", 60)
    monkeypatch.setattr(evaluation_utils, "all_reduce_sum", lambda tensor: tensor)
    encode_clips = evaluation_utils.encode_clips

    def noted(model, split, clips, score):
        encoded[-1] += clips
        return encode_clips(model, split, clips, score)

    monkeypatch.setattr(evaluation_utils, "encode_clips", noted)
    for place in range(3):
        monkeypatch.setattr(processes, "world_size", lambda: 3)
        monkeypatch.setattr(processes, "rank", lambda place=place: place)
        encoded.append([])
        evaluation_utils.score_split(model, split)
    assert sorted(clip for share in encoded for clip in share) == list(range(6)) and max(map(len, encoded)) < 6


def test_processes_stay_alike_though_each_has_its_own_dropout(two_processes):
    (results, weights, seed), (their_results, their_weights, their_seed) = (dropped for _, dropped, *_ in two_processes)
    assert results == their_results and results["hubness"] > 0 and seed != their_seed
    assert all(torch.equal(weights[name], their_weights[name]) for name in weights)


def test_processes_average_alike(two_processes):
    (*_, ours), (*_, theirs) = two_processes
    assert equal(ours, theirs) and not equal(ours[0], ours[1])


def wait_for_the_other(place, port, folder, wait):
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(place), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"LOCAL_RANK": str(place), "CUDA_VISIBLE_DEVICES": ""}  # gloo
    processes.SILENCE, processes.BEAT = timedelta(seconds=3), 0.1
    os.dup2(os.open(folder / f"{place}.err", os.O_WRONLY | os.O_CREAT), 2)
    with process_group():
        all_reduce_sum(torch.zeros(1))
        (folder / str(place)).touch()
        if place == 0:
            wait()
        time.sleep(60)


def wait_in_a_collective():
    all_reduce_sum(torch.zeros(1))


def work_alone():
    on_rank_zero(partial(time.sleep, 60))


@contextmanager
def two_that_wait(folder, wait):
    """Two processes that have met; the first waits for the second, which does nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # a free one
    started = [FORKS.Process(target=wait_for_the_other, args=(place, port, folder, wait)) for place in range(2)]
    for process in started:
        process.start()
    try:
        while not all((folder / str(place)).exists() for place in range(2)):
            assert all(process.is_alive() for process in started)
            time.sleep(0.1)
        yield started
    finally:
        for process in started:
            process.kill()


def test_a_process_that_waits_for_another_obeys_torchrun(tmp_path):
    with two_that_wait(tmp_path, wait_in_a_collective) as (first, _):
        first.terminate()
        first.join(timeout=20)
        assert first.exitcode == 2


@pytest.mark.parametrize("wait", [wait_in_a_collective, work_alone])
@pytest.mark.parametrize("end", [signal.SIGSTOP, signal.SIGKILL], ids=["silent", "killed"])
def test_a_dead_process_ends_the_others_with_one_line(tmp_path, wait, end):
    with two_that_wait(tmp_path, wait) as (first, second):
        os.kill(second.pid, end)  # stopped, its connections stay open, as those to a machine that died
        first.join(timeout=20)
        (line,) = (tmp_path / "0.err").read_text().splitlines()
        assert first.exitcode == 2 and line.startswith(f"error: {processes.KILLED}")
    assert processes.SILENCE + timedelta(seconds=processes.BEAT) < timedelta(minutes=5)


def test_a_gpu_each_is_said_to_nccl(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert processes._backend() == {"backend": "nccl", "device_id": torch.device("cuda", 1)} and chosen == [1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="process 2 has no GPU"):
        processes._backend()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_two_gpus_with_synchronised_batch_norm_are_one(tmp_path):
    cases = [case._replace(live=True) for case in CASES]
    for steps in in_processes(2, partial(train_cases, cases, CUDA), tmp_path, "nccl"):
        for ours, case in zip(steps, cases, strict=True):
            same_steps(ours, train(case, CUDA))


def test_synchronised_batch_norm_leaves_evaluation_and_state_dict_as_they_are():
    model = random_model()
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)).eval()
    assert sum(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules()) == 5
    loaded = type(model).from_state_dict(converted.state_dict()).eval()
    assert list(loaded.state_dict()) == list(model.state_dict())
    audio, lens = torch.randn(2, 12, 64), torch.tensor([12, 8])
    assert torch.equal(converted.encode_audio(audio, lens), loaded.encode_audio(audio, lens))


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
    with pytest.raises(UserError, match=r"param_conf\.batch_size: is 3, but each of 4 processes"):
        require_pair_each(3)

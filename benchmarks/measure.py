"""How the benchmarks measure: processes of their own, alternating runs, peak memory."""

import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from utils.common.memory import keep_freed_memory

GB = 1e9
FORKS = get_context("forkserver")  # this process has threads, with which a fork can hang
FORKS.set_forkserver_preload([__name__])  # imports once for all processes


def one_thread() -> None:
    """Have this process and those that it starts compute with one thread each: threads that wait tell nothing."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def isolated(function: Callable, *args: Any) -> Any:
    """function(*args) in a process of its own, so that no memory, cache or thread passes to the next measurement."""
    with ProcessPoolExecutor(1, mp_context=FORKS) as process:
        return process.submit(function, *args).result()


def seconds(function: Callable[[], Any]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def alternating(contenders: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Seconds of each contender in each round; in a round they run one after the other, theirs first.

    Memory is kept for ours alone, as `prepare_model` does it.
    """
    times = []
    for _ in range(rounds):
        times.append([])
        for contender in contenders:
            keep_freed_memory(contender is not contenders[0])
            times[-1].append(seconds(contender))
    return [list(of_contender) for of_contender in zip(*times, strict=True)]


def median_ratio(theirs: list[float], ours: list[float]) -> float:
    """Median over the rounds of how many times as long theirs takes."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def peak_memory() -> float:
    """The most memory that this process has held so far, in GB, libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB

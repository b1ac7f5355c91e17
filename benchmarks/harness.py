"""Measuring and printing, for all benchmarks: child processes, alternating runs, peak memory, tables, arguments."""

import os
import resource
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from utils.common.memory import keep_freed_memory

GB = 1e9
CPU = torch.device("cpu")

FORKS = get_context("forkserver")  # this process has threads: a fork of it can hang
FORKS.set_forkserver_preload([__name__])  # imports once for all child processes


def arguments(usage: str | None, clips: Sequence[int] = ()) -> ArgumentParser:
    """A parser of a benchmark's arguments, with --clips if there are default numbers of clips."""
    parser = ArgumentParser(description=usage, formatter_class=RawDescriptionHelpFormatter)
    if clips:
        parser.add_argument("--clips", type=int, nargs="+", default=clips, metavar="C", help="default: %(default)s")
    return parser


# --- processes, seconds and bytes ------------------------------------------------------------------------


def one_thread() -> None:
    """Limit this process and its children to one thread each; timings of several threads vary too much."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def isolated(function: Callable, *args: Any) -> Any:
    """Call function(*args) in a child process, so that its memory, caches and threads do not affect later ones."""
    with ProcessPoolExecutor(1, mp_context=FORKS) as process:
        return process.submit(function, *args).result()


def seconds(function: Callable[[], Any], device: torch.device = CPU) -> float:
    """Seconds of one call, until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def alternating(contenders: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Seconds of each contender in each round; a round runs them in turn, the published code first.

    Only our code keeps freed memory, as `prepare_model` sets it.
    """
    times: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for i, contender in enumerate(contenders):
            keep_freed_memory(i > 0)
            times[i].append(seconds(contender))
    return times


def peak_memory() -> float:
    """The peak resident memory of this process in GB, libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB


def product_rate(side: int, dtype: torch.dtype, device: torch.device = CPU) -> float:
    """FLOP/s of a square matrix product, the best of ten: the machine's measured peak."""
    matrix = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / min(seconds(lambda: matrix @ matrix, device) for _ in range(10))


# --- tables ----------------------------------------------------------------------------------------------


class Table:
    """A Markdown table that prints its header at once and its rows as they come.

    The first column has the width `first` and is aligned to the left; 0: it holds numbers as the others, which are at
    least `width` wide.
    """

    def __init__(self, columns: Sequence[str], first: int = 0, width: int = 8):
        self.left = first > 0
        self.widths = [max(len(name), width) for name in columns]
        self.widths[0] = max(len(columns[0]), first or width)
        self.row(*columns)
        rules = ["-" * (width - 1) + ("-" if self.left and i == 0 else ":") for i, width in enumerate(self.widths)]
        self.row(*rules)

    def row(self, *cells: object) -> None:
        """Print a row; missing cells at its end are empty."""
        texts = [str(cell) for cell in cells] + [""] * (len(self.widths) - len(cells))
        aligned = [text.rjust(width) for text, width in zip(texts, self.widths, strict=True)]
        if self.left:
            aligned[0] = texts[0].ljust(self.widths[0])
        print(f"| {' | '.join(aligned)} |", flush=True)


def amount(value: float, unit: str = "s") -> str:
    """A measured value to three digits with its unit; ms below a second."""
    if unit == "s" and value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"

"""Profile a training step on a CPU: self CPU time by operator, one thread, in float32 and bfloat16.

usage: python -m benchmarks.studies.profile_step [--steps N] [--rows N] [--quick]

The fastest of several steps counts. Compare the GFLOP/s of convolutions and matrix products with the peak: that of a
square matrix product.
"""

from typing import NamedTuple

from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench import PRECISIONS, QUICK, STRATEGY, Size, matrix_peaks, step_of
from benchmarks.harness import Table, arguments, isolated, one_thread
from utils.common.memory import keep_freed_memory

SIDES = ("published", *PRECISIONS)


class Operator(NamedTuple):
    """The time of an operator in a step, without the operators that it calls."""

    ms: float
    calls: int
    gflop: float  # of convolutions and matrix products, the GRU's included; 0 of the rest


def profiled(side: str, size: Size, steps: int) -> dict[str, Operator]:
    """The operators of the fastest of several steps, by name."""
    step = step_of(side, size)
    if side == "published":
        keep_freed_memory(False)
    with FlopCounterMode(display=False) as counter:  # warms up, too
        step()
    flops = {f"aten::{operator.__name__}": count for operator, count in counter.get_flop_counts()["Global"].items()}
    flops["aten::mkldnn_convolution"] = flops.pop("aten::convolution")  # the name of what runs
    records = []
    for _ in range(steps):
        with profile(activities=[ProfilerActivity.CPU]) as record:
            step()
        records.append(record.key_averages())
    fastest = min(records, key=lambda events: sum(event.self_cpu_time_total for event in events))
    return {
        event.key: Operator(event.self_cpu_time_total / 1e3, event.count, flops.get(event.key, 0) / 1e9)
        for event in fastest
    }


def print_table(sides: dict[str, dict[str, Operator]], rows: int) -> None:
    """Print ms, share, calls and GFLOP/s of each side, by the time in bfloat16."""
    totals = {side: sum(operator.ms for operator in operators.values()) for side, operators in sides.items()}
    columns = [name for side in sides for name in (f"{side}: ms", "share", "calls", "GFLOP/s")]
    table = Table(["operator", *columns], first=30)
    for name in sorted(sides["bfloat16"], key=lambda name: -sides["bfloat16"][name].ms)[:rows]:
        cells = []
        for side, operators in sides.items():
            ms, calls, gflop = operators.get(name, Operator(0, 0, 0))
            cells += [f"{ms:.1f}", f"{ms / totals[side]:.1%}", calls, f"{1e3 * gflop / ms:.0f}" if gflop else ""]
        table.row(f"`{name.removeprefix('aten::')}`", *cells)
    table.row("all", *(cell for total in totals.values() for cell in (f"{total:.0f}", "100.0%", "", "")))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=3, metavar="N", help="steps to choose from (default: 3)")
    parser.add_argument("--rows", type=int, default=14, metavar="N", help="operators to print (default: 14)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to check that it runs")
    args = parser.parse_args()
    one_thread()
    size = QUICK if args.quick else Size()
    peaks = isolated(matrix_peaks, size.matrix)
    print(f"step: {size.step}, {STRATEGY}, one thread")
    print(*(f"peak, {name}: {peak:.0f} GFLOP/s" for name, peak in zip(PRECISIONS, peaks, strict=True)), sep="\n")
    print_table({side: isolated(profiled, side, size, args.steps) for side in SIDES}, args.rows)


if __name__ == "__main__":
    main()

"""Where a training step on a CPU goes: self CPU time by operator, one thread, float32 and bfloat16 side by side.

usage: python -m benchmarks.profile_step [--steps N] [--rows N] [--quick]

Of some steps the fastest counts. GFLOP/s, of the convolutions and matrix products, are to be held against the peak: a
square matrix product's.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from torch.optim import Adam
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import published
from benchmarks.bench import PRECISIONS, QUICK, STRATEGY, Size, matrix_peaks
from benchmarks.inputs import dataset_conf
from benchmarks.measure import isolated, one_thread
from benchmarks.synthetic import new_model, new_state, synthetic_batch
from utils.common.memory import keep_freed_memory
from utils.criterion_utils import negative_mask
from utils.model_utils import train_step

SIDES = ("published", *PRECISIONS)
class Operator(NamedTuple):
    """What an operator took of a step, without the operators that it called."""

    ms: float
    calls: int
    gflop: float  # of convolutions and matrix products, among them the GRU's; 0 of the rest


def step_of(side: str, size: Size) -> Callable[[], object]:
    """A training step as `make bench` measures it: the published code's, or ours in a precision."""
    batch = synthetic_batch(size.batch, size.frames, size.words)
    if side == "published":
        keep_freed_memory(False)
        model = published.Model(new_model().state_dict())
        optimizer = Adam(model.audio_enc.parameters())
        return lambda: published.training_step(model, batch, STRATEGY, optimizer)
    settings = (f"criteria.TripletLoss.sampling={STRATEGY}", f"param_conf.precision={side}")
    state, negatives = new_state(dataset_conf("unused", *settings)), negative_mask(batch.clips)
    state.model.train()
    return lambda: train_step(state, batch, negatives)


def profiled(side: str, size: Size, steps: int) -> dict[str, Operator]:
    """The operators of the fastest of some steps, by name."""
    step = step_of(side, size)
    with FlopCounterMode(display=False) as counter:  # warms up, too
        step()
    flops = {f"aten::{operator.__name__}": count for operator, count in counter.get_flop_counts()["Global"].items()}
    flops["aten::mkldnn_convolution"] = flops.pop("aten::convolution")  # by what runs
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


def table(sides: dict[str, dict[str, Operator]], rows: int) -> str:
    """Markdown: ms, share, calls and GFLOP/s of each side, by the time in bfloat16."""
    order = sorted(sides["bfloat16"], key=lambda name: -sides["bfloat16"][name].ms)[:rows]
    totals = {side: sum(operator.ms for operator in operators.values()) for side, operators in sides.items()}
    lines = [
        f"| operator | {' | '.join(f'{side}: ms | share | calls | GFLOP/s' for side in sides)} |",
        f"|---|{'---:|' * 4 * len(sides)}",
    ]
    for name in order:
        cells = []
        for side, operators in sides.items():
            ms, calls, gflop = operators.get(name, Operator(0, 0, 0))
            rate = f"{1e3 * gflop / ms:.0f}" if gflop else ""
            cells.append(f"{ms:.1f} | {ms / totals[side]:.1%} | {calls} | {rate}")
        lines.append(f"| `{name.removeprefix('aten::')}` | {' | '.join(cells)} |")
    lines.append(f"| all | {' | '.join(f'{totals[side]:.0f} | 100.0% | | ' for side in sides)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, metavar="N", help="steps to choose from (default: 3)")
    parser.add_argument("--rows", type=int, default=14, metavar="N", help="operators that are shown (default: 14)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    args = parser.parse_args()
    one_thread()
    size = QUICK if args.quick else Size()
    peaks = isolated(matrix_peaks, size.matrix)
    print(f"step: {size.batch} pairs x {size.frames} frames x {size.words} words, {STRATEGY}, one thread")
    print(*(f"peak, {name}: {peak:.0f} GFLOP/s" for name, peak in zip(PRECISIONS, peaks, strict=True)), sep="\n")
    print(table({side: isolated(profiled, side, size, args.steps) for side in SIDES}, args.rows))


if __name__ == "__main__":
    main()

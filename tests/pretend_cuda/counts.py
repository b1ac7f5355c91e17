"""What a training step and an evaluation make a CUDA device do: kernels, host synchronisations, pageable copies.

python -m tests.pretend_cuda.counts [--top 3] [--rows PATTERN]: prints a Markdown table, a row for each objective and
precision, with the lines of the project that have the highest counts.
"""

import argparse
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from unittest.mock import patch

from tests.pretend_cuda.pretend import Watch  # isort: skip, before torch
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from benchmarks.inputs import dataset_conf, new_state, synthetic_split
from utils.data_utils import batches
from utils.device_utils import DeviceAudio
from utils.evaluation_utils import evaluate
from utils.model_utils import TrainState, seed_epoch, train_epoch
from utils.sampling_utils import STRATEGIES

CUDA = torch.device("cuda")
PAIRS = 32  # of a batch, each of another clip
VAL_CLIPS = 64  # with a caption each
FRAMES = (40, 60)  # of a clip; short, since the counts hardly depend on it
OBJECTIVES = {name: [f"criteria.TripletLoss.sampling={name}"] for name in STRATEGIES}  # the settings of each
OBJECTIVES["InfoNCE"] = ["param_conf.criterion=InfoNCE"]


class OneLayer(nn.Module):
    """Stands in for a GRU by one linear map, since cuDNN runs all steps in one call, and this device one by one."""

    def __init__(self, input_size: int, hidden_size: int, **_: bool):
        super().__init__()
        self.linear = nn.Linear(input_size, 2 * hidden_size)

    def forward(self, steps: Tensor | PackedSequence) -> tuple[Tensor | PackedSequence, None]:
        if isinstance(steps, PackedSequence):
            return steps._replace(data=self.linear(steps.data)), None
        return self.linear(steps), None


def state_on_device(settings: list[str]) -> TrainState:
    """A model of conf.yaml with these settings on the device, with its optimiser."""
    with patch.object(nn, "GRU", OneLayer):
        return new_state(dataset_conf("unused", *settings), CUDA)


def of_step(settings: list[str]) -> Watch:
    """Counts of a step on data on the device: those of an epoch of two steps less those of an epoch of one.

    An epoch before sets up the optimiser.
    """
    state = state_on_device(settings)
    watches = []
    for pairs in (2, PAIRS, 2 * PAIRS):
        split = synthetic_split(pairs, FRAMES, 1)
        split = replace(split, audio=DeviceAudio(split.audio, state.device))
        loader = batches(split, PAIRS, shuffle=True)
        with Watch() as watch:
            train_epoch(state, loader, seed_epoch(0, 1))
        watches.append(watch)
    for counts in ("kernels", "syncs", "pageable"):
        getattr(watches[2], counts).subtract(getattr(watches[1], counts))
    return watches[2]


def of_evaluation(settings: list[str]) -> Watch:
    """Counts of an evaluation of a split of VAL_CLIPS clips."""
    state, split = state_on_device(settings), synthetic_split(VAL_CLIPS, FRAMES, 1)
    with Watch() as watch:
        evaluate(state, split, {}, PAIRS)
    return watch


def cell(counter: Counter, top: int) -> str:
    """`total: count line, count line`"""
    lines: Counter[str] = Counter()
    for (line, _), count in counter.items():
        lines[line] += count
    shown = ", ".join(f"{count} {line}" for line, count in lines.most_common(top) if count)
    return f"{lines.total()}: {shown}" if shown else f"{lines.total()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--top", type=int, default=3, metavar="N", help="lines of the project a cell (default: 3)")
    parser.add_argument("--rows", default="", metavar="PATTERN", help="only rows whose name begins with it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {
        f"step, {name}, {precision}": partial(of_step, [*settings, f"param_conf.precision={precision}"])
        for precision in ("float32", "bfloat16")
        for name, settings in OBJECTIVES.items()
    }
    rows |= {f"evaluation, {name}": partial(of_evaluation, settings) for name, settings in OBJECTIVES.items()}
    print("| | kernels | host synchronisations | pageable copies |\n|---|---|---|---|")
    for title, count in rows.items():
        if re.match(args.rows, title):
            watch = count()
            cells = (cell(counter, args.top) for counter in (watch.kernels, watch.syncs, watch.pageable))
            print(f"| {title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

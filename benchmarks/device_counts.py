"""What a training step and an evaluation make a CUDA device do: kernels, host synchronisations, pageable copies.

python PRETEND_CUDA/run.py -m benchmarks.device_counts [--top 3] [--rows PATTERN], on the pretended CUDA device: prints
a Markdown table, a row for each objective and precision, with the lines of the project that have the most.
"""

import argparse
import re
from collections import Counter
from dataclasses import replace
from functools import partial

import torch
from pretend import Watch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from benchmarks.inputs import ROOT
from benchmarks.synthetic import new_state, synthetic_split
from models.audio_encoders import CRNNEncoder
from utils.conf.reading import load_conf
from utils.data_utils import batches
from utils.device_utils import DeviceLogMels
from utils.evaluation_utils import evaluate
from utils.model_utils import TrainState, seed_epoch, train_epoch
from utils.sampling_utils import STRATEGIES

PAIRS = 32  # of a batch, each of another clip
VAL_CLIPS = 64  # with a caption each
FRAMES = (40, 60)  # of a clip; short, since the counts hardly depend on it


class OneLayer(nn.Module):
    """Stands in for a recurrent layer by one linear map: cuDNN runs all its steps in a call, this device does not."""

    def __init__(self, layer: nn.RNNBase):
        super().__init__()
        self.linear = nn.Linear(layer.input_size, layer.hidden_size * (1 + layer.bidirectional))

    def forward(self, steps: Tensor | PackedSequence) -> tuple[Tensor | PackedSequence, None]:
        if isinstance(steps, PackedSequence):
            return steps._replace(data=self.linear(steps.data)), None
        return self.linear(steps), None


def state_on_device(settings: list[str]) -> TrainState:
    """What trains a model of conf.yaml with these settings on the device."""
    whole = CRNNEncoder.__init__

    def without_recurrence(self, *args):
        whole(self, *args)
        self.gru = OneLayer(self.gru)

    CRNNEncoder.__init__ = without_recurrence
    try:
        return new_state(load_conf(ROOT / "conf.yaml", settings), torch.device("cuda"))
    finally:
        CRNNEncoder.__init__ = whole


def of_step(settings: list[str]) -> Watch:
    """Of a step by data on the device: what an epoch of two has more than one of one, once one has set up Adam."""
    state = state_on_device(settings)
    watches = []
    for pairs in (2, PAIRS, 2 * PAIRS):
        split = synthetic_split(pairs, FRAMES, 1)
        split = replace(split, log_mels=DeviceLogMels(split.log_mels, state.device))
        loader = batches(split, PAIRS, shuffle=True)
        with Watch() as watch:
            train_epoch(state, loader, seed_epoch(0, 1))
        watches.append(watch)
    for counts in ("kernels", "syncs", "pageable"):
        getattr(watches[2], counts).subtract(getattr(watches[1], counts))
    return watches[2]


def of_evaluation(settings: list[str]) -> Watch:
    """Of an evaluation of a split of VAL_CLIPS clips."""
    state, split = state_on_device(settings), synthetic_split(VAL_CLIPS, FRAMES, 1)
    with Watch() as watch:
        evaluate(state, split, {}, PAIRS)
    return watch


def objectives() -> dict[str, list[str]]:
    """The settings of each objective, by its name."""
    triplets = {name: [f"criteria.TripletLoss.sampling={name}"] for name in STRATEGIES}
    return triplets | {"InfoNCE": ["param_conf.criterion=InfoNCE"]}


def row(title: str, watch: Watch, top: int) -> str:
    cells = (cell(counter, top) for counter in (watch.kernels, watch.syncs, watch.pageable))
    return f"| {title} | {' | '.join(cells)} |"


def cell(counter: Counter, top: int) -> str:
    """`total: count place, count place`"""
    places: Counter[str] = Counter()
    for (place, _), count in counter.items():
        places[place] += count
    shown = ", ".join(f"{count} {place}" for place, count in places.most_common(top) if count)
    return f"{places.total()}: {shown}" if shown else f"{places.total()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--top", type=int, default=3, metavar="N", help="lines of the project a cell (default: 3)")
    parser.add_argument("--rows", default="", metavar="PATTERN", help="only those whose name begins so")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {
        f"step, {name}, {precision}": partial(of_step, [*settings, f"param_conf.precision={precision}"])
        for precision in ("float32", "bfloat16")
        for name, settings in objectives().items()
    }
    rows |= {f"evaluation, {name}": partial(of_evaluation, settings) for name, settings in objectives().items()}
    print("| | kernels | host synchronisations | pageable copies |\n|---|---|---|---|")
    for title, count in rows.items():
        if re.match(args.rows, title):
            print(row(title, count(), args.top), flush=True)


if __name__ == "__main__":
    main()

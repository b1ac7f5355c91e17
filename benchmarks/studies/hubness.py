"""Does hubness predict a collapse? Plot the first training epoch, batch by batch, under several strategies.

usage: python -m benchmarks.studies.hubness [section.key=value ...] --conf FILE [--out docs/hubness.png] [--seeds 0 1 2]

The plots show the hubness of each batch's picks (utils.negative_utils.pick_statistics), and the standard deviation of
its scores, which falls in a collapse.
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks.harness import arguments
from utils.common.errors import run_command
from utils.common.io import progress
from utils.common.processes import pick_device
from utils.conf.load import load_conf
from utils.criterion_utils import negative_mask
from utils.data_utils import batches
from utils.device_utils import Draws
from utils.model_utils import build_state, seed_epoch, train_step
from utils.negative_utils import pick_statistics
from utils.trial.training_data import load_training_data

STRATEGIES = {"hard-NS": "#c0392b", "semi-hard-NS": "#0b62a0"}  # and their colours
COLLAPSED = 0.1  # of the first batch's spread


def first_epoch(conf_file: str, overrides: list[str]) -> list[tuple[float, float]]:
    """Hubness and the standard deviation of the scores in each batch of epoch 1."""
    conf = load_conf(conf_file, overrides)
    data = load_training_data(conf)
    torch.manual_seed(conf.param_conf.seed)
    state = build_state(conf, data.vectors, pick_device(), data.train.captions)
    draws, found = Draws(seed_epoch(conf.param_conf.seed, 1), state.device), []
    loader = batches(data.train, conf.param_conf.batch_size, shuffle=True)
    state.model.train()
    for batch in progress(loader, f"{conf.objective}, seed {conf.param_conf.seed}", total=len(loader)):
        negatives = negative_mask(batch.clips)
        if negatives.any():
            picked = train_step(state, batch, negatives, draws).picked
            found.append((pick_statistics([picked])["hubness"], picked.scores.std().item()))
    return found


def draw(runs: dict[tuple[str, int], list[tuple[float, float]]], out: Path) -> None:
    """Plot both numbers by batch, a line a run."""
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    for axes, what, index in zip(figure.subplots(1, 2), ("hubness", "spread of the scores"), (0, 1), strict=True):
        for (strategy, seed), found in runs.items():
            label = strategy if seed == min(other for name, other in runs if name == strategy) else None
            values = [both[index] for both in found]
            axes.plot(range(1, len(values) + 1), values, color=STRATEGIES[strategy], label=label)
        axes.set(xlabel="batch of the first epoch", title=what, ylim=(0, None))
        axes.legend()
    figure.savefig(out)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--conf", required=True, metavar="FILE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("docs/hubness.png"))
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    args = parser.parse_args()
    runs = {}
    for strategy in STRATEGIES:
        for seed in args.seeds:
            settings = ["param_conf.criterion=TripletLoss", f"criteria.TripletLoss.sampling={strategy}"]
            settings += [f"param_conf.seed={seed}", *args.overrides]
            found = runs[strategy, seed] = first_epoch(args.conf, settings)
            hubness, spread = zip(*found, strict=True)
            numbers = " ".join(f"{value:.2f}" for value in hubness[:: max(1, len(found) // 8)])
            collapse = next((i for i, std in enumerate(spread, start=1) if std < COLLAPSED * spread[0]), None)
            print(f"{strategy}, seed {seed}: hubness {numbers}; scores collapsed at batch {collapse}", flush=True)
    draw(runs, args.out)
    print(f"-> {args.out}")


if __name__ == "__main__":
    run_command(main)

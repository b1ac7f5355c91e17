"""Seconds an epoch on a GPU, with log-mels of Clotho's size: strategies x precisions x compile, with peak memory and
the share of the measured bfloat16 matrix-product peak. On the CPU, or with --quick, in a reduced form.

python benchmarks/gpu.py [--quick]
"""

import argparse
import sys
import time
from itertools import product
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

import torch

from benchmarks.bench import step_flops
from benchmarks.inputs import CLIP_FRAMES, ROOT, new_state, synthetic_split
from utils.conf.reading import load_conf
from utils.data_utils import Split, batches
from utils.evaluation_utils import evaluate
from utils.model_utils import seed_epoch, train_epoch

STRATEGIES = ("random-NS", "semi-hard-NS", "hard-audio-NS")
PRECISIONS = {  # column: the settings behind it
    "float32": ["param_conf.precision=float32"],
    "TF32": ["param_conf.precision=float32", "param_conf.tf32=true"],
    "bfloat16": ["param_conf.precision=bfloat16"],
}


class Size(NamedTuple):
    """Clips of the training and the validation split, their frames (from, below), rows of the peak's matrices."""

    train_clips: int
    val_clips: int
    frames: tuple[int, int]
    matrix: int
    compiled: tuple[bool, ...]


CLOTHO = Size(3839, 1045, CLIP_FRAMES, 8192, (False, True))
QUICK = Size(2, 2, (20, 30), 256, (False,))


def matrix_peak(device: torch.device, side: int) -> float:
    """FLOP/s of bfloat16 products of (side, side) matrices, the best of some."""
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    best = 0.0
    for _ in range(10):
        _wait(device)
        start = time.perf_counter()
        torch.mm(a, a)
        _wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def measure(strategy: str, precision: str, compiled: bool, splits: list[Split], device: torch.device) -> list[float]:
    """Seconds of a training pass and of an evaluation, each the second of two, and peak memory in GB."""
    settings = [f"criteria.TripletLoss.sampling={strategy}", f"param_conf.compile={str(compiled).lower()}"]
    conf = load_conf(ROOT / "conf.yaml", [*PRECISIONS[precision], *settings])
    state, batch_size = new_state(conf, device), conf.param_conf.batch_size
    train_split, val_split = splits
    loader = batches(train_split, batch_size, shuffle=True)
    for epoch in (1, 2):  # the first warms up
        draws = seed_epoch(0, epoch)
        _wait(device)
        start = time.perf_counter()
        train_epoch(state, loader, draws)
        _wait(device)
        trained = time.perf_counter()
        evaluate(state, val_split, {}, batch_size)
        evaluated = time.perf_counter()
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else float("nan")
    return [trained - start, evaluated - trained, memory]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a reduced form, as without a GPU")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = CLOTHO if device.type == "cuda" and not args.quick else QUICK
    splits = [synthetic_split(clips, size.frames) for clips in (size.train_clips, size.val_clips)]
    peak = matrix_peak(device, size.matrix)
    pairs, words = len(splits[0].captions), 20
    flops = step_flops(1, sum(splits[0].frames) // size.train_clips, words) * pairs
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}: {size.train_clips} + {size.val_clips} clips; bfloat16 peak {peak / 1e12:.4g} TFLOP/s")
    print("| strategy | precision | compile | training, s | evaluation, s | peak memory, GB | share of peak |")
    print("|---|---|---|---|---|---|---|")
    for strategy, precision, compiled in product(STRATEGIES, PRECISIONS, size.compiled):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        train, val, memory = measure(strategy, precision, compiled, splits, device)
        share = flops / train / peak
        print(f"| {strategy} | {precision} | {compiled} | {train:.2f} | {val:.2f} | {memory:.2f} | {share:.2%} |")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()

"""Measure training on a GPU with log-mels of Clotho's size: seconds an epoch, memory, errors, shares of the peaks.

python benchmarks/gpu.py [--rows random-NS:bfloat16 InfoNCE:TF32:compile ...] [--seconds 540]   # a few epochs each
python benchmarks/gpu.py --clotho [--rows semi-hard-NS:bfloat16]                                # 120 epochs

Needs torch, numpy and h5py alone. Prints each row once it is measured, as a line to read and a line of JSON, and lists
the rows that it had no time for. FLOP and bytes include padding: FLOP by `step_flops`, without scores of clips with
clips; bytes as every operator of a step reads and writes them. Runs in a reduced form on the CPU, or with --quick.
"""

import time

START = time.perf_counter()

import json
import platform
import statistics
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script or with -m

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.bare import Settings, missing_packages_replaced, paper_settings

with missing_packages_replaced():
    from benchmarks.harness import CPU, arguments, product_rate, seconds
    from benchmarks.inputs import CLIP_FRAMES, N_MELS, new_state, step_flops, synthetic_split
    from utils.common.io import atomic_write
    from utils.criterion_utils import negative_mask
    from utils.data_utils import Split, batches, collate
    from utils.device_utils import Draws
    from utils.evaluation_utils import evaluate
    from utils.model_utils import TrainState, seed_epoch, train_epoch, train_step
    from utils.sampling_utils import STRATEGIES
    from utils.trial.checkpoint import checkpoint_bytes

IMPORTS = time.perf_counter() - START  # seconds
OBJECTIVES = (*STRATEGIES, "InfoNCE")
PRECISIONS = {"float32": ("float32", False), "TF32": ("float32", True), "bfloat16": ("bfloat16", False)}
ROWS = (
    *("random-NS:bfloat16", "random-NS:TF32", "random-NS:float32", "semi-hard-NS:bfloat16"),
    *("hard-text-NS:bfloat16", "hard-audio-NS:bfloat16", "random-NS:bfloat16:compile"),
)


class Size(NamedTuple):
    """Sizes of the measurements."""

    clips: tuple[int, int]  # of the training and of the validation split, with five captions each
    frames: tuple[int, int]  # of a clip, a range
    checked: tuple[int, int]  # of a clip of the batch whose gradients are compared
    side: int  # rows of the matrices whose product and copy are the peaks
    timed: int  # epochs of a row, after a warm-up
    epochs: int  # of --clotho


CLOTHO = Size((3839, 1045), CLIP_FRAMES, (200, 301), 8192, 3, 120)
QUICK = Size((3, 2), (20, 30), (20, 30), 256, 2, 2)


class Row(NamedTuple):
    """A training configuration to measure."""

    objective: str
    precision: str
    compiled: bool

    @classmethod
    def of(cls, text: str) -> "Row":
        """Parse objective:precision[:compile]; argparse reports the ValueError."""
        objective, precision, *rest = text.split(":")
        if objective not in OBJECTIVES or precision not in PRECISIONS or rest not in ([], ["compile"]):
            raise ValueError
        return cls(objective, precision, bool(rest))

    @property
    def settings(self) -> Settings:
        return paper_settings(self.objective, *PRECISIONS[self.precision], self.compiled)

    @property
    def batch_size(self) -> int:
        return self.settings.param_conf.batch_size

    def __str__(self) -> str:
        return ":".join([self.objective, self.precision, *["compile"] * self.compiled])


# --- a row -----------------------------------------------------------------------------------------------


def peaks(device: torch.device, side: int) -> dict[str, float]:
    """FLOP/s of square matrix products by precision, and bytes/s of a copy, read and written; the best of ten."""
    rates, allowed = {}, torch.backends.cuda.matmul.allow_tf32
    for name, (precision, tf32) in PRECISIONS.items():
        torch.backends.cuda.matmul.allow_tf32 = tf32
        rates[name] = product_rate(side, getattr(torch, precision), device)
    torch.backends.cuda.matmul.allow_tf32 = allowed
    source = torch.randn(side, side, device=device)
    target = torch.empty_like(source)
    rates["copy"] = 2 * source.nbytes / min(seconds(lambda: target.copy_(source), device) for _ in range(10))
    return rates


def own_frames(split: Split, seed: int) -> Split:
    """The split with log-mels that share no memory."""
    generator = torch.Generator().manual_seed(seed)
    return replace(split, audio=[2 * torch.randn(len(x), N_MELS, generator=generator) - 8 for x in split.audio])


def padded(split: Split, batch_size: int) -> list[tuple[int, int, int]]:
    """Pairs, padded frames and padded words of an epoch's batches, in a random order."""
    order = np.random.default_rng(0).permutation(len(split.captions))
    frames, words = np.array(split.frames), np.array([len(ids) for ids in split.captions])
    batches = np.split(order, range(batch_size, len(order), batch_size))
    return [(len(ids), int(frames[split.caption_clips[ids]].max()), int(words[ids].max())) for ids in batches]


class Traffic(TorchDispatchMode):
    """Count the bytes that operators read and write within it; views cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        if not operator.is_view:
            self.bytes += sum(x.nbytes for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor))
        return result


def epoch_bytes(row: Row, split: Split, device: torch.device) -> float:
    """Bytes of a training epoch: those of its first batch, scaled by padded frames."""
    state = new_state(row._replace(compiled=False).settings, device)
    batch = collate(split, list(range(min(len(split.captions), row.batch_size))))
    state.model.train()
    with Traffic() as traffic:
        train_step(state, batch, negative_mask(batch.clips), Draws(seed_epoch(0, 1), device))
    frames = sum(pairs * length for pairs, length, _ in padded(split, row.batch_size))
    return traffic.bytes * frames / (batch.audio.shape[0] * batch.audio.shape[1])


def errors(row: Row, frames: tuple[int, int], device: torch.device) -> tuple[float, float]:
    """Relative errors of a step's loss and of the norm of the encoder's gradient, against float64 on the CPU.

    Without dropout. Rounding may make a strategy pick another negative; that error is included.
    """
    split = own_frames(synthetic_split(8, frames, 1), 2)
    batch = collate(split, list(range(len(split.captions))))

    def step(settings: Settings, device: torch.device, dtype: torch.dtype) -> tuple[float, Tensor]:
        state = new_state(settings, device)
        for module in (state.model, state.criterion):
            module.to(dtype).train()
        state.model.audio_enc.cnn[-1].p = 0.0
        typed = batch._replace(audio=batch.audio.to(dtype))
        terms = train_step(state, typed, negative_mask(batch.clips), Draws(seed_epoch(0, 1), device))
        gradients = [weight.grad.flatten().to(CPU, torch.float64) for weight in state.model.audio_enc.parameters()]
        return terms.loss.item(), torch.cat(gradients)

    exact, exact_gradient = step(Row(row.objective, "float32", False).settings, CPU, torch.float64)
    loss, gradient = step(row.settings, device, torch.float32)
    return abs(loss - exact) / abs(exact), float((gradient - exact_gradient).norm() / exact_gradient.norm())


def measure(row: Row, splits: list[Split], size: Size, device: torch.device, deadline: float) -> dict[str, Any]:
    """Measure a row: one epoch to warm up, then as many as the time allows."""
    state = new_state(row.settings, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    loader, training, evaluation = batches(splits[0], row.batch_size, shuffle=True), [], []
    for epoch in range(size.timed + 1):
        start, draws = time.perf_counter(), seed_epoch(0, epoch + 1)
        training.append(seconds(partial(train_epoch, state, loader, draws), device))
        evaluation.append(seconds(partial(evaluate, state, splits[1], {}, row.batch_size), device))
        if 2 * time.perf_counter() - start > deadline:  # no time for the next
            break
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
    loss_error, gradient_error = errors(row, size.checked, device)
    return {
        "row": str(row),
        "train_s": training[1:],
        "evaluate_s": evaluation[1:],
        "peak_memory_gb": memory,
        "epoch_tflop": sum(step_flops(*sizes) for sizes in padded(splits[0], row.batch_size)) / 1e12,
        "epoch_gbyte": epoch_bytes(row, splits[0], device) / 1e9,
        "loss_error": loss_error,
        "gradient_error": gradient_error,
    }


def in_words(figures: dict[str, Any], rates: dict[str, float]) -> str:
    """A row's figures in one line."""
    row, memory = figures["row"], figures["peak_memory_gb"]
    if not figures["train_s"]:
        return f"{row}: no time for an epoch after the one that warms up"
    clauses = []
    for name in ("train", "evaluate"):
        times = figures[f"{name}_s"]
        clauses.append(f"{name} {statistics.median(times):.3g} s ({min(times):.3g}-{max(times):.3g}, {len(times)}x)")
    taken = statistics.median(figures["train_s"])
    clauses.append(f"{1e12 * figures['epoch_tflop'] / taken / rates[row.split(':')[1]]:.2%} of the products' peak")
    clauses.append(f"{1e9 * figures['epoch_gbyte'] / taken / rates['copy']:.2%} of the copies'")
    clauses.append(f"error of loss {figures['loss_error']:.1e}, gradient {figures['gradient_error']:.1e}")
    clauses.append("peak memory " + ("not measured" if memory is None else f"{memory:.2f} GB"))
    return f"{row}: {'; '.join(clauses)}"


# --- a whole training ------------------------------------------------------------------------------------


def train_whole(row: Row, splits: list[Split], size: Size, device: torch.device, folder: Path) -> dict[str, Any]:
    """Train as main.py does, from HDF5 files, with evaluation, schedule and checkpoints.

    Early stopping, record and data checks are left out, since they need more packages. The seconds include the imports,
    but not writing the files.
    """
    for split in splits:
        with h5py.File(folder / f"{id(split)}.hdf5", "w") as store:
            for fid, log_mel in zip(split.fids, split.audio, strict=True):
                store[fid] = log_mel.numpy()
    start, (train, val) = time.perf_counter(), splits
    for split in splits:
        with h5py.File(folder / f"{id(split)}.hdf5") as store:
            split.audio[:] = [torch.from_numpy(store[fid][()]) for fid in split.fids]
    state, history, training, evaluation = new_state(row.settings, device), [], [], []
    loader = batches(train, row.batch_size, shuffle=True)
    for epoch in range(size.epochs + 1):
        draws, results = seed_epoch(0, epoch), {"epoch": epoch}
        if epoch > 0:
            training.append(seconds(partial(train_epoch, state, loader, draws), device))
        evaluation.append(seconds(lambda into=results: into.update(evaluate(state, val, {}, row.batch_size)), device))
        state.scheduler.step(results["val_obj"])
        history.append(results)
        save(state, history, folder)
        print(f"epoch {epoch}: val_obj {results['val_obj']:.4f}", file=sys.stderr, flush=True)
    wall = IMPORTS + time.perf_counter() - start
    return {"row": str(row), "epochs": size.epochs, "wall_s": wall, "train_s": training, "evaluate_s": evaluation}


def save(state: TrainState, history: list[dict[str, float]], folder: Path) -> None:
    """Write the last checkpoint, and the best one if this epoch is the best."""
    states = {name: part.state_dict() for name, part in state.checkpointables.items()}
    content = checkpoint_bytes(states | {"history": history})
    best = min(history, key=lambda results: results["val_obj"]) is history[-1]
    for name in ("checkpoint_last.pt", "checkpoint_best.pt")[: 1 + best]:
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(content)


# --- the command -----------------------------------------------------------------------------------------


def machine(device: torch.device) -> dict[str, Any]:
    """The device and the versions."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "CPU",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "numpy": np.__version__,
    }


def report(line: str, figures: dict[str, Any]) -> None:
    """Print a line to read and a line of JSON."""
    print(f"{line}\n{json.dumps(figures)}", flush=True)


def main() -> None:
    parser = arguments(__doc__)
    choices = f"objective:precision[:compile], of {', '.join(OBJECTIVES)} and {', '.join(PRECISIONS)}"
    parser.add_argument("--rows", nargs="+", type=Row.of, metavar="ROW", default=[*map(Row.of, ROWS)], help=choices)
    parser.add_argument("--seconds", type=float, default=540, help="time limit without --clotho (default: 540)")
    parser.add_argument("--clotho", action="store_true", help="the whole training, by the first row")
    parser.add_argument("--quick", action="store_true", help="a reduced form, as without a GPU")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = CLOTHO if device.type == "cuda" and not args.quick else QUICK
    splits = [own_frames(synthetic_split(clips, size.frames), seed) for seed, clips in enumerate(size.clips)]
    about = machine(device) | {"clips": size.clips}
    if args.clotho:
        with TemporaryDirectory() as folder:
            figures = train_whole(args.rows[0], splits, size, device, Path(folder))
        median = statistics.median(figures["train_s"])
        line = f"{about['device']}, {args.rows[0]}: {size.epochs} epochs in {figures['wall_s']:.1f} s"
        report(f"{line}; training {median:.3g} s an epoch", about | figures)
        return
    rates = peaks(device, size.side)
    products = ", ".join(f"{name} {rates[name] / 1e12:.3g}" for name in PRECISIONS)
    line = f"{about['device']}: products, TFLOP/s: {products}; copies {rates['copy'] / 1e9:.4g} GB/s"
    report(line, about | {"peaks": rates})
    for done, row in enumerate(args.rows):
        if time.perf_counter() - START > args.seconds:
            left = [str(row) for row in args.rows[done:]]
            report(f"the {args.seconds:g} seconds are spent; left out: {' '.join(left)}", {"left_out": left})
            break
        figures = measure(row, splits, size, device, START + args.seconds)
        report(in_words(figures, rates), figures)


if __name__ == "__main__":
    main()

"""Ours against the published code (`published.py`), alternating, with one thread a process on both sides: one table.

usage: python -m benchmarks.bench [--data DIR] [--pairs N] [--quick]      (what `make bench` runs)
"""

import argparse
import io
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam
from utils.place_utils import per_query_both_directions
from utils.step_score_utils import batch_scores

from benchmarks import published
from benchmarks.inputs import (
    dataset_conf,
    encoded_model,
    extract_log_mels,
    record_as_made,
    write_dataset,
    write_random_word_scores,
)
from benchmarks.measure import alternating, isolated, median_ratio, one_thread, peak_memory, seconds
from benchmarks.synthetic import (
    CLIP_FRAMES,
    CPU,
    DIM,
    new_model,
    new_state,
    step_flops,
    synthetic_batch,
    synthetic_split,
)
from models.audio_encoders import upsample
from utils.common.io import read_json
from utils.common.memory import keep_freed_memory
from utils.common.steps import CLEANING, INDEXING
from utils.conf.schema import Conf
from utils.criterion_utils import TripletLoss, negative_mask
from utils.data_utils import Split, batches, load_split
from utils.dataset.paths import DatasetPaths
from utils.dataset.word_vectors import load_embeddings
from utils.evaluation_utils import evaluate, score_split
from utils.metric_utils import right_pairs
from utils.model_utils import build_state, train_epoch, train_step
from utils.trial.score_files import load_scores

STRATEGY = "random-NS"  # of training steps and epochs: the one that gains least
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Size:
    """How much of everything; the defaults are the paper's, --quick shrinks them."""

    root: str = ""  # the preprocessed data set's directory
    rounds: int = 3
    clips: tuple[int, int, int] = (200, 50, 50)  # of the data set, where it is synthesised: training, validation, ...
    clip_seconds: float = 8.0
    batch: int = 32
    frames: int = 606
    words: int = 13
    long_frames: int = 1500
    scored_clips: int = 1045  # with five captions each, as everywhere
    scored_frames: tuple[int, int] = CLIP_FRAMES
    sampled: tuple[int, int] = (8, 1000)  # clips and captions of those on which the published scoring is timed
    ranked_clips: tuple[int, int] = (1045, 3839)
    matrix: int = 2048  # rows of the products that measure the machine's peak


QUICK = Size(
    rounds=1,
    clips=(4, 2, 2),
    clip_seconds=0.5,
    batch=4,
    frames=24,
    words=5,
    long_frames=40,
    scored_clips=6,
    scored_frames=(20, 30),
    sampled=(2, 5),
    ranked_clips=(20, 30),
    matrix=128,
)


@dataclass(frozen=True)
class Row:
    """A line of the table. Its target is the least ratio, or the most of a unit (s, GB, %) that ours may be."""

    what: str
    theirs: float | None
    ours: float
    target: float
    ratio: float | None = None  # where it is the target
    unit: str = "s"

    def __str__(self) -> str:
        met = self.ours <= self.target if self.ratio is None else self.ratio >= self.target
        target = f"<= {self.target:g} {self.unit}" if self.ratio is None else f">= {self.target:g}x"
        ratio = self.ratio or (self.theirs / self.ours if self.theirs else None)
        shown = "" if ratio is None else f"{ratio:.3g}x"
        theirs = "" if self.theirs is None else _amount(self.theirs, self.unit)
        cells = (f"{self.what:72}", f"{theirs:>9}", f"{_amount(self.ours, self.unit):>9}", f"{shown:>6}")
        return f"| {' | '.join(cells)} | {target:>9}, {'met' if met else 'missed':6} |"


HEADER = f"""| {"what":72} | {"theirs":>9} | {"ours":>9} | {"ratio":>6} | {"target":17} |
| {"-" * 72} | {"-" * 8}: | {"-" * 8}: | {"-" * 5}: | {"-" * 17} |"""


def _amount(value: float, unit: str) -> str:
    if unit == "s" and value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


def faster(what: str, theirs: list[float], ours: list[float], target: float) -> Row:
    """The row of a speed-up, from the seconds of each round."""
    return Row(what, statistics.median(theirs), statistics.median(ours), target, median_ratio(theirs, ours))


# --- the measurements: each runs in a process of its own and yields rows ---------------------------------


def log_mels(size: Size) -> Iterator[Row]:
    """The whole data set, in a scratch directory with copies of its clips; neither side's interpreter start counts."""
    source = DatasetPaths(size.root)
    clips = {split: info["clips"] for split, info in read_json(source.audio_info, INDEXING).items()}
    with TemporaryDirectory() as folder:
        target = DatasetPaths(folder)
        target.audio_info.write_bytes(source.audio_info.read_bytes())
        record_as_made(dataset_conf(folder), CLEANING, INDEXING)
        for split in clips:
            shutil.copytree(source.audio(split), target.audio(split))

        def theirs() -> None:
            for split, by_fid in clips.items():
                files = {fid: source.audio(split) / clip["file_name"] for fid, clip in by_fid.items()}
                published.extract_log_mels(files, target.log_mels(split))

        split, by_fid = next(iter(clips.items()))
        first = next(iter(by_fid.values()))["file_name"]
        published.log_mel(source.audio(split) / first)  # warm up: librosa loads lazily
        contenders = [theirs, lambda: extract_log_mels(folder), lambda: extract_log_mels(folder, anew=False)]
        *times, again = alternating(contenders, size.rounds)
        gigabytes = sum(path.stat().st_size for split in clips for path in target.audio(split).iterdir()) / 1e9
    what = f"log-mels of {sum(map(len, clips.values()))} clips"
    yield faster(f"{what}, wav to HDF5, by {os.cpu_count()} processes against one", *times, target=5)
    yield Row(f"{what}, a second run that finds all done: a GB", None, statistics.median(again) / gigabytes, 1)


def training_step(size: Size) -> Iterator[Row]:
    batch = synthetic_batch(size.batch, size.frames, size.words)
    negatives = negative_mask(batch.clips)
    plain = published.Model(new_model().state_dict())
    plain_optimizer = Adam(plain.audio_enc.parameters())
    states = [new_state(_training_conf(size, f"param_conf.precision={precision}")) for precision in PRECISIONS]
    contenders = [
        lambda: published.training_step(plain, batch, STRATEGY, plain_optimizer),
        *(lambda state=state: train_step(state, batch, negatives) for state in states),
    ]
    alternating(contenders, 1)  # warm up
    theirs, float32, bfloat16 = alternating(contenders, size.rounds)
    yield faster(f"{_step_name(size)}, float32", theirs, float32, target=1.5)
    yield faster(f"{_step_name(size)}, bfloat16", theirs, bfloat16, target=3)


def _training_conf(size: Size, *settings: str) -> Conf:
    return dataset_conf(size.root, f"criteria.TripletLoss.sampling={STRATEGY}", *settings)


def _step_name(size: Size) -> str:
    return f"training step, {size.batch} pairs x {size.frames} frames x {size.words} words"


def audio_losses(size: Size) -> Iterator[Row]:
    """Forward and backward from what either side's encoder hands over: frames theirs, steps ours."""
    for strategy in ("hard-audio-NS", "easy-audio-NS"):
        theirs, ours = _audio_loss(size.batch, size.frames, size.words, strategy)
        alternating([theirs, ours], 1)  # warm up
        times = alternating([theirs, ours], size.rounds)
        yield faster(f"loss of {strategy}, {size.batch} x {size.frames} frames x {size.words} words", *times, target=10)


def _audio_loss(pairs: int, frames: int, words: int, strategy: str) -> tuple:
    """Two functions that compute the loss and its gradients, the published code's and ours."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(pairs, frames // 4, DIM, generator=generator).requires_grad_()
    text = F.normalize(torch.randn(pairs, words, DIM, generator=generator), dim=-1)
    audio = F.normalize(upsample(steps.detach(), frames), dim=-1).requires_grad_()
    clips, criterion = torch.arange(pairs), TripletLoss(0.5, strategy)
    return (
        lambda: published.triplet_loss(audio, text, clips, strategy).backward(),
        lambda: criterion(batch_scores(steps, frames, text), negative_mask(clips)).loss.backward(),
    )


def loss_memory(size: Size) -> Iterator[Row]:
    theirs, ours = (isolated(_loss_memory, size, side) for side in (0, 1))
    what = f"loss of hard-audio-NS, {size.batch} x {size.long_frames} frames: memory beyond the model's"
    yield Row(what, theirs, ours, 1, unit="GB")


def _loss_memory(size: Size, side: int) -> float:
    loss = _audio_loss(size.batch, size.long_frames, size.words, "hard-audio-NS")[side]
    before = peak_memory()
    loss()
    return peak_memory() - before


def epoch(size: Size) -> Iterator[Row]:
    """Training and evaluation; theirs goes over three splits twice, ours over the validation split once."""
    splits, vectors, _ = _splits(size)
    train, val = splits[:2]
    state = build_state(_training_conf(size), vectors, CPU)
    plain = published.Model(state.model.state_dict())
    plain_optimizer = Adam(plain.audio_enc.parameters())

    def ours(precision: str) -> None:
        state.precision = precision
        train_epoch(state, batches(train, size.batch, shuffle=True))
        evaluate(state, val, {"triplet_loss": state.criterion}, size.batch)

    contenders = [
        lambda: published.epoch(plain, splits, STRATEGY, size.batch, plain_optimizer),
        *(lambda precision=precision: ours(precision) for precision in PRECISIONS),
    ]
    theirs, float32, bfloat16 = alternating(contenders, max(1, size.rounds // 3))  # minutes long: fewer will do
    what = f"epoch with its evaluation, {len(train.captions)} training pairs"
    yield faster(f"{what}, float32", theirs, float32, target=4)
    yield faster(f"{what}, bfloat16", theirs, bfloat16, target=6)


def _splits(size: Size) -> tuple[list[Split], np.ndarray, str]:
    """The data set's three splits, its word vectors (V, E), and what was said about where the first's log-mels are."""
    conf, paths = dataset_conf(size.root), DatasetPaths(size.root)
    words, vectors = load_embeddings(paths.word_embeds, DIM)
    with redirect_stdout(io.StringIO()) as said:
        splits = [load_split(paths, split, words, conf.audio_logmel.n_mels) for split in conf.data_conf.splits]
    return splits, vectors, said.getvalue().splitlines()[0]


def scoring(size: Size) -> Iterator[Row]:
    """Ours in full; theirs on a sample of clips and captions, times their number."""
    memory = isolated(_scoring_memory, size)  # first: a forked process counts what its parent holds
    split, model, encoded = synthetic_split(size.scored_clips, size.scored_frames), new_model(), encoded_model()
    plain = published.Model(model.state_dict())
    sampled_clips, captions = split.log_mels[: size.sampled[0]], split.captions[: size.sampled[1]]
    pairs, pairs_sampled = len(split.log_mels) * len(split.captions), len(sampled_clips) * len(captions)
    theirs, theirs_scoring, ours, ours_scoring = [], [], [], []
    for scorer in (model, plain, encoded):
        scorer.train(False)
    for _ in range(max(1, size.rounds // 3)):
        keep_freed_memory()
        ours.append(seconds(lambda: score_split(model, split)))
        ours_scoring.append(seconds(lambda: score_split(encoded, split)))
        keep_freed_memory(False)
        encoding, scoring = _published_scoring(plain, sampled_clips, captions)
        theirs_scoring.append(scoring / pairs_sampled * pairs)
        theirs.append(encoding / len(sampled_clips) * len(split.log_mels) + theirs_scoring[-1])
    what = f"scoring {len(split.log_mels)} x {len(split.captions)}"
    sample = f"(theirs extrapolated from {pairs_sampled} pairs)"
    yield faster(f"{what}, with encoding {sample}", theirs, ours, target=40)
    yield faster(f"{what}, after encoding {sample}", theirs_scoring, ours_scoring, target=400)
    yield Row(f"{what}: peak memory", None, memory, 2, unit="GB")


def _scoring_memory(size: Size) -> float:
    model, split = new_model().train(False), synthetic_split(size.scored_clips, size.scored_frames)
    keep_freed_memory()
    score_split(model, split)
    return peak_memory()


def _published_scoring(model: published.Model, log_mels: list[Tensor], captions: list[Tensor]) -> tuple[float, float]:
    """Seconds of the published encoding and of the published scoring, which `published.score_split` puts together."""
    model.audio_branch(log_mels[0][None])  # warm up
    clips = []
    encoding = seconds(lambda: clips.extend(model.audio_branch(log_mel[None])[0] for log_mel in log_mels))
    return encoding, seconds(lambda: [published.score_clip(model, clip, captions) for clip in clips])


def metrics(size: Size) -> Iterator[Row]:
    """Ours from word scores in memory, theirs from the matrix that follows from them."""
    for clips, most_seconds in zip(size.ranked_clips, (1, 5), strict=True):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "scores.hdf5"
            isolated(write_random_word_scores, path, clips)
            theirs, ours, memory = isolated(_metrics, path, size.rounds)
        what = f"metrics of {clips} x {5 * clips} by word scores, both directions"
        yield Row(what, statistics.median(theirs), statistics.median(ours), most_seconds)
    yield Row(f"{what}: peak memory", None, memory, 1, unit="GB")


def _metrics(path: Path, rounds: int) -> tuple[list[float], list[float], float]:
    """Seconds of theirs and of ours, and the memory that ours peaked at."""
    stored = load_scores(path, epoch=0)
    clips = stored.caption_clips

    def ours() -> None:
        per_query_both_directions(stored.scores, right_pairs(clips))

    ours()
    memory = peak_memory()
    matrix = stored.scores.tile(slice(None), slice(None)).T.numpy()
    return *alternating([lambda: published.both_directions(matrix, clips), ours], max(1, rounds // 3)), memory


def data_loading(size: Size) -> Iterator[Row]:
    """Collating batches of the opened training split, against the float32 steps that they feed."""
    start = time.perf_counter()
    splits, vectors, said = _splits(size)
    opening = time.perf_counter() - start
    state = build_state(_training_conf(size), vectors, CPU)
    loader = batches(splits[0], size.batch, shuffle=True)
    loading = seconds(lambda: list(islice(loader, 2 * size.rounds)))
    fed = list(islice(loader, 2 * size.rounds))
    training = seconds(lambda: [train_step(state, batch, negative_mask(batch.clips)) for batch in fed])
    what = f"data loading, % of a training step; {said.partition(', ')[2]} in {opening:.2g} s"
    yield Row(what, None, 100 * loading / training, 5, unit="%")


# --- the machine -----------------------------------------------------------------------------------------


def matrix_peaks(side: int) -> list[float]:
    """GFLOP/s of the best of ten square matrix products, for each precision."""
    peaks = []
    for precision in PRECISIONS:
        matrix = torch.randn(side, side).to(getattr(torch, precision))
        best = min(seconds(lambda matrix=matrix: matrix @ matrix) for _ in range(10))
        peaks.append(2 * side**3 / best / 1e9)
    return peaks


def print_throughput(size: Size, float32: Row, bfloat16: Row) -> None:
    """The training step's GFLOP/s beside the machine's."""
    peak32, peak16 = isolated(matrix_peaks, size.matrix)
    flops = step_flops(size.batch, size.frames, size.words) / 1e9
    machine = f"{torch.get_num_threads()} threads; peak: square matrix products of {size.matrix} rows"
    print(f"\ntraining step: {flops:.4g} GFLOP, {machine}")
    for name, taken, peak in (
        ("theirs, float32", float32.theirs, peak32),
        ("ours, float32", float32.ours, peak32),
        ("ours, bfloat16", bfloat16.ours, peak16),
    ):
        print(f"  {name:16} {flops / taken:7.1f} GFLOP/s, {flops / taken / peak:6.1%} of the measured peak {peak:.1f}")


MEASUREMENTS = (log_mels, training_step, audio_losses, loss_memory, epoch, scoring, metrics, data_loading)


def rows_of(measurement: Callable[[Size], Iterator[Row]], size: Size) -> list[Row]:
    return list(measurement(size))


def run(size: Size) -> None:
    """Print the table, line by line as it comes, and the throughput."""
    print(HEADER)
    rows: dict[str, list[Row]] = {}
    for measurement in MEASUREMENTS:
        rows[measurement.__name__] = isolated(rows_of, measurement, size)
        print(*rows[measurement.__name__], sep="\n", flush=True)
    print_throughput(size, *rows["training_step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="a preprocessed data set (default: one is synthesised)")
    parser.add_argument("--pairs", type=int, metavar="N", help="rounds (default: 3; long rows: a third)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    args = parser.parse_args()
    one_thread()
    size = QUICK if args.quick else Size()
    size = replace(size, rounds=args.pairs or size.rounds, root=args.data or "")
    if args.data:
        return run(size)
    with TemporaryDirectory() as folder:
        splits = dataset_conf(folder).data_conf.splits
        isolated(write_dataset, folder, dict(zip(splits, size.clips, strict=True)), size.clip_seconds)
        run(replace(size, root=folder))


if __name__ == "__main__":
    main()

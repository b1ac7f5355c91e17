"""Compare the speed of our code and the published code (`published.py`), alternating, one thread a process.

usage: python -m benchmarks.bench [--data DIR] [--pairs N] [--quick]      (what `make bench` runs first)
"""

import io
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim import Adam

from benchmarks import harness, inputs, published
from benchmarks.harness import CPU, GB, alternating, isolated, peak_memory, seconds
from benchmarks.inputs import ROOT, dataset_conf
from models.tensors import upsample
from utils.audio_input import audio_input
from utils.common.io import read_json
from utils.common.memory import keep_freed_memory
from utils.common.steps import CLEANING, INDEXING
from utils.conf.load import load_conf
from utils.conf.schema import Conf
from utils.criterion_utils import TripletLoss, negative_mask
from utils.data_utils import Split, batches, load_split
from utils.dataset.paths import DatasetPaths
from utils.dataset.word_vectors import load_embeddings
from utils.evaluation_utils import evaluate, score_split
from utils.metric_utils import relevant_pairs
from utils.model_utils import build_state, train_epoch, train_step
from utils.retrieval_utils import per_query_both_directions
from utils.score_utils import Batch, Score
from utils.trial.score_files import load_scores

STRATEGY = "random-NS"  # of training steps and epochs; the one with the smallest speed-up
PRECISIONS = ("float32", "bfloat16")
COLUMNS = ("what", "theirs", "ours", "ratio", "target")


@dataclass(frozen=True)
class Size:
    """Sizes of the measurements; the defaults are the paper's."""

    root: str = ""  # the preprocessed data set's directory
    rounds: int = 3
    clips: tuple[int, int, int] = (200, 50, 50)  # of a synthesised data set: training, validation, evaluation
    clip_seconds: float = 8.0
    batch: int = 32
    frames: int = 606
    words: int = 13
    long_frames: int = 1500
    scored_clips: int = 1045  # with five captions each
    scored_frames: tuple[int, int] = inputs.CLIP_FRAMES
    sampled: tuple[int, int] = (8, 1000)  # clips and captions on which the published scoring is timed
    ranked_clips: tuple[int, int] = (1045, 3839)
    encoded_clips: tuple[int, int] = (3839, 1045)  # of Clotho's training and validation splits, as features
    matrix: int = 2048  # rows of the products that measure the machine's peak

    @property
    def long_rounds(self) -> int:
        """Rounds of measurements that take minutes."""
        return max(1, self.rounds // 3)


QUICK = Size(
    rounds=1, clips=(4, 2, 2), clip_seconds=0.5, batch=4, frames=24, words=5, long_frames=40, scored_clips=6,
    scored_frames=(20, 30), sampled=(2, 5), ranked_clips=(20, 30), encoded_clips=(6, 4), matrix=128,
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row of the table: what theirs (empty: not measured) and ours took in each round.

    The ratio is the median of theirs / ours. The target is the lowest ratio, or with a unit the highest value of ours.
    """

    what: str
    theirs: Sequence[float]
    ours: Sequence[float]
    target: float
    unit: str | None = None  # s, GB, %, min

    def cells(self) -> list[str]:
        ours, ratio = statistics.median(self.ours), None
        cells = [self.what, "", harness.amount(ours, self.unit or "s"), ""]
        if self.theirs:
            ratio = statistics.median(a / b for a, b in zip(self.theirs, self.ours, strict=True))
            cells[1], cells[3] = harness.amount(statistics.median(self.theirs), self.unit or "s"), f"{ratio:.3g}x"
        target = f"<= {self.target:g} {self.unit}" if self.unit else f">= {self.target:g}x"
        met = ours <= self.target if self.unit else ratio >= self.target
        return [*cells, f"{target:>9}, {'met' if met else 'missed':6}"]


# --- the measurements: each yields rows, in a child process of its own -----------------------------------


def log_mels(size: Size) -> Iterator[Row]:
    """Log-mels of the whole data set, copied to a scratch directory; the interpreter's start does not count."""
    source = DatasetPaths(size.root)
    files = {
        split: {fid: source.audio(split) / clip["file_name"] for fid, clip in info["clips"].items()}
        for split, info in read_json(source.audio_info, INDEXING).items()
    }
    with TemporaryDirectory() as folder:
        target = DatasetPaths(folder)
        target.audio_info.write_bytes(source.audio_info.read_bytes())
        inputs.record_as_made(dataset_conf(folder), CLEANING, INDEXING)
        for split in files:
            shutil.copytree(source.audio(split), target.audio(split))

        def theirs() -> None:
            for split, by_fid in files.items():
                published.extract_log_mels(by_fid, target.log_mels(split))

        paths = [path for by_fid in files.values() for path in by_fid.values()]
        published.log_mel(paths[0])  # warm up: librosa loads lazily
        ours, again = (partial(inputs.extract_log_mels, folder, anew=anew) for anew in (True, False))
        *times, again = alternating([theirs, ours, again], size.rounds)
    gigabytes = sum(path.stat().st_size for path in paths) / GB
    what = f"log-mels of {len(paths)} clips"
    yield Row(f"{what}, wav to HDF5, by {os.cpu_count()} processes against one", *times, target=5)
    yield Row(f"{what}, a second run that finds all done: a GB", [], [taken / gigabytes for taken in again], 1, "s")


def training_step(size: Size) -> Iterator[Row]:
    batch = inputs.synthetic_batch(size.batch, size.frames, size.words)
    plain, negatives = published.Model(inputs.new_model().state_dict()), negative_mask(batch.clips)
    optimizer = Adam(plain.audio_enc.parameters())
    state = inputs.new_state(training_conf(size))
    state.model.train()

    def ours(precision: str) -> None:
        state.precision = precision
        train_step(state, batch, negatives)

    contenders = [partial(published.training_step, plain, batch, STRATEGY, optimizer)]
    contenders += [partial(ours, precision) for precision in PRECISIONS]
    alternating(contenders, 1)  # warm up
    theirs, *ours_taken = alternating(contenders, size.rounds)
    what = f"training step, {size.batch} pairs x {size.frames} frames x {size.words} words"
    for precision, taken, target in zip(PRECISIONS, ours_taken, (1.5, 3), strict=True):
        yield Row(f"{what}, {precision}", theirs, taken, target)


def training_conf(size: Size) -> Conf:
    return dataset_conf(size.root or "unused", f"criteria.TripletLoss.sampling={STRATEGY}")


def audio_losses(size: Size) -> Iterator[Row]:
    """Loss and gradients from the encoder's outputs: theirs are frames, ours a quarter as many outputs."""
    for strategy in ("hard-audio-NS", "easy-audio-NS"):
        contenders = _audio_losses(size.batch, size.frames, size.words, strategy)
        alternating(contenders, 1)  # warm up
        times = alternating(contenders, size.rounds)
        yield Row(f"loss of {strategy}, {size.batch} x {size.frames} frames x {size.words} words", *times, target=10)


def _audio_losses(pairs: int, frames: int, words: int, strategy: str) -> list[Callable[[], None]]:
    """Two functions that compute the loss and its gradients: theirs and ours."""
    generator = torch.Generator().manual_seed(0)
    encoded = torch.randn(pairs, frames // 4, inputs.DIM, generator=generator).requires_grad_()
    text = F.normalize(torch.randn(pairs, words, inputs.DIM, generator=generator), dim=-1)
    audio = F.normalize(upsample(encoded.detach(), frames), dim=-1).requires_grad_()
    clips, criterion, score = torch.arange(pairs), TripletLoss(0.5, strategy), Score()
    lens, ids = torch.full((pairs,), frames), torch.ones(pairs, words, dtype=torch.int64)
    batch = Batch(torch.empty(pairs, frames, 1), ids, clips, lens, torch.full((pairs,), words))
    return [
        lambda: published.triplet_loss(audio, text, clips, strategy).backward(),
        lambda: criterion(score(encoded, text, batch), negative_mask(clips)).loss.backward(),
    ]


def loss_memory(size: Size) -> Iterator[Row]:
    theirs, ours = ([isolated(_loss_memory, size, side)] for side in (0, 1))
    what = f"loss of hard-audio-NS, {size.batch} x {size.long_frames} frames: memory beyond the model's"
    yield Row(what, theirs, ours, 1, "GB")


def _loss_memory(size: Size, side: int) -> float:
    loss = _audio_losses(size.batch, size.long_frames, size.words, "hard-audio-NS")[side]
    before = peak_memory()
    loss()
    return peak_memory() - before


def epoch(size: Size) -> Iterator[Row]:
    """An epoch: the published code evaluates three splits twice, ours the validation split once."""
    splits, vectors, _ = _splits(size)
    train, val = splits[:2]
    state = build_state(training_conf(size), vectors, CPU)
    plain = published.Model(state.model.state_dict())
    plain_optimizer = Adam(plain.audio_enc.parameters())

    def ours(precision: str) -> None:
        state.precision = precision
        train_epoch(state, batches(train, size.batch, shuffle=True))
        evaluate(state, val, {"triplet_loss": state.criterion}, size.batch)

    contenders = [partial(published.epoch, plain, splits, STRATEGY, size.batch, plain_optimizer)]
    contenders += [partial(ours, precision) for precision in PRECISIONS]
    theirs, *ours_taken = alternating(contenders, size.long_rounds)
    what = f"epoch with its evaluation, {len(train.captions)} training pairs"
    for precision, taken, target in zip(PRECISIONS, ours_taken, (4, 6), strict=True):
        yield Row(f"{what}, {precision}", theirs, taken, target)


def pretrained(size: Size) -> Iterator[Row]:
    """An epoch of conf_pretrained.yaml with its evaluation on two cores, and the 120 epochs that follow from it."""
    for level, most_minutes in (("clip", 10), ("frame", 45)):
        taken, memory = isolated(_pretrained, size, level)
        what = f"epoch on {5 * size.encoded_clips[0]} pairs of 70 x 384, two threads, S at the {level} level"
        yield Row(what, [], [taken], 60 * most_minutes / 120, "s")
        yield Row("120 such epochs, in minutes", [], [120 * taken / 60], most_minutes, "min")
        yield Row("peak memory", [], [memory], 4, "GB")


def _pretrained(size: Size, level: str) -> tuple[float, float]:
    torch.set_num_threads(min(2, os.cpu_count()))
    conf = load_conf(ROOT / "conf_pretrained.yaml", [f"score.level={level}"])
    train, val = (inputs.features_split(clips, 70, 384) for clips in size.encoded_clips)
    vectors = inputs.word_vectors(inputs.VOCABULARY).numpy()
    state = build_state(conf, vectors, CPU, train.captions, train.width)

    def epoch() -> None:
        train_epoch(state, batches(train, conf.param_conf.batch_size, shuffle=True))
        evaluate(state, val, {}, conf.param_conf.batch_size)

    return seconds(epoch), peak_memory()


def _splits(size: Size) -> tuple[list[Split], np.ndarray, str]:
    """The data set's splits, its word vectors (V, E), and the line that says where the first split's log-mels are."""
    conf, paths = dataset_conf(size.root), DatasetPaths(size.root)
    words, vectors = load_embeddings(paths.word_embeds, inputs.DIM)
    with redirect_stdout(io.StringIO()) as printed:
        splits = [load_split(paths, split, words, audio_input(conf)) for split in conf.data_conf.splits]
    return splits, vectors, printed.getvalue().splitlines()[0]


def scoring(size: Size) -> Iterator[Row]:
    """Scores of a split: ours in full, theirs extrapolated from a sample of clips and captions."""
    memory = isolated(_scoring_memory, size)  # first: a forked process counts what its parent holds
    split = inputs.synthetic_split(size.scored_clips, size.scored_frames)
    model, encoded = inputs.new_model().eval(), inputs.encoded_model().eval()
    plain = published.Model(model.state_dict()).eval()
    log_mels, captions = split.audio[: size.sampled[0]], split.captions[: size.sampled[1]]
    pairs, sampled = len(split.audio) * len(split.captions), len(log_mels) * len(captions)
    clips = [plain.audio_branch(log_mel[None])[0] for log_mel in log_mels]  # warms up as well
    theirs, theirs_scoring, ours, ours_scoring = [], [], [], []
    for _ in range(size.long_rounds):
        keep_freed_memory()
        ours.append(seconds(lambda: score_split(model, split)))
        ours_scoring.append(seconds(lambda: score_split(encoded, split)))
        keep_freed_memory(False)  # the two parts of `published.score_split`:
        encoding = seconds(lambda: [plain.audio_branch(log_mel[None]) for log_mel in log_mels])
        scoring = seconds(lambda: [published.score_clip(plain, clip, captions) for clip in clips])
        theirs_scoring.append(scoring / sampled * pairs)
        theirs.append(encoding / len(log_mels) * len(split.audio) + theirs_scoring[-1])
    what = f"scoring {len(split.audio)} x {len(split.captions)}"
    sample = f"(theirs extrapolated from {sampled} pairs)"
    yield Row(f"{what}, with encoding {sample}", theirs, ours, 40)
    yield Row(f"{what}, after encoding {sample}", theirs_scoring, ours_scoring, 400)
    yield Row(f"{what}: peak memory", [], [memory], 2, "GB")


def _scoring_memory(size: Size) -> float:
    model, split = inputs.new_model().eval(), inputs.synthetic_split(size.scored_clips, size.scored_frames)
    keep_freed_memory()
    score_split(model, split)
    return peak_memory()


def metrics(size: Size) -> Iterator[Row]:
    """Retrieval metrics: ours from word scores in memory, theirs from the score matrix."""
    for clips, most_seconds in zip(size.ranked_clips, (1, 5), strict=True):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "scores.hdf5"
            isolated(inputs.write_random_word_scores, path, clips)
            theirs, ours, memory = isolated(_metrics, path, size.long_rounds)
        what = f"metrics of {clips} x {5 * clips} by word scores, both directions"
        yield Row(what, theirs, ours, most_seconds, "s")
    yield Row(f"{what}: peak memory", [], [memory], 1, "GB")


def _metrics(path: Path, rounds: int) -> tuple[list[float], list[float], float]:
    """Seconds of theirs and of ours, and our peak memory."""
    stored = load_scores(path, epoch=0)
    clips = stored.caption_clips

    def ours() -> None:
        per_query_both_directions(stored.scores, relevant_pairs(clips))

    ours()
    memory = peak_memory()
    matrix = stored.scores.tile(slice(None), slice(None)).T.numpy()
    return *alternating([lambda: published.both_directions(matrix, clips), ours], rounds), memory


def data_loading(size: Size) -> Iterator[Row]:
    """The time to collate batches of the training split, as a share of float32 training steps on them."""
    start = time.perf_counter()
    splits, vectors, opened = _splits(size)
    opening = time.perf_counter() - start
    state = build_state(training_conf(size), vectors, CPU)
    loader = batches(splits[0], size.batch, shuffle=True)
    loading = seconds(lambda: list(islice(loader, 2 * size.rounds)))
    loaded = list(islice(loader, 2 * size.rounds))
    training = seconds(lambda: [train_step(state, batch, negative_mask(batch.clips)) for batch in loaded])
    what = f"data loading, % of a training step; {opened.partition(', ')[2]} in {opening:.2g} s"
    yield Row(what, [], [100 * loading / training], 5, "%")


# --- the command -----------------------------------------------------------------------------------------


def print_throughput(size: Size, float32: Row, bfloat16: Row) -> None:
    """Print GFLOP/s of the training step beside the machine's peak: square matrix products in the same precision."""
    peak32, peak16 = (isolated(harness.product_rate, size.matrix, getattr(torch, each)) / 1e9 for each in PRECISIONS)
    flops = inputs.step_flops(size.batch, size.frames, size.words) / 1e9
    machine = f"{torch.get_num_threads()} threads; peak: square matrix products of {size.matrix} rows"
    print(f"\ntraining step: {flops:.4g} GFLOP, {machine}")
    for name, taken, peak in (
        ("theirs, float32", float32.theirs, peak32),
        ("ours, float32", float32.ours, peak32),
        ("ours, bfloat16", bfloat16.ours, peak16),
    ):
        rate = flops / statistics.median(taken)
        print(f"  {name:16} {rate:7.1f} GFLOP/s, {rate / peak:6.1%} of the measured peak {peak:.1f}")


MEASUREMENTS = (log_mels, training_step, audio_losses, loss_memory, epoch, pretrained, scoring, metrics, data_loading)


def rows_of(measurement: Callable[[Size], Iterator[Row]], size: Size) -> list[Row]:
    return list(measurement(size))


def run(size: Size) -> None:
    """Print the table row by row, then the throughput."""
    table, rows = harness.Table(COLUMNS, first=72, width=9), {}
    for measurement in MEASUREMENTS:
        rows[measurement] = isolated(rows_of, measurement, size)
        for row in rows[measurement]:
            table.row(*row.cells())
    print_throughput(size, *rows[training_step])


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--data", metavar="DIR", help="a preprocessed data set (default: a synthesised one)")
    parser.add_argument("--pairs", type=int, metavar="N", help="rounds (default: 3; long rows: a third)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to check that it runs")
    args = parser.parse_args()
    harness.one_thread()
    size = QUICK if args.quick else Size()
    size = replace(size, rounds=args.pairs or size.rounds, root=args.data or "")
    if args.data:
        return run(size)
    with TemporaryDirectory() as folder:
        splits = dataset_conf(folder).data_conf.splits
        isolated(inputs.write_clotho_like, folder, dict(zip(splits, size.clips, strict=True)), size.clip_seconds)
        run(replace(size, root=folder))


if __name__ == "__main__":
    main()

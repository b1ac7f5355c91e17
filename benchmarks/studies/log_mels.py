"""Measure the steps of log-mels: CPU milliseconds a clip, in one process with one thread, and of plain librosa.

usage: OMP_NUM_THREADS=1 python -m benchmarks.studies.log_mels [--clips 600] [--seconds 8]
"""

import hashlib
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import torch

from benchmarks import published
from benchmarks.harness import Table, arguments, cpu_seconds, isolated
from benchmarks.inputs import ROOT, extract_log_mels, write_clotho_like
from utils.common.chunks import Place, append_part, read_place
from utils.common.hdf5 import write_dataset
from utils.common.memory import keep_freed_memory
from utils.common.steps import LOG_MELS
from utils.dataset.audio import mono_blocks, open_audio, resampled
from utils.dataset.log_mel import log_mel_spectrogram

REST = "settings, checks, processes, record"
WHOLE = "the whole command, beside its start"
PLAIN = "plain librosa"
RESAMPLED = 32000  # Hz; by default audio_logmel.sample_rate resamples nothing
RESAMPLING = f"(resample to {RESAMPLED} Hz)"


class Clock:
    """CPU seconds of each step, clip by clip."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = defaultdict(list)

    def __call__(self, step: str, function: Callable, *args: Any) -> Any:
        start = time.process_time()
        result = function(*args)
        self.taken[step].append(time.process_time() - start)
        return result


def profile(root: str) -> dict[str, float]:
    """Mean CPU seconds a clip of the worker's and the writer's steps, of the rest, and of plain librosa."""
    files = sorted(Path(root).glob("*/*.wav"))
    torch.set_num_threads(1)
    keep_freed_memory()  # as the workers do
    with TemporaryDirectory() as folder:
        _steps(files[:3], Path(folder))  # warm up
        means = {step: statistics.mean(taken) for step, taken in _steps(files, Path(folder)).items()}
    isolated(extract_log_mels, root)  # keeps the sounds' digests, as step 2 does
    whole = isolated(cpu_seconds, extract_log_mels, root) / len(files)
    plain = means.pop(PLAIN)
    return {**means, REST: whole - sum(means.values()) + means[RESAMPLING], WHOLE: whole, PLAIN: plain}


def _steps(files: list[Path], folder: Path) -> dict[str, list[float]]:
    clock = Clock()
    with (folder / "x.part").open("wb", buffering=0) as part:
        places = [_worker(clock, path, part) for path in files]
    with h5py.File(folder / "x.hdf5", "w") as store:
        for path, place in zip(files, places, strict=True):
            clock("write HDF5", _write, store, path, place)
    for path in files:
        clock(PLAIN, published.log_mel, path)
    return clock.taken


def _worker(clock: Clock, path: Path, part: FileIO) -> Place:
    content = clock("read", path.read_bytes)
    clock("digest", lambda: hashlib.sha256(content).hexdigest())
    samples, sample_rate = clock("decode", _decoded, path, content)
    log_mel = clock("transform", log_mel_spectrogram, samples, sample_rate)
    clock(RESAMPLING, lambda: list(resampled([samples], sample_rate, RESAMPLED)))
    return clock("keep", append_part, part, path.name, log_mel)


def _decoded(path: Path, content: bytes) -> tuple[np.ndarray, int]:
    with open_audio(path, content) as stream:
        (samples,) = mono_blocks(path, stream)
        return samples, stream.samplerate


def _write(store: h5py.File, path: Path, place: Place) -> None:
    write_dataset(store, f"{path.parent.name} {path.name}", read_place(place), "audio_sha256", 64 * "0")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--clips", type=int, default=600, metavar="N", help="in three splits (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=8, metavar="S", help="mean of a clip (default: %(default)s)")
    args = parser.parse_args()
    others = args.clips // 6
    splits = {"development": args.clips - 2 * others, "validation": others, "evaluation": others}
    with TemporaryDirectory() as folder:
        isolated(write_clotho_like, folder, splits, args.seconds)
        means = isolated(profile, folder)
    table = Table(["step", "ms a clip", "share"], first=38)
    for step, mean in means.items():
        table.row(step, f"{1000 * mean:.2f}", "" if step in (RESAMPLING, PLAIN) else f"{mean / means[WHOLE]:.0%}")
    start = cpu_seconds(subprocess.check_output, [sys.executable, ROOT / LOG_MELS, "--help"])
    print(f"\nthe command's start (Python and imports): {start:.1f} s of CPU time")


if __name__ == "__main__":
    main()

"""Measure how long a search takes, by the number of clips (five captions each); print a Markdown table.

usage: python -m benchmarks.search [--clips C ...]      (what `make bench` runs third)

The system's cache is dropped first: the queries read the scores of their words from the disk.
"""

import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.harness import GB, Table, amount, arguments, isolated, peak_memory, seconds
from benchmarks.inputs import VOCABULARY, write_trial
from utils.search.clip_search import ClipSearch

CLIPS = (1045, 100_000)
ROUNDS, QUERY_WORDS = 22, 12
COLUMNS = ("clips", "stored", "loading", "by text", "slowest", "peak", "captions", "by audio", "peak")


def search(trial: Path, sound: Path) -> list[str]:
    """Time queries by text and by a sound of 20 s. Returns the table's cells.

    By text: size of the word scores, the first query, which loads them, median and slowest of the others, and
    peak memory. By sound: the first query, the median of the others, and peak memory.
    """
    (stored,) = trial.glob("*_word_scores.hdf5")
    with stored.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    rng = np.random.default_rng(1)
    queries = [" ".join(f"word{i}" for i in rng.integers(1, VOCABULARY, QUERY_WORDS)) for _ in range(ROUNDS)]
    start = time.perf_counter()
    opened = ClipSearch.open(trial)
    opened.by_text(queries[0])
    loading = time.perf_counter() - start
    by_text = [seconds(lambda query=query: opened.by_text(query)) for query in queries[1:]]
    cells = [amount(stored.stat().st_size / GB, "GB")]
    cells += [*map(amount, (loading, statistics.median(by_text), max(by_text))), amount(peak_memory(), "GB")]
    captions = seconds(lambda: opened.by_audio(sound))
    by_audio = statistics.median(seconds(lambda: opened.by_audio(sound)) for _ in range(ROUNDS // 3))
    return [*cells, amount(captions), amount(by_audio), amount(peak_memory(), "GB")]


def main() -> None:
    args = arguments(__doc__, CLIPS).parse_args()
    table = Table(COLUMNS)
    for clips in args.clips:
        with TemporaryDirectory() as folder:
            trial = isolated(write_trial, folder, clips)
            table.row(clips, *isolated(search, trial, Path(folder) / "query.wav"))


if __name__ == "__main__":
    main()

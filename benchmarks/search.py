"""How long a search takes, by the number of clips (five captions each): prints one Markdown table.

usage: python -m benchmarks.search [--clips C ...]      (what `make bench` runs last)

The word scores start outside of the system's cache: each query reads its words' rows from the disk.
"""

import argparse
import os
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.inputs import write_trial
from benchmarks.measure import GB, isolated, peak_memory, seconds
from benchmarks.synthetic import VOCABULARY
from utils.search.clip_search import ClipSearch

CLIPS = (1045, 100_000)
ROUNDS, QUERY_WORDS = 22, 12
COLUMNS = ("stored", "loading", "by text", "slowest", "peak", "captions", "by audio", "peak")


def search(trial: Path, sound: Path) -> list[float]:
    """Seconds of: the first query by text (it loads), the median and slowest of others; the same by a sound of 20 s.

    With the peak memory in GB after either, and before all the size of the stored word scores in GB.
    """
    (stored,) = trial.glob("*_word_scores.hdf5")
    with stored.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    rng = np.random.default_rng(1)
    queries = [" ".join(f"word{i}" for i in rng.integers(1, VOCABULARY, QUERY_WORDS)) for _ in range(ROUNDS)]
    opened: list[ClipSearch] = []
    loading = seconds(lambda: opened.append(ClipSearch.open(trial)) or opened[0].by_text(queries[0]))
    by_text = [seconds(lambda query=query: opened[0].by_text(query)) for query in queries[1:]]
    text_peak = peak_memory()
    captions = seconds(lambda: opened[0].by_audio(sound))
    by_audio = [seconds(lambda: opened[0].by_audio(sound)) for _ in range(ROUNDS // 3)]
    text_times = [loading, statistics.median(by_text), max(by_text), text_peak]
    return [stored.stat().st_size / GB, *text_times, captions, statistics.median(by_audio), peak_memory()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=CLIPS, metavar="C", help="default: %(default)s")
    args = parser.parse_args()
    print(f"| {'clips':>6} | {' | '.join(f'{name:>8}' for name in COLUMNS)} |")
    print(f"| {'-' * 5}: | {' | '.join('-' * 7 + ':' for _ in COLUMNS)} |")
    for clips in args.clips:
        with TemporaryDirectory() as folder:
            trial = isolated(write_trial, folder, clips)
            values = isolated(search, trial, Path(folder) / "query.wav")
        units = ("GB" if name in ("stored", "peak") else "s" for name in COLUMNS)
        cells = [f"{value:.2g} {unit}" for value, unit in zip(values, units, strict=True)]
        print(f"| {clips:>6} | {' | '.join(f'{cell:>8}' for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()

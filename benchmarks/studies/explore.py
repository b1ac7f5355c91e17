"""Time the live page of a split of Clotho's size in Chromium; print a Markdown table.

usage: python -m benchmarks.studies.explore [--clips C ...]      (needs Chromium, and the development requirements)

Scores of 4,400 words are random; each key is timed until the page is laid out.
"""

import shutil
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
from playwright.sync_api import Page, sync_playwright

from benchmarks.harness import Table, arguments, isolated
from benchmarks.inputs import N_MELS, VOCABULARY, dataset_conf, record_as_made, write_trial
from utils.common.errors import UserError, run_command
from utils.common.steps import LOG_MELS
from utils.dataset.paths import DatasetPaths
from utils.explore.page import write_explore
from utils.search.clip_search import ClipSearch
from utils.trial.trial import Trial

CLIPS = (1045,)
QUERIES, TYPED, QUERY_WORDS, TOP = 200, 10, 8, 10
COLUMNS = ("clips", "page", "opening", "a key", "slowest", "a clip", f"first {TOP} as by_text")
KEYS = """queries => queries.flatMap(query => Array.from(query, (_, i) => {
  const start = performance.now();
  input.value = query.slice(0, i + 1);
  input.dispatchEvent(new Event("input"));
  document.body.offsetHeight;
  return performance.now() - start;
}))"""
CLIP = """() => {
  const start = performance.now();
  openClip(0);
  document.body.offsetHeight;
  return performance.now() - start;
}"""
FIRST = "([query, top]) => ranked(partsOf(wordsOf(query))).order.slice(0, top)"


def write_page(root: str, clips: int) -> tuple[Path, list[str], list[list[int]]]:
    """Write a page of a trial with random scores. Returns its path, queries, and their first clips by `by_text`."""
    conf, rng = dataset_conf(root), np.random.default_rng(2)
    split, paths = conf.data_conf.eval_data, DatasetPaths(root)
    trial = Trial(write_trial(root, clips), conf)
    search = ClipSearch(trial, split)
    places = {fid: i for i, fid in enumerate(search.stored.fids)}
    paths.audio(split).mkdir()
    with h5py.File(paths.log_mels(split), "w") as store:
        for fid in places:
            search.path(fid).touch()
            store[fid] = rng.normal(-8, 2, (1000, N_MELS)).astype(np.float32)
    record_as_made(conf, LOG_MELS)
    lengths = rng.integers(1, QUERY_WORDS + 1, QUERIES)
    queries = [" ".join(f"word{i}" for i in rng.integers(1, VOCABULARY, length)) for length in lengths]
    first = [[places[hit.fid] for hit in search.by_text(query, TOP)] for query in queries]
    return write_explore(trial, copy=False), queries, first


def measure(page: Page, path: Path, queries: list[str], first: list[list[int]]) -> list[str]:
    """Time a page. Returns a row's cells."""
    page.goto(path.as_uri())
    opening = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    page.evaluate(KEYS, queries[:1])
    keys = page.evaluate(KEYS, queries[:TYPED])
    same = sum(page.evaluate(FIRST, [query, TOP]) == clips for query, clips in zip(queries, first, strict=True))
    times = [opening, statistics.median(keys), max(keys), page.evaluate(CLIP)]
    return [f"{path.stat().st_size / 1e6:.1f} MB", *(f"{ms:.0f} ms" for ms in times), f"{same} of {QUERIES}"]


def main() -> None:
    args = arguments(__doc__, CLIPS).parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise UserError("no Chromium on this machine; install it")
    table = Table(COLUMNS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for clips in args.clips:
            with TemporaryDirectory() as folder:
                table.row(clips, *measure(browser.new_page(), *isolated(write_page, folder, clips)))
        browser.close()


if __name__ == "__main__":
    run_command(main)

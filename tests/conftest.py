"""Fixtures of all tests: golden arrays, a small random batch, a report, and a browser."""

import json
import shutil

import numpy as np
import pytest
import torch

from tests.helpers import GOLDEN, write_trial
from utils.report.report import write_report
from utils.trial.trial import Trial

DRAWN = ("tests.report.test_browser", "tests.report.test_figures", "tests.report.test_negatives", "tests.test_commands")
LONG = ("test_commands", "test_identity", "test_cuda", "test_survival", "test_benchmarks", "test_processes")


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that `make test` ends with both of its processes at work."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="module", autouse=True)
def cpu_alone(request):
    """Hide GPUs from this process and its children, unless the test file defines `CUDA`."""
    with pytest.MonkeyPatch.context() as patch:
        if not hasattr(request.module, "CUDA"):
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
            patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


class Sketch:
    """Stands for matplotlib's Figure and Axes: takes every call, and draws nothing."""

    def __init__(self, **_):
        pass

    def __getattr__(self, _):
        return self

    def __call__(self, *_, **__):
        return self

    def __getitem__(self, _):
        return self

    def savefig(self, buffer, **_):
        buffer.write("<svg></svg>")

    def get_size_inches(self):
        return 4, 3

    def get_ylim(self):
        return 0, 1


@pytest.fixture(scope="module", autouse=True)
def sketches(request):
    """Leave the figures of reports empty and their batches few, except in tests of them: they take seconds a report."""
    with pytest.MonkeyPatch.context() as patch:
        if not request.module.__name__.startswith(DRAWN):
            for module in ("figures", "alignment"):
                patch.setattr(f"utils.report.{module}.Figure", Sketch)
            patch.setattr("utils.report.negatives.BATCHES", 3)
        yield


@pytest.fixture
def golden():
    """golden("loss") -> the arrays of tests/golden/loss.npz."""
    return lambda name: np.load(GOLDEN / f"{name}.npz", allow_pickle=False)


@pytest.fixture
def make_batch():
    """make_batch(seed) -> audio (N, T, E), text (N, W, E), fids, audio_lens, text_lens; padding is 0, fids repeat."""

    def make(seed: int, n: int = 9, t: int = 7, w: int = 5, e: int = 6):
        generator = torch.Generator().manual_seed(seed)
        audio = torch.nn.functional.normalize(torch.randn(n, t, e, generator=generator), dim=-1)
        text = torch.nn.functional.normalize(torch.randn(n, w, e, generator=generator), dim=-1)
        audio_lens = torch.randint(1, t + 1, (n,), generator=generator)
        text_lens = torch.randint(1, w + 1, (n,), generator=generator)
        text[torch.arange(w) >= text_lens[:, None]] = 0
        fids = torch.randint(0, n - 2, (n,), generator=generator)
        return audio, text, fids, audio_lens, text_lens

    return make


@pytest.fixture(scope="module")  # a module decides what its report draws: see `sketches`
def report(tmp_path_factory):
    """A trial with odd clip names, its configuration and its report's folder. Read-only."""
    trial, conf = write_trial(tmp_path_factory.mktemp("report"))
    made = json.loads((trial / "provenance.json").read_text())
    made["main.py"] |= {"inputs": {"a&b": "1f"}, "runs": [{"torch": "<2>", "clean": True}]}
    (trial / "provenance.json").write_text(json.dumps(made))
    return trial, conf, write_report(Trial(trial, conf)).parent


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser: make test installs it")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        yield browser
        browser.close()

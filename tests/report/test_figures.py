import warnings

import numpy as np

from utils.report.alignment import Alignment, draw, runs
from utils.report.curves import Line, curves
from utils.report.figures import COLOURS
from utils.report.histograms import gap_histogram, score_histogram


def test_figures_follow_the_readers_colours_and_have_alternative_texts():
    picture = curves("Loss", [Line("loss", [0, 1, 2], [3.0, 1.0, 2.0])], best_epoch=1)
    assert not [colour for colour in COLOURS if f": {colour}" in picture.svg] and "var(--1d2329)" in picture.svg
    assert "prefers-color-scheme:dark" in picture.svg and "best epoch: 1" in picture.svg
    assert picture.alt == (
        "Loss by epoch. loss: 3 at epoch 0, 2 at epoch 2, lowest 1 at epoch 1, highest 3 at epoch 0."
    )


def align(frames, word, weights=None):
    """An alignment of one word, silent and without similarity."""
    weights = np.full((frames, 1), 1 / frames) if weights is None else weights
    return Alignment(np.full((frames, 64), -36.0), np.zeros((frames, 1)), weights, [word], "max", 0.02, 0.02)


def test_figures_of_broken_runs_can_be_drawn():
    nothing = curves("Loss", [Line("loss", (), ())], log=True, best_epoch=0)
    zeros = curves("Spread", [Line("spread", [0, 1], [0.01, 0.0])], log=True)
    equal = score_histogram("Scores", np.full(5, 0.2), np.full(5, 0.2))
    silent = draw(align(1700, "$a_b$"), 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's font lacks the character, the reader's has it
        assert ">雨<" in draw(align(9, "雨", np.arange(9)[:, None] == 8), 1.0).svg
    assert nothing.alt == "Loss by epoch." and "lowest 0 at epoch 1" in zeros.alt and "0.200 to 0.200" in equal.alt
    assert ">$a_b$<" in silent.svg and "34.0 s" in silent.alt


def test_runs_of_marked_frames():
    assert runs(np.array([1, 1, 0, 1, 0, 0, 1], bool)).tolist() == [[0, 3, 6], [2, 4, 7]]
    assert runs(np.zeros(3, bool)).shape == (2, 0)


def test_only_frames_with_a_high_weight_are_marked():
    weights = np.array([[0.25, 0.6], [0.25, 0.3], [0.25, 0.1], [0.25, 0.0]])
    assert align(4, "rain", weights).marked.tolist() == [[False, True], [False, True], [False, False], [False, False]]


def test_a_gap_histogram_shows_a_collapse_as_a_spike_and_marks_a_near_margin():
    zeros, gaps = np.zeros(5), np.array([-0.2, 0.1, 0.6])
    spike = gap_histogram("hard-NS", zeros, zeros, 0.5, (0.0, 0.0))
    assert "median 0.000, from 0.000 to 0.000; below 0 for 0 % of picks" in spike.alt and "margin" not in spike.svg
    assert ">margin<" in gap_histogram("random-NS", gaps, zeros, 0.5, (-0.2, 0.6)).svg

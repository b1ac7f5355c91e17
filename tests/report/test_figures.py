import warnings

import numpy as np

from utils.report.figures import COLOURS, Line, _runs, alignment, curves, score_histogram


def test_figures_follow_the_readers_colours_and_say_what_they_show():
    picture = curves("Loss", [Line("loss", [0, 1, 2], [3.0, 1.0, 2.0])], best_epoch=1)
    assert not [colour for colour in COLOURS if f": {colour}" in picture.svg] and "var(--1d2329)" in picture.svg
    assert "prefers-color-scheme:dark" in picture.svg and "best epoch: 1" in picture.svg
    assert picture.alt == (
        "Loss by epoch. loss: 3 at epoch 0, 2 at epoch 2, lowest 1 at epoch 1, highest 3 at epoch 0."
    )


def test_figures_stand_what_a_broken_run_brings():
    nothing = curves("Loss", [Line("loss", (), ())], log=True, best_epoch=0)
    zeros = curves("Spread", [Line("spread", [0, 1], [0.01, 0.0])], log=True)
    equal = score_histogram("Scores", np.full(5, 0.2), np.full(5, 0.2))
    none, one = np.zeros((1700, 1), bool), np.arange(9)[:, None] == 8
    silent = alignment(np.full((1700, 64), -36.0), np.zeros((1700, 1)), np.zeros(1), none, ["$a_b$"], "mean", 0.02, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the font of matplotlib has no such signs, the reader's has
        assert ">雨<" in alignment(np.zeros((9, 64)), np.ones((9, 1)), np.ones(1), one, ["雨"], "max", 0.02, 1.0).svg
    assert nothing.alt == "Loss by epoch." and "lowest 0 at epoch 1" in zeros.alt and "0.200 to 0.200" in equal.alt
    assert ">$a_b$<" in silent.svg and "34.0 s" in silent.alt


def test_runs_of_marked_frames():
    assert _runs(np.array([1, 1, 0, 1, 0, 0, 1], bool)).tolist() == [[0, 3, 6], [2, 4, 7]]
    assert _runs(np.zeros(3, bool)).shape == (2, 0)

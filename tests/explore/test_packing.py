import numpy as np

from utils.explore.packing import packed


def unpacked(scores):
    """Unpack packed scores (V, C) as the page does; also the steps (V, 1)."""
    low, step, text = packed(scores)
    assert text.isascii() and text.isprintable() and not {"<", " "} & set(text)
    digits = np.array([ord(character) - 33 - (character > "<") for character in text]).reshape(*scores.shape, 3)
    return np.c_[low] + np.c_[step] * (digits @ [93 * 93, 93, 1]), np.c_[step]


def test_packed_scores_are_off_by_half_a_step_at_most():
    rng = np.random.default_rng(0)
    scores = (rng.normal(0, 0.1, (40, 300)) * rng.random((40, 1)) ** 4).clip(0).astype(np.float32)
    scores[3], scores[4] = 0, 0.1  # of no range
    kept, step = unpacked(scores)
    assert (np.abs(kept - scores) <= 0.5 * step + 1e-7 * scores.max()).all() and step.max() < 1e-6
    np.testing.assert_allclose(kept[[3, 4]], scores[[3, 4]], rtol=1e-8)
    assert kept.min() == 0


def test_equal_scores_stay_equal():
    scores = np.random.default_rng(1).random((5, 50), dtype=np.float32)
    scores[:, 9] = scores[:, 2]
    kept, _ = unpacked(scores)
    assert (kept[:, 9] == kept[:, 2]).all() and len(np.unique(kept[0])) == 49


def test_a_split_of_clothos_size_takes_less_than_14_mb():
    low, step, text = packed(np.random.default_rng(2).random((4400, 1045), dtype=np.float32))
    assert len(text) + len(f"{low}{step}") < 14e6

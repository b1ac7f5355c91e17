import numpy as np
import pytest

from utils.report.numbers import choose_queries, rank_shares, signed


def test_rank_shares_add_up_and_chance_is_that_of_shuffled_rankings():
    rng = np.random.default_rng(0)
    relevant = np.array([1, 3, 5, 5])
    draws = np.array([[rng.permutation(60)[:number].min() + 1 for number in relevant] for _ in range(20000)])
    labels, observed, chance = rank_shares(draws.ravel(), np.tile(relevant, 20000), 60)
    assert labels == ["1", "2", "3", "4", "5", "6–10", "11–20", "21–50", "51–60"]
    assert observed.sum() == pytest.approx(1) and chance.sum() == pytest.approx(1)
    assert chance == pytest.approx(observed, abs=0.01)


def test_rank_bins_by_hand():
    labels, observed, chance = rank_shares(np.array([1, 1, 2, 6]), np.ones(4, int), 6)
    assert labels == ["1", "2", "3", "4", "5", "6"] and observed.tolist() == [0.5, 0.25, 0, 0, 0, 0.25]
    assert chance == pytest.approx(np.full(6, 1 / 6))
    assert rank_shares(np.array([1.0]), np.ones(1, int), 1)[0] == ["1"]


def test_chosen_queries_are_of_different_clips():
    first_rank, margin = np.array([1, 1, 1, 2, 3, 9, 9.0]), np.array([0.1, 0.3, 0.2, 0, -0.1, -0.2, -0.3])
    clips = np.array([0, 0, 1, 2, 3, 4, 4])
    assert choose_queries(first_rank, margin, clips, 1) == {"best": [1], "typical": [3], "worst": [6]}
    assert choose_queries(first_rank, margin, clips, 2) == {"best": [1, 2], "typical": [3], "worst": [6, 4]}
    assert choose_queries(np.ones(1), np.zeros(1), np.zeros(1, int), 2) == {"best": [], "typical": [], "worst": [0]}


def test_differences_have_a_sign_and_no_negative_zero():
    assert [signed(value) for value in (0.1236, -0.05, -0.0001, 0.0)] == ["+0.124", "−0.050", "+0.000", "+0.000"]

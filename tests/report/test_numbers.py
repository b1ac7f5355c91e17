import numpy as np
import pytest

from utils.metric_utils import per_query_both_directions, retrieval_metrics
from utils.report.numbers import DRAWS, METRICS, choose_queries, estimates, positives_and_negatives, rank_shares


def collection(clips=12, seed=0):
    """Scores of clips (C, M) with 1 to 5 captions each, and the captions' clips."""
    rng = np.random.default_rng(seed)
    caption_clips = np.repeat(np.arange(clips), rng.integers(1, 6, clips))
    return rng.integers(0, 9, (clips, len(caption_clips))) / 9, caption_clips  # with ties


@pytest.mark.parametrize("direction", ["text_to_audio", "audio_to_text"])
def test_intervals_are_those_of_metrics_recomputed_for_every_draw(direction):
    scores, caption_clips = collection()
    if direction == "text_to_audio":
        ranked, query_clips, item_clips = scores.T, caption_clips, np.arange(12)
    else:
        ranked, query_clips, item_clips = scores, np.arange(12), caption_clips
    values = per_query_both_directions(scores, caption_clips)[direction]
    found = estimates(values, query_clips, 12, seed=3)
    relevance = query_clips[:, None] == item_clips[None, :]
    point = retrieval_metrics(ranked, relevance)
    recomputed = {name: [] for name in METRICS}
    for times in np.random.default_rng(3).multinomial(12, [1 / 12] * 12, size=DRAWS):
        queries = [q for clip in range(12) for _ in range(times[clip]) for q in np.flatnonzero(query_clips == clip)]
        metrics = retrieval_metrics(ranked[queries], relevance[queries])
        for name in METRICS:
            recomputed[name].append(metrics[name])
    for name in METRICS:
        assert found[name].value == point[name]
        expected = np.percentile(recomputed[name], [2.5, 97.5])
        assert (found[name].low, found[name].high) == pytest.approx(expected, abs=1e-9), name


def test_an_interval_of_one_clip_is_its_value():
    values = per_query_both_directions(np.array([[0.5, 0.2]]), np.array([0, 0]))["text_to_audio"]
    assert set(estimates(values, np.array([0, 0]), 1)["mAP"]) == {1.0}


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


def test_positives_and_negatives_by_loops():
    scores, caption_clips = collection()
    relevance = np.arange(12)[:, None] == caption_clips
    positive, negative = positives_and_negatives(scores, relevance)
    for query in range(12):
        assert positive[query] == max(s for s, right in zip(scores[query], relevance[query], strict=True) if right)
        assert negative[query] == max(s for s, right in zip(scores[query], relevance[query], strict=True) if not right)
    assert positives_and_negatives(np.array([[0.3]]), np.array([[True]]))[1] == 0


def test_chosen_queries_are_of_different_clips():
    first_rank, margin = np.array([1, 1, 1, 2, 3, 9, 9.0]), np.array([0.1, 0.3, 0.2, 0, -0.1, -0.2, -0.3])
    clips = np.array([0, 0, 1, 2, 3, 4, 4])
    assert choose_queries(first_rank, margin, clips, 1) == {"best": [1], "typical": [3], "worst": [6]}
    assert choose_queries(first_rank, margin, clips, 2) == {"best": [1, 2], "typical": [3], "worst": [6, 4]}
    assert choose_queries(np.ones(1), np.zeros(1), np.zeros(1, int), 2) == {"best": [], "typical": [], "worst": [0]}

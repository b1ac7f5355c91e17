"""Retrieval metrics against the golden values, plain loops over rankings and scikit-learn."""

import json
from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from tests import reference
from tests.helpers import GOLDEN
from utils.metric_utils import both_directions, chance_both_directions, chance_map, relevant_pairs, retrieval_metrics


def random_case(seed, queries=30, items=40, levels=None):
    rng = np.random.default_rng(seed)
    scores = rng.random((queries, items)) if levels is None else rng.integers(0, levels, (queries, items)) / 7
    relevance = rng.random((queries, items)) < rng.uniform(0.02, 0.6, (queries, 1))
    relevance[np.arange(queries), rng.integers(0, items, queries)] = True
    return scores, relevance


def test_golden_metrics(golden):
    arrays = golden("metrics")
    expected = json.loads((GOLDEN / "metrics.json").read_text())
    metrics = both_directions(arrays["scores"], arrays["caption_clip"])
    for direction, values in expected.items():
        for key, value in values.items():
            assert metrics[direction][key] == pytest.approx(value, abs=1e-9), (direction, key)


@pytest.mark.parametrize("seed", range(5))
def test_untied_metrics_are_the_plain_loops_and_scikit_learn(seed):
    scores, relevance = random_case(seed)
    metrics = retrieval_metrics(scores, relevance)
    for key, value in reference.metrics(scores, relevance).items():
        assert metrics[key] == pytest.approx(value, abs=1e-9), key
    sklearn = np.mean([average_precision_score(r, s) for r, s in zip(relevance, scores, strict=True)])
    assert metrics["mAP"] == pytest.approx(sklearn, abs=1e-9)
    assert metrics["queries"] == 30 and metrics["tied_queries"] == 0


def test_ties_get_the_mean_over_random_tie_breaks():
    scores, relevance = random_case(2, queries=4, items=23, levels=2)  # tie groups across the tenth rank
    rng = np.random.default_rng(0)
    draws = [reference.metrics(scores + rng.random(scores.shape) * 1e-6, relevance) for _ in range(1000)]
    metrics = retrieval_metrics(scores, relevance)
    for key in ("mAP", "mAP10", "mAP16", "R1", "R5", "R10", "HR1", "HR5", "HR10"):
        values = np.array([draw[key] for draw in draws])
        assert abs(metrics[key] - values.mean()) < 5 * values.std() / np.sqrt(1000) + 1e-9, key


@pytest.mark.parametrize("levels", [None, 3])
def test_additional_relevant_pairs_count_in_both_directions(levels):
    """2.8 right clips a caption; a pair that is right anyhow, or stands twice, changes nothing."""
    clips, captions, rng = 20, 60, np.random.default_rng(0)
    scores = rng.random((clips, captions)) if levels is None else rng.integers(0, levels, (clips, captions)) / 7
    caption_clips = np.repeat(np.arange(clips), 3)
    extra_relevant = np.stack([rng.integers(0, clips, 120), np.arange(120) % captions], axis=1)
    extra_relevant = np.concatenate([extra_relevant, extra_relevant[:5], [[4, 12]]])
    right = {*enumerate(caption_clips.tolist())} | {(caption, clip) for clip, caption in extra_relevant.tolist()}
    relevance = np.array([[(caption, clip) in right for caption in range(captions)] for clip in range(clips)])
    metrics = both_directions(scores, caption_clips, extra_relevant)
    assert metrics["text_to_audio"] == retrieval_metrics(scores.T, relevance.T)
    assert metrics["audio_to_text"] == retrieval_metrics(scores, relevance)
    if levels is None:
        sides = {"text_to_audio": (scores.T, relevance.T), "audio_to_text": (scores, relevance)}
        for direction, (ranked, wanted) in sides.items():
            for key, value in reference.metrics(ranked, wanted).items():
                assert metrics[direction][key] == pytest.approx(value, abs=1e-9), key
            sklearn = np.mean([average_precision_score(*query) for query in zip(wanted, ranked, strict=True)])
            assert metrics[direction]["mAP"] == pytest.approx(sklearn, abs=1e-9)
    equal = both_directions(np.zeros((clips, captions)), caption_clips, extra_relevant)
    chance = chance_both_directions(relevant_pairs(caption_clips, extra_relevant), clips, captions)
    assert chance == pytest.approx({direction: values["mAP"] for direction, values in equal.items()})
    assert both_directions(scores, caption_clips, extra_relevant[:0]) == both_directions(scores, caption_clips)


@pytest.mark.parametrize(("relevant", "items"), [(1, 1), (1, 6), (2, 6), (5, 6), (6, 6)])
def test_chance_is_the_mean_over_all_rankings(relevant, items):
    """Which ranks the relevant items have is all that counts, and all choices of ranks are equally likely."""
    rankings = combinations(range(1, items + 1), relevant)
    precisions = [np.mean([k / rank for k, rank in enumerate(ranks, start=1)]) for ranks in rankings]
    assert chance_map(np.array([relevant]), items) == pytest.approx(np.mean(precisions))


@pytest.mark.parametrize(
    ("scores", "relevance", "message"),
    [
        (np.array([[0.1, np.nan]]), np.array([[True, False]]), "NaN"),
        (np.zeros((2, 3)), np.array([[True, False, False], [False, False, False]]), "query 1 has no relevant"),
        (np.zeros((0, 3)), np.zeros((0, 3), bool), "nothing to rank"),
        (np.zeros((2, 3)), np.zeros((3, 2), bool), "shape"),
    ],
)
def test_bad_input_is_refused(scores, relevance, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(scores, relevance)

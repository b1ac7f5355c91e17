import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from tests.conftest import GOLDEN
from utils.metric_utils import both_directions, retrieval_metrics


def plain_metrics(scores, relevance):
    """Metrics of untied scores by loops over the ranking."""
    per_query = {key: [] for key in ("mAP", "mAP10", "R1", "R5", "R10", "HR1", "HR5", "HR10", "MedR")}
    for row, relevant in zip(scores, relevance, strict=True):
        hits = relevant[np.argsort(-row, kind="stable")]
        ranks = np.flatnonzero(hits) + 1
        precisions = np.arange(1, len(ranks) + 1) / ranks
        per_query["mAP"].append(precisions.mean())
        per_query["mAP10"].append(precisions[ranks <= 10].sum() / min(len(ranks), 10))
        for k in (1, 5, 10):
            per_query[f"R{k}"].append((ranks <= k).mean())
            per_query[f"HR{k}"].append(float((ranks <= k).any()))
        per_query["MedR"].append(ranks[0])
    return {key: float(np.median(v) if key == "MedR" else np.mean(v)) for key, v in per_query.items()}


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
    for key, value in plain_metrics(scores, relevance).items():
        assert metrics[key] == pytest.approx(value, abs=1e-9), key
    sklearn = np.mean([average_precision_score(r, s) for r, s in zip(relevance, scores, strict=True)])
    assert metrics["mAP"] == pytest.approx(sklearn, abs=1e-9)
    assert metrics["queries"] == 30 and metrics["tied_queries"] == 0


@pytest.mark.parametrize("levels", [1, 2, 6])
def test_ties_get_the_mean_over_random_tie_breaks(levels):
    scores, relevance = random_case(levels, queries=4, items=23, levels=levels)
    rng = np.random.default_rng(0)
    draws = [plain_metrics(scores + rng.random(scores.shape) * 1e-6, relevance) for _ in range(4000)]
    metrics = retrieval_metrics(scores, relevance)
    for key in ("mAP", "mAP10", "R1", "R5", "R10", "HR1", "HR5", "HR10"):
        values = np.array([draw[key] for draw in draws])
        assert abs(metrics[key] - values.mean()) < 5 * values.std() / np.sqrt(4000) + 1e-9, key
    assert 1 <= metrics["tied_queries"] <= 4


def test_expected_first_rank_of_tied_scores():
    # 2 relevant among 5 tied items behind 3 better ones: 3 + 6/3
    scores = np.array([[9, 9, 9, 1, 1, 1, 1, 1]], float)
    relevance = np.array([[0, 0, 0, 1, 0, 1, 0, 0]], bool)
    assert retrieval_metrics(scores, relevance)["MedR"] == pytest.approx(5)


def test_collapsed_model_scores_at_chance():
    clips, captions = 40, 200
    metrics = both_directions(np.full((clips, captions), 0.25, np.float32), np.repeat(np.arange(clips), 5))
    text_to_audio, audio_to_text = metrics["text_to_audio"], metrics["audio_to_text"]
    assert text_to_audio["mAP"] == pytest.approx(np.mean(1 / np.arange(1, clips + 1)))
    assert text_to_audio["R10"] == pytest.approx(10 / clips)
    assert audio_to_text["R1"] == pytest.approx(1 / captions)
    assert text_to_audio["tied_queries"] == captions and audio_to_text["tied_queries"] == clips


def test_tied_relevant_items_alone_do_not_count_as_ties():
    metrics = retrieval_metrics(np.array([[2.0, 2.0, 1.0]]), np.array([[True, True, False]]))
    assert metrics["tied_queries"] == 0 and metrics["mAP"] == 1


def test_single_item():
    metrics = retrieval_metrics(np.array([[0.3]]), np.array([[True]]))
    assert {metrics[key] for key in ("mAP", "mAP10", "R1", "R10", "HR1", "HR10", "MedR")} == {1.0}


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

"""Scores that are never held, and what is counted of them, against the whole matrix and plain loops."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.metrics import average_precision_score

from tests.helpers import matrix_of
from utils import retrieval_utils
from utils.metric_utils import averages, both_directions, per_query_by_chance, per_query_by_counts, relevant_pairs
from utils.retrieval_utils import CaptionScores, hardest_negatives, rank_counts, spread
from utils.score_utils import caption_word_weights

VOCABULARY = 30
SIZES = [(1, 1), (7, 3), (100, 700), None]  # captions and clips of a tile; None: as they are


def some_scores(clips=12, captions=50, levels=None, seed=0):
    """CaptionScores of words that score any number, or one of few; and the captions' clips, each with one at least."""
    rng = np.random.default_rng(seed)
    by_word = rng.random((VOCABULARY, clips)) if levels is None else rng.integers(0, levels, (VOCABULARY, clips)) / 8
    ids = [rng.integers(1, VOCABULARY, rng.integers(1, 5)) for _ in range(captions)]
    ids[3:6] = [ids[0]] * len(ids[3:6])  # captions of the same words
    weights = caption_word_weights(ids, VOCABULARY)[1]
    caption_clips = rng.permutation(np.r_[np.arange(clips), rng.integers(0, clips, captions - clips)])
    return CaptionScores(weights, torch.from_numpy(by_word.astype(np.float32))), caption_clips


@pytest.fixture(params=SIZES, ids=str, autouse=True)
def tile_size(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(retrieval_utils, "ROWS", request.param[0])
        monkeypatch.setattr(retrieval_utils, "COLUMNS", {"cpu": request.param[1]})


@pytest.mark.parametrize("clips", [1, 12, 520])
def test_a_score_is_the_same_to_the_bit_however_it_is_asked_for(monkeypatch, clips):
    if clips > 100 and retrieval_utils.ROWS == 1:
        pytest.skip("very many tiles")
    scores, caption_clips = some_scores(clips, 620)
    whole = matrix_of(scores)
    assert whole.shape == (clips, 620) and scores.shape == (620, clips)
    for caption in (0, 4, 619):
        words = scores.weights[[caption]].toarray()[0]
        plain = [sum(w * s for w, s in zip(words, column, strict=True)) for column in scores.by_word.T.tolist()]
        np.testing.assert_allclose(whole[:, caption], plain, atol=1e-6)
    seen = np.zeros_like(whole)
    for captions, some, tile in scores.tiles():
        seen[some, captions] += tile.numpy().T
        assert tile.shape[0] <= retrieval_utils.ROWS and tile.shape[1] <= retrieval_utils.COLUMNS["cpu"]
    assert np.array_equal(seen, whole)
    monkeypatch.setattr(retrieval_utils, "PAIRS_AT_ONCE", 100)
    rng = np.random.default_rng(1)
    chosen, with_clips = rng.integers(0, 620, 40), rng.integers(0, clips, (40, 7))
    assert np.array_equal(scores.with_clips(chosen, with_clips).numpy(), whole[with_clips, chosen[:, None]])
    assert np.array_equal(
        scores.with_clips(np.arange(620), caption_clips[:, None])[:, 0].numpy(), whole[caption_clips, np.arange(620)]
    )
    assert scores.with_clips(chosen[:0], with_clips[:0]).shape == (0, 7)


@pytest.mark.parametrize("extra_relevant", [0, 100])
@pytest.mark.parametrize("levels", [None, 1, 2, 9])
@pytest.mark.parametrize(("clips", "captions"), [(1, 1), (12, 50), (550, 600)])
def test_metrics_by_rank_counts_are_those_of_the_whole_matrix_to_the_bit(clips, captions, levels, extra_relevant):
    if clips > 100 and retrieval_utils.ROWS < 100:
        pytest.skip("very many tiles")
    scores, caption_clips = some_scores(clips, captions, levels)
    rng = np.random.default_rng(2)
    more = np.stack([rng.integers(0, size, extra_relevant) for size in (clips, captions)], axis=1)
    pairs, whole = relevant_pairs(caption_clips, more), matrix_of(scores)
    places = rank_counts(scores, pairs).numpy()
    found = {side: averages(v) for side, v in per_query_by_counts(places, pairs, clips, captions).items()}
    assert found == both_directions(whole, caption_clips, more)
    right = np.zeros(whole.shape, bool)
    right[tuple(pairs.T)] = True
    if levels is None and captions == 50:  # captions of the same words tie: scikit-learn ranks clips alone
        precisions = [average_precision_score(*query) for query in zip(right.T, whole.T, strict=True)]
        assert found["text_to_audio"]["mAP"] == pytest.approx(np.mean(precisions), abs=1e-9)


def test_the_hardest_negatives_by_plain_loops():
    scores, caption_clips = some_scores(levels=5)
    extra_relevant = np.array([[0, 7], [3, 7], [3, 9]])
    pairs, whole = relevant_pairs(caption_clips, extra_relevant), matrix_of(scores)
    right = {(clip, caption) for clip, caption in pairs.tolist()}
    of_captions, of_clips = hardest_negatives(scores, pairs)
    for caption, value in enumerate(of_captions):
        assert value == max(whole[clip, caption] for clip in range(12) if (clip, caption) not in right)
    for clip, value in enumerate(of_clips):
        assert value == max(whole[clip, caption] for caption in range(50) if (clip, caption) not in right)
    alone = CaptionScores(csr_array(np.ones((1, 1), np.float32)), torch.full((1, 1), 0.5))
    assert [part.tolist() for part in hardest_negatives(alone, np.zeros((1, 2), int))] == [[0], [0]]


@pytest.mark.parametrize("levels", [None, 1, 4])
def test_the_spread_is_the_standard_deviation_of_all(levels):
    scores, _ = some_scores(levels=levels)
    assert spread(scores).item() == pytest.approx(matrix_of(scores).astype(np.float64).std(), rel=1e-10, abs=1e-12)
    nearly_equal = CaptionScores(scores.weights, 1000 + scores.by_word * 1e-3)
    assert spread(nearly_equal).item() == pytest.approx(matrix_of(nearly_equal).astype(np.float64).std(), rel=1e-6)


def test_nan_scores_have_no_rank_and_no_spread():
    scores, caption_clips = some_scores()
    scores.by_word[:, 2] = torch.nan
    places = rank_counts(scores, relevant_pairs(caption_clips)).numpy()
    assert np.isnan(places[0, caption_clips == 2]).all() and not places[1:, caption_clips == 2].any()
    assert torch.isnan(spread(scores))


def test_chance_is_what_equal_scores_give():
    caption_clips = some_scores()[1]
    extra_relevant = np.array([[0, 7], [3, 7], [3, 9]])
    pairs = relevant_pairs(caption_clips, extra_relevant)
    expected = both_directions(np.zeros((12, 50)), caption_clips, extra_relevant)
    assert {side: averages(v) for side, v in per_query_by_chance(pairs, 12, 50).items()} == expected

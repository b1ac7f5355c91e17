import numpy as np
import pytest

from tests.helpers import per_query, queries_of, some_scores
from utils.metric_utils import retrieval_metrics
from utils.report import bootstrap
from utils.report.bootstrap import BOTH, DRAWS, Estimate, differences, estimates
from utils.report.numbers import METRICS


def sides_of(scores, caption_clips):
    """By direction: scores (Q, I), and the clips of queries and items."""
    clips = np.arange(len(scores))
    return {"text_to_audio": (scores.T, caption_clips, clips), "audio_to_text": (scores, clips, caption_clips)}


def drawn_metrics(side, times):
    """Metrics of a draw, by repeating its queries: all of each clip's, as often as the clip was drawn."""
    ranked, query_clips, item_clips = side
    queries = [q for clip in range(len(times)) for _ in range(times[clip]) for q in np.flatnonzero(query_clips == clip)]
    return retrieval_metrics(ranked[queries], (query_clips[:, None] == item_clips)[queries])


@pytest.mark.parametrize("direction", ["text_to_audio", "audio_to_text"])
def test_intervals_are_those_of_metrics_recomputed_for_every_draw(direction):
    scores, caption_clips = some_scores()
    side = sides_of(scores, caption_clips)[direction]
    found = estimates(per_query(scores, caption_clips)[direction], side[1], 12, seed=3)
    point = drawn_metrics(side, [1] * 12)
    draws = np.random.default_rng(3).multinomial(12, [1 / 12] * 12, size=DRAWS)
    recomputed = [drawn_metrics(side, times) for times in draws]
    for name in METRICS:
        assert found[name].value == point[name]
        expected = np.percentile([metrics[name] for metrics in recomputed], [2.5, 97.5])
        assert (found[name].low, found[name].high) == pytest.approx(expected, abs=1e-9), name


def test_an_interval_of_one_clip_is_its_value():
    values = per_query(np.array([[0.5, 0.2]]), np.array([0, 0]))["text_to_audio"]
    assert set(estimates(values, np.array([0, 0]), 1)["mAP"]) == {1.0}


@pytest.mark.parametrize("seeds", [(1, 1), (3, 2)])
@pytest.mark.parametrize("metric", ["mAP", "R5"])
def test_differences_are_those_of_a_plain_loop_over_draws(monkeypatch, metric, seeds):
    """With ties, clips of 1 to 5 captions, and groups of different numbers of seeds."""
    monkeypatch.setattr(bootstrap, "DRAWS", 150)
    caption_clips = some_scores()[1]
    trials = [np.random.default_rng(seed).integers(0, 9, (12, len(caption_clips))) / 9 for seed in range(sum(seeds))]
    groups = trials[: seeds[0]], trials[seeds[0] :]

    def plain(times):
        """Metrics of each trial by each direction, then the mean over trials, then the difference."""
        gaps = {}
        for side in ("text_to_audio", "audio_to_text"):
            one, other = (
                np.mean([drawn_metrics(sides_of(scores, caption_clips)[side], times)[metric] for scores in group])
                for group in groups
            )
            gaps[side] = one - other
        return gaps | {BOTH: sum(gaps.values()) / 2}

    found = differences(*([queries_of(scores, caption_clips) for scores in group] for group in groups), metric, seed=5)
    draws = np.random.default_rng(5).multinomial(12, [1 / 12] * 12, size=150)
    recomputed, point = [plain(times) for times in draws], plain([1] * 12)
    assert found.keys() == point.keys()
    for side, estimate in found.items():
        expected = np.percentile([gaps[side] for gaps in recomputed], [2.5, 97.5])
        assert estimate == pytest.approx((point[side], *expected), abs=1e-9), side
        assert estimate.low < estimate.value < estimate.high


def trials_of_a_model(rng, seeds, strength, clips=60):
    """Trials that find clips and captions as well as this, some clips more easily, with noise of their own."""
    caption_clips = np.repeat(np.arange(clips), 5)
    right = np.arange(clips)[:, None] == caption_clips
    return [
        queries_of(right * rng.normal(strength, 1, (clips, 1)) + rng.normal(size=right.shape), caption_clips)
        for _ in range(seeds)
    ]


def told_apart(number, seeds):
    """Whether groups of so many seeds, of one model, are told apart in each direction and in both."""
    rng = np.random.default_rng(number)
    found = differences(*(trials_of_a_model(rng, trials, 1.5) for trials in seeds))
    return [not estimate.holds_zero for estimate in found.values()]


def test_equal_groups_are_not_told_apart_in_19_of_20_draws():
    assert sum(told_apart(number, (3, 3))[-1] for number in range(20)) <= 1


def test_equal_groups_are_told_apart_as_often_as_the_level_says():
    """Neither more often than one time in twenty nor less, within three standard errors."""
    shares = np.mean([told_apart(number, (1, 2)) for number in range(1000, 1200)], axis=0)
    assert shares == pytest.approx(np.full(3, 0.05), abs=3 * np.sqrt(0.05 * 0.95 / 200))


def test_different_groups_are_told_apart_and_which_is_better():
    rngs = [np.random.default_rng(number) for number in range(20)]
    found = [differences(trials_of_a_model(rng, 2, 2), trials_of_a_model(rng, 3, 1)) for rng in rngs]
    assert all(estimate.low > 0 for estimates in found for estimate in estimates.values())


def test_a_group_is_no_better_than_itself_or_than_as_many_equals():
    trials = trials_of_a_model(np.random.default_rng(0), 3, 1.5)
    assert set(differences(trials, trials).values()) == {Estimate(0.0, 0.0, 0.0)}
    for estimate in differences(trials[:1] * 3, trials[:1]).values():  # means over seeds round
        assert estimate == pytest.approx((0, 0, 0), abs=1e-12) and estimate.holds_zero


def test_pairs_tell_apart_what_unpaired_intervals_do_not():
    """One model is a little better at every clip: single intervals overlap, but no draw of clips takes that back."""
    trial = trials_of_a_model(np.random.default_rng(1), 1, 1.5)[0]
    better = trial._replace(values={s: {"mAP": values["mAP"] + 0.01} for s, values in trial.values.items()})
    assert all(estimate.low > 0.009 for estimate in differences([better], [trial]).values())


def test_chance_is_the_mean_over_random_rankings():
    scores, caption_clips = some_scores()
    queries = queries_of(scores, caption_clips)
    rng = np.random.default_rng(0)
    draws = [queries_of(rng.random(scores.shape), caption_clips) for _ in range(1000)]
    for side, values in queries.by_chance().values.items():
        for name in ("mAP", "mAP10", "R1", "R5", "R10", "HR1", "HR5", "HR10"):
            expected = np.mean([draw.values[side][name].mean() for draw in draws])
            assert values[name].mean() == pytest.approx(expected, abs=0.015), (side, name)


def test_queries_are_the_same_where_clips_captions_and_pairs_are():
    scores, caption_clips = some_scores()
    one = queries_of(scores, caption_clips)
    assert one.are_those_of(queries_of(scores + 1, caption_clips))
    assert not one.are_those_of(queries_of(scores, caption_clips[::-1]))
    assert not one.are_those_of(one._replace(fids=one.fids[::-1]))
    assert not one.are_those_of(one._replace(tids=one.tids[::-1]))

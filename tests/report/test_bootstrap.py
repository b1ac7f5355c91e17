import numpy as np
import pytest

from tests.helpers import queries_of, some_scores
from utils.metric_utils import retrieval_metrics
from utils.report.bootstrap import BOTH, DRAWS, Estimate, differences, estimates
from utils.report.numbers import METRICS

SIDES = ["text_to_audio", "audio_to_text"]


def drawn_metrics(scores, caption_clips, direction, times):
    """Metrics of one draw: each clip's queries are repeated as often as the draw takes the clip."""
    ranked, query_clips, item_clips = scores, np.arange(len(scores)), caption_clips
    if direction == "text_to_audio":
        ranked, query_clips, item_clips = scores.T, item_clips, query_clips
    queries = [q for clip in range(len(times)) for _ in range(times[clip]) for q in np.flatnonzero(query_clips == clip)]
    return retrieval_metrics(ranked[queries], (query_clips[:, None] == item_clips)[queries])


@pytest.mark.parametrize("direction", SIDES)
def test_intervals_equal_metrics_recomputed_for_every_draw(direction):
    scores, caption_clips = some_scores()
    found = estimates(queries_of(scores, caption_clips), direction)
    draws = np.random.default_rng(0).multinomial(12, [1 / 12] * 12, size=DRAWS)
    recomputed = [drawn_metrics(scores, caption_clips, direction, times) for times in draws]
    point = drawn_metrics(scores, caption_clips, direction, [1] * 12)
    for name in METRICS:
        assert found[name].value == point[name]
        expected = np.percentile([metrics[name] for metrics in recomputed], [2.5, 97.5])
        assert (found[name].low, found[name].high) == pytest.approx(expected, abs=1e-9), name


def test_an_interval_of_one_clip_is_its_value():
    queries = queries_of(np.array([[0.5, 0.2]]), np.array([0, 0]))
    assert set(estimates(queries, "text_to_audio")["mAP"]) == {1.0}


@pytest.mark.parametrize("seeds", [(1, 1), (3, 2)])
def test_differences_equal_a_plain_loop_over_draws(seeds):
    """With ties, clips of 1 to 5 captions, and groups of different numbers of seeds."""
    caption_clips = some_scores()[1]
    trials = [np.random.default_rng(seed).integers(0, 9, (12, len(caption_clips))) / 9 for seed in range(sum(seeds))]
    groups = trials[: seeds[0]], trials[seeds[0] :]

    def gaps_of(times):
        """Differences of the groups' mean mAP, by direction and for both."""
        gaps = {}
        for side in SIDES:
            one, other = (
                np.mean([drawn_metrics(scores, caption_clips, side, times)["mAP"] for scores in group])
                for group in groups
            )
            gaps[side] = one - other
        return gaps | {BOTH: sum(gaps.values()) / 2}

    found = differences(*([queries_of(scores, caption_clips) for scores in group] for group in groups), draws=150)
    draws = np.random.default_rng(0).multinomial(12, [1 / 12] * 12, size=150)
    recomputed, point = [gaps_of(times) for times in draws], gaps_of([1] * 12)
    assert found.keys() == point.keys()
    for side, estimate in found.items():
        expected = np.percentile([gaps[side] for gaps in recomputed], [2.5, 97.5])
        assert estimate == pytest.approx((point[side], *expected), abs=1e-9), side
        assert estimate.low < estimate.value < estimate.high


def trials_of_a_model(rng, seeds, strength, clips=60):
    """Trials with relevant scores of this mean strength, which varies by clip, plus noise."""
    caption_clips = np.repeat(np.arange(clips), 5)
    relevant = np.arange(clips)[:, None] == caption_clips
    return [
        queries_of(relevant * rng.normal(strength, 1, (clips, 1)) + rng.normal(size=relevant.shape), caption_clips)
        for _ in range(seeds)
    ]


@pytest.mark.parametrize(
    ("seeds", "numbers", "tolerance"),
    [((3, 3), range(20), 0.05), ((1, 2), range(1000, 1200), 3 * np.sqrt(0.05 * 0.95 / 200))],  # three standard errors
)
def test_equal_groups_are_told_apart_as_often_as_the_level_says(seeds, numbers, tolerance):
    apart = []
    for number in numbers:
        rng = np.random.default_rng(number)
        found = differences(*(trials_of_a_model(rng, trials, 1.5) for trials in seeds))
        apart.append([not estimate.holds_zero for estimate in found.values()])
    assert np.mean(apart, axis=0)[-1] == pytest.approx(0.05, abs=tolerance)
    assert len(numbers) < 200 or np.mean(apart, axis=0) == pytest.approx(np.full(3, 0.05), abs=tolerance)


def test_a_better_group_is_told_apart():
    rngs = [np.random.default_rng(number) for number in range(20)]
    found = [differences(trials_of_a_model(rng, 2, 2), trials_of_a_model(rng, 3, 1)) for rng in rngs]
    assert all(estimate.low > 0 for estimates in found for estimate in estimates.values())


def test_a_group_equals_itself_and_its_repetition():
    trials = trials_of_a_model(np.random.default_rng(0), 3, 1.5)
    assert set(differences(trials, trials).values()) == {Estimate(0.0, 0.0, 0.0)}
    for estimate in differences(trials[:1] * 3, trials[:1]).values():  # means over seeds round
        assert estimate == pytest.approx((0, 0, 0), abs=1e-12) and estimate.holds_zero


def test_paired_draws_tell_apart_what_single_intervals_do_not():
    """One model is slightly better at every clip: single intervals overlap, but every draw shows the difference."""
    trial = trials_of_a_model(np.random.default_rng(1), 1, 1.5)[0]
    better = trial._replace(values={s: {"mAP": values["mAP"] + 0.01} for s, values in trial.values.items()})
    assert all(estimate.low > 0.009 for estimate in differences([better], [trial]).values())


def test_queries_have_the_same_items_if_clips_and_captions_are_equal():
    scores, caption_clips = some_scores()
    queries = queries_of(scores, caption_clips)
    assert queries.same_items(queries_of(scores + 1, caption_clips))
    assert not queries.same_items(queries_of(scores, caption_clips[::-1]))
    assert not queries.same_items(queries._replace(fids=queries.fids[::-1]))
    assert not queries.same_items(queries._replace(tids=queries.tids[::-1]))

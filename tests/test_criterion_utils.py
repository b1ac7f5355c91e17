"""The losses against the golden values and against plain loops over the definition."""

import math

import numpy as np
import pytest
import torch

from tests import reference
from tests.helpers import embedding_scores
from utils.criterion_utils import InfoNCE, TripletLoss, compares_clips, negative_mask
from utils.sampling_utils import STRATEGIES
from utils.score_utils import BatchScores

DETERMINISTIC = sorted(set(STRATEGIES) - {"random-NS"})


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_calls_the_scores_within_a_modality_that_it_declares(name):
    called, equal = set(), torch.zeros(2, 2)
    scores = BatchScores(equal, lambda: called.add("text") or equal, lambda: called.add("audio") or equal)
    STRATEGIES[name](scores, ~torch.eye(2, dtype=torch.bool), None)
    assert called == {getattr(STRATEGIES[name], "compares", None)} - {None}


def test_two_strategies_compare_clips_with_clips():
    assert {name for name in STRATEGIES if compares_clips(TripletLoss(0.5, name))} == {"easy-audio-NS", "hard-audio-NS"}
    assert not compares_clips(InfoNCE(0.1))


# --- the triplet loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_golden_loss_and_gradient(golden, name):
    arrays = golden("loss")
    audio = torch.from_numpy(arrays["audio_embeds"]).requires_grad_()
    scores = embedding_scores(audio, torch.from_numpy(arrays["text_embeds"]))
    criterion = TripletLoss(float(arrays["margin"]), name)
    loss = criterion(scores, negative_mask(torch.from_numpy(arrays["fid"]))).loss
    loss.backward()
    assert loss.item() == pytest.approx(float(arrays[f"loss/{name}"]), abs=1e-6)
    np.testing.assert_allclose(audio.grad, arrays[f"grad_audio/{name}"], atol=1e-6)


def test_golden_mean_of_random_negatives(golden):
    arrays = golden("loss")
    scores = embedding_scores(torch.from_numpy(arrays["audio_embeds"]), torch.from_numpy(arrays["text_embeds"]))
    negatives, generator = negative_mask(torch.from_numpy(arrays["fid"])), torch.Generator().manual_seed(0)
    criterion = TripletLoss(float(arrays["margin"]), "random-NS")
    draws = np.array([criterion(scores, negatives, generator).loss.item() for _ in range(400)])
    mean, std = float(arrays["loss/random-NS/mean_of_400"]), float(arrays["loss/random-NS/std_of_400"])
    assert abs(draws.mean() - mean) < 5 * std * np.sqrt(2 / 400)
    assert draws.std() == pytest.approx(std, rel=0.25)
    assert abs(draws.mean() - float(arrays["loss/full-batch-NS"])) < 5 * std / np.sqrt(400)


def some_negatives():
    """Nine pairs: two share a clip, and the first has no negatives and is nobody's."""
    negatives = negative_mask(torch.tensor([0, 1, 2, 1, 3, 4, 5, 6, 7]))
    negatives[0] = negatives[:, 0] = False
    return negatives


def random_scores():
    """Scores (9, 9) within 0 and 1."""
    cross, text, audio = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0))
    return BatchScores(cross, lambda: text, lambda: audio)


@pytest.mark.parametrize("name", ["full-batch-NS", "semi-hard-NS", "hard-audio-NS"])
def test_triplet_loss_is_the_mean_over_picked_triplets(name):
    scores, negatives = random_scores(), some_negatives()
    arrays = [part.numpy() for part in (scores.audio_text, scores.text_text(), scores.audio_audio())]
    loss, violated = reference.triplet_loss(name, arrays, negatives, margin=0.1)
    terms = TripletLoss(0.1, name)(scores, negatives)
    assert terms.loss.item() == pytest.approx(loss, abs=1e-6)
    assert terms.active.item() == pytest.approx(violated)


@pytest.mark.parametrize("clips", [[0], [3, 3, 3]])
@pytest.mark.parametrize("criterion", [*(TripletLoss(0.5, name) for name in STRATEGIES), InfoNCE(0.07)])
def test_a_batch_without_negatives_has_the_loss_0_with_zero_gradients(make_batch, criterion, clips):
    audio, text, *_ = make_batch(0)
    audio = audio[: len(clips)].requires_grad_()
    criterion.zero_grad(set_to_none=True)
    terms = criterion(embedding_scores(audio, text[: len(clips)]), negative_mask(torch.tensor(clips)))
    terms.loss.backward()
    assert terms.loss.item() == terms.active.item() == 0
    gradients = [audio.grad, *(weight.grad for weight in criterion.parameters())]
    assert not any(gradient.any() for gradient in gradients)


def test_unknown_strategy_lists_the_eight():
    with pytest.raises(ValueError, match="semi-soft") as error:
        TripletLoss(0.5, "semi-soft")
    assert all(name in str(error.value) for name in STRATEGIES)


# --- InfoNCE ---------------------------------------------------------------------------------------------


def test_info_nce_is_its_definition_and_learns_its_temperature():
    scores, negatives, criterion = random_scores(), some_negatives(), InfoNCE(0.2)
    loss = criterion(scores, negatives).loss
    loss.backward()
    step, plain = 1e-5, scores.audio_text.tolist()
    lower, expected, higher = (reference.info_nce(plain, negatives, 0.2 * math.exp(by)) for by in (-step, 0, step))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert criterion.log_temperature.grad.item() == pytest.approx((higher - lower) / (2 * step), rel=1e-3)


def test_info_nce_counts_the_anchors_that_are_outscored():
    cross = torch.tensor([[0.3, 0.5, 0.0], [0.1, 0.2, 0.0], [0.0, 0.0, 0.4]])
    terms = InfoNCE(0.07)(BatchScores(cross, None, None), negative_mask(torch.arange(3)))
    assert terms.active.item() == pytest.approx(2 / 6)  # the first text anchor and the second audio anchor

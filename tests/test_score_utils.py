"""Scores against the plain double mean, and those from steps against those from frames."""

import numpy as np
import pytest
import torch

from models.audio_encoders import upsample
from tests.helpers import embedding_scores
from utils import score_utils
from utils.score_utils import (
    batch_scores,
    caption_word_weights,
    pair_scores,
    score_matrix,
    self_score_matrix,
    self_step_score_matrix,
    step_score_matrix,
    step_weights,
    word_scores,
)


def plain_score(frames, words):
    """S by its definition: frames and words are lists of vectors."""
    return sum(max(0.0, float(a @ w)) for a in frames for w in words) / (len(frames) * len(words))


@pytest.mark.parametrize("masked", [False, True])
def test_score_matrix_is_the_plain_double_mean(make_batch, masked):
    audio, text, _, audio_lens, text_lens = make_batch(0)
    scores = score_matrix(audio, text, audio_lens if masked else None, text_lens if masked else None)
    for i, j in np.ndindex(*scores.shape):
        frames = audio[i, : audio_lens[i]] if masked else audio[i]
        words = text[j, : text_lens[j]] if masked else text[j]
        assert scores[i, j].item() == pytest.approx(plain_score(frames, words), abs=1e-6)


def test_padded_scores_are_masked_ones_times_the_share_of_true_words(make_batch):
    audio, text, _, _, text_lens = make_batch(1)
    padded, masked = score_matrix(audio, text), score_matrix(audio, text, text_lens=text_lens)
    torch.testing.assert_close(padded, masked * (text_lens / text.shape[1]))


def test_golden_scores(golden):
    loss = golden("loss")
    scores = score_matrix(torch.from_numpy(loss["audio_embeds"]), torch.from_numpy(loss["text_embeds"]))
    np.testing.assert_allclose(scores, loss["score"], atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_self_scores_are_the_score_matrix_of_an_item_with_itself(make_batch, masked):
    audio, _, _, audio_lens, _ = make_batch(2)
    lens = audio_lens if masked else None
    scores = self_score_matrix(audio.requires_grad_(), lens)
    torch.testing.assert_close(scores, score_matrix(audio, audio, lens, lens).detach())
    assert torch.equal(scores, scores.T)
    assert not scores.requires_grad


def test_scores_of_captions_are_a_sparse_product_with_scores_of_words(make_batch):
    audio, _, _, audio_lens, _ = make_batch(3)
    vocabulary = torch.nn.functional.normalize(torch.randn(20, audio.shape[2]), dim=-1)
    captions = [np.array([3, 3, 7]), np.array([19]), np.array([0, 1, 2, 3, 4])]
    words, weights = caption_word_weights(captions)
    assert words.tolist() == [0, 1, 2, 3, 4, 7, 19]
    scores = (weights @ score_matrix(audio, vocabulary[words].unsqueeze(1), audio_lens).numpy().T).T
    for j, words in enumerate(captions):
        expected = score_matrix(audio, vocabulary[words].unsqueeze(0), audio_lens)[:, 0]
        np.testing.assert_allclose(scores[:, j], expected, atol=1e-6)


def test_empty_and_single_inputs():
    one = torch.nn.functional.normalize(torch.randn(1, 1, 4), dim=-1)
    assert score_matrix(one, one).item() == pytest.approx(1.0)
    assert score_matrix(torch.zeros(0, 3, 4), torch.zeros(2, 3, 4)).shape == (0, 2)
    assert self_score_matrix(torch.zeros(0, 3, 4)).shape == (0, 0)
    assert caption_word_weights([])[1].shape == (0, 0)


def test_gradient_reaches_both_sides(make_batch):
    audio, text, _, _, _ = make_batch(4, n=3, t=2, w=2, e=3)
    audio, text = audio.double().requires_grad_(), torch.randn(3, 2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(score_matrix, (audio, text))


def make_frames(steps, frames):
    """What steps stand for, by the library: (N, T, E) normalised."""
    upsampled = torch.nn.functional.interpolate(steps.transpose(1, 2), size=frames, mode="linear", align_corners=False)
    return torch.nn.functional.normalize(upsampled.transpose(1, 2), dim=-1)


@pytest.mark.parametrize(("length", "frames"), [(1, 4), (1, 7), (2, 8), (5, 20), (5, 23), (37, 150)])
def test_upsampling_is_the_librarys(length, frames):
    steps = torch.randn(3, length, 6)
    ours = torch.nn.functional.normalize(upsample(steps, frames), dim=-1)
    torch.testing.assert_close(ours, make_frames(steps, frames))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("length", "frames"), [(1, 6), (2, 8), (5, 20), (5, 23)])
def test_scores_and_gradients_of_steps_are_those_of_their_frames(length, frames, masked):
    generator = torch.Generator().manual_seed(length + frames)
    steps = torch.randn(4, length, 6, generator=generator, dtype=torch.float64).requires_grad_()
    text = torch.randn(3, 5, 6, generator=generator, dtype=torch.float64).requires_grad_()
    lens = (torch.tensor([frames, 3, 1, frames]), torch.tensor([5, 1, 3])) if masked else (None, None)
    weights = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    fast = step_score_matrix(steps, frames, text, *lens)
    plain = score_matrix(make_frames(steps, frames), text, *lens)
    torch.testing.assert_close(fast, plain)
    gradients = [torch.autograd.grad((scores * weights).sum(), (steps, text)) for scores in (fast, plain)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("length", "frames"), [(1, 5), (3, 12), (5, 23)])
def test_self_scores_of_steps_are_those_of_their_frames(length, frames, masked):
    steps = torch.randn(5, length, 6, generator=torch.Generator().manual_seed(0))
    lens = torch.tensor([frames, 1, 2, frames, 4]) if masked else None
    scores = self_step_score_matrix(steps, frames, lens)
    torch.testing.assert_close(scores, self_score_matrix(make_frames(steps, frames), lens))
    assert torch.equal(scores, scores.T)


def test_clips_of_different_lengths_are_scored_in_pairs():
    one, other = torch.randn(1, 3, 6), torch.randn(2, 7, 6)
    scores = pair_scores(one[0], step_weights(one, 14)[0], other, step_weights(other, 29))
    torch.testing.assert_close(scores, score_matrix(make_frames(one, 14), make_frames(other, 29))[0])


@pytest.mark.parametrize("at_once", [1, 40, 100, 1000])
def test_long_clips_are_scored_part_by_part(monkeypatch, at_once):
    one, others = torch.randn(1, 3, 6, dtype=torch.float64), torch.randn(2, 7, 6, dtype=torch.float64)
    words = torch.nn.functional.normalize(torch.randn(5, 6, dtype=torch.float64), dim=-1)
    weights = step_weights(one, 14)[0], step_weights(others, 29)
    pairs, by_word = pair_scores(one[0], weights[0], others, weights[1]), word_scores(one, 14, words)
    torch.testing.assert_close(by_word, score_matrix(make_frames(one, 14), words.unsqueeze(1))[0])
    monkeypatch.setattr(score_utils, "AT_ONCE", at_once)
    sizes = []
    clamp = torch.Tensor.clamp_
    monkeypatch.setattr(torch.Tensor, "clamp_", lambda made, min: (sizes.append(made.numel()), clamp(made, min=min))[1])
    torch.testing.assert_close(pair_scores(one[0], weights[0], others, weights[1]), pairs)
    torch.testing.assert_close(word_scores(one, 14, words), by_word)
    assert max(sizes) <= max(at_once, 2 * 14)  # a frame of each of two clips at the least


def test_opposite_neighbours_do_not_blow_up():
    step = torch.randn(6)
    for ratio in (-0.6, -1.0, -3 / 5, -1.00001):
        steps = torch.stack([step, ratio * step]).unsqueeze(0)
        scores = step_score_matrix(steps, 8, torch.nn.functional.normalize(torch.randn(4, 2, 6), dim=-1))
        assert torch.isfinite(scores).all() and scores.max() <= 1


def test_zero_steps_have_finite_scores_and_gradients():
    steps = torch.zeros(2, 3, 4, requires_grad=True)
    scores = step_score_matrix(steps, 12, torch.randn(2, 2, 4))
    scores.sum().backward()
    assert not scores.any() and torch.isfinite(steps.grad).all()


@pytest.mark.parametrize("masked", [False, True])
def test_scores_of_a_batch_are_those_of_its_embeddings(masked):
    steps = torch.randn(3, 5, 6, requires_grad=True)
    text = torch.nn.functional.normalize(torch.randn(3, 4, 6), dim=-1).requires_grad_()
    lens = (torch.tensor([20, 3, 9]), torch.tensor([1, 4, 2])) if masked else (None, None)
    ours = batch_scores(steps, 20, text, *lens)
    theirs = embedding_scores(make_frames(steps, 20), text, *lens)
    torch.testing.assert_close(ours.audio_text, theirs.audio_text)
    torch.testing.assert_close(ours.text_text(), theirs.text_text())
    torch.testing.assert_close(ours.audio_audio(), theirs.audio_audio())
    assert ours.audio_text.requires_grad and not ours.text_text().requires_grad and not ours.audio_audio().requires_grad

"""Scores against the plain double mean, and those from steps against those from frames."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import TfidfVectorizer
from torch.nn.utils.rnn import pad_sequence

from models.audio_encoders import upsample
from tests.helpers import embedding_scores
from utils import step_score_utils
from utils.score_utils import (
    POOLINGS,
    Score,
    best_frame,
    caption_word_weights,
    inverse_document_frequency,
    mean_over_frames,
    score_matrix,
    self_score_matrix,
    softmax_over_frames,
)
from utils.step_score_utils import (
    batch_scores,
    pair_scores,
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


# --- the choices of pool, words and masks ---------------------------------------------------------------


def plain_pool(values, name, sharpness):
    """What a word scores over similarities with frames, a list of scalars of torch, by its definition."""
    if name == "max":
        return max(values)
    weights = [torch.exp(sharpness * value) if name == "softmax" else 1.0 for value in values]
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def plain_choice(frames, words, name, sharpness, importance, places):
    """S of lists of vectors: a mean over `places` of words, of which those beyond the last score 0."""
    pooled = [plain_pool([(a @ w).clamp(min=0) for a in frames], name, sharpness) for w in words]
    weights = [float(value) * len(words) / float(sum(importance)) for value in importance]
    return sum(weight * value for weight, value in zip(weights, pooled, strict=True)) / places


CHOICES = [
    (frames, words, *masks)
    for frames in POOLINGS
    for words in ("mean", "idf")
    for masks in ((False, False), (True, False), (False, True), (True, True))
]


@pytest.mark.parametrize(("frames", "words", "mask_words", "mask_frames"), CHOICES)
def test_every_choice_is_its_plain_loop_with_its_gradients(frames, words, mask_words, mask_frames):
    generator = torch.Generator().manual_seed(3)
    steps = torch.randn(3, 3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    vectors = F.normalize(torch.randn(9, 4, generator=generator, dtype=torch.float64), dim=-1)
    vectors[0] = 0
    ids, audio_lens, text_lens = torch.tensor([[3, 3, 8, 1], [2, 0, 0, 0]]), torch.tensor([13, 5, 1]), [4, 1]
    score = Score(frames, 7.0, frames == "softmax", words, mask_words, mask_frames, vocabulary=9).double()
    score.count_words([torch.tensor([3, 1]), torch.tensor([3, 3]), torch.tensor([8])])
    inputs = (steps, *score.parameters())
    lens = (audio_lens if mask_frames else None, torch.tensor(text_lens) if mask_words else None)
    made = step_score_matrix(steps, 13, vectors[ids], *lens, score.pool, score.importance(ids))
    embeds = make_frames(steps, 13)
    by_frames = score_matrix(embeds, vectors[ids], *lens, score.pool, score.importance(ids))
    idf = [1.0] * 9 if words == "mean" else [np.log(4 / (1 + count)) + 1 for count in (0, 1, 0, 2, 0, 0, 0, 0, 1)]
    sharpness = score.log_sharpness.exp() if frames == "softmax" else None
    plain = torch.stack(
        [
            plain_choice(
                embeds[i, : audio_lens[i] if mask_frames else 13], vectors[ids[j, : text_lens[j]]], frames, sharpness,
                [idf[word] for word in ids[j, : text_lens[j]]], text_lens[j] if mask_words else 4,
            )
            for i in range(3)
            for j in range(2)
        ]
    ).view(3, 2)  # fmt: skip
    weights = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad((plain * weights).sum(), inputs, retain_graph=True)
    for scores in (made, by_frames):
        torch.testing.assert_close(scores, plain, rtol=1e-6, atol=1e-6)  # idf is float32
        gradients = torch.autograd.grad((scores * weights).sum(), inputs, retain_graph=True)
        for ours, theirs in zip(gradients, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_frames_that_tie_share_the_gradient_of_the_best():
    similarities = torch.tensor([[[0.5], [0.2], [0.5], [0.9]]], requires_grad=True)  # the last beyond the clip's end
    best_frame(similarities, None, torch.tensor([3])).sum().backward()
    assert similarities.grad.flatten().tolist() == [0.5, 0.0, 0.5, 0.0]


def test_sharpness_leads_from_the_mean_to_the_best_frame():
    similarities = torch.rand(2, 30, 3, generator=torch.Generator().manual_seed(0))
    lens = torch.tensor([30, 7])
    torch.testing.assert_close(
        softmax_over_frames(similarities, lens=lens, sharpness=0.0), mean_over_frames(similarities, lens=lens)
    )
    torch.testing.assert_close(
        softmax_over_frames(similarities, lens=lens, sharpness=1e4), best_frame(similarities, lens=lens)
    )


@pytest.mark.parametrize("frames", POOLINGS)
def test_shares_of_frames_add_up_to_a_words_score(frames):
    similarities = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
    similarities[:, 3] = 0.0  # all tie
    score = Score(frames)
    shares = score.frame_shares(similarities)
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(4))
    torch.testing.assert_close((shares * similarities).sum(dim=0), score.pool(similarities.unsqueeze(0))[0])


def test_idf_is_scikit_learns():
    captions = [[1, 2, 2], [2, 3], [2], [5, 1]]
    texts = [" ".join(f"w{word}" for word in caption) for caption in captions]
    theirs = TfidfVectorizer(vocabulary=[f"w{word}" for word in range(6)], token_pattern=r"\w+").fit(texts).idf_
    ours = inverse_document_frequency([torch.tensor(caption) for caption in captions], 6)
    np.testing.assert_allclose(ours[1:], theirs[1:], rtol=1e-6)
    assert ours[0] == 0 and inverse_document_frequency([], 3).tolist() == [0, 1, 1]


def test_captions_weigh_words_by_importance_as_a_batch_does(make_batch):
    audio, _, _, audio_lens, _ = make_batch(3)
    vocabulary = F.normalize(torch.randn(20, audio.shape[2]), dim=-1)
    vocabulary[0] = 0
    score = Score("max", words="idf", vocabulary=20)
    captions = [torch.tensor(ids) for ids in ([3, 3, 7], [19], [5, 1, 2, 3, 4])]
    score.count_words(captions)
    words, weights = caption_word_weights([ids.numpy() for ids in captions], importance=score.idf.numpy())
    by_word = score_matrix(audio, vocabulary[words].unsqueeze(1), audio_lens, pool=score.pool)  # (N, V)
    ids, lens = pad_sequence(captions, batch_first=True), torch.tensor([3, 1, 5])
    expected = score_matrix(audio, vocabulary[ids], audio_lens, lens, score.pool, score.importance(ids))
    np.testing.assert_allclose((weights @ by_word.numpy().T).T, expected, atol=1e-6)


def test_a_score_says_how_it_was_taken():
    assert str(Score()) == "frames=mean, words=mean"
    assert str(Score("softmax", 12.5, words="idf", mask_words=True)) == "frames=softmax(12.5), words=idf"


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
    monkeypatch.setattr(step_score_utils, "AT_ONCE", at_once)
    sizes = []
    clamp, relu = torch.Tensor.clamp_, torch.relu_
    monkeypatch.setattr(torch.Tensor, "clamp_", lambda made, min: (sizes.append(made.numel()), clamp(made, min=min))[1])
    monkeypatch.setattr(torch, "relu_", lambda made: (sizes.append(made.numel()), relu(made))[1])
    torch.testing.assert_close(pair_scores(one[0], weights[0], others, weights[1]), pairs)
    torch.testing.assert_close(word_scores(one, 14, words), by_word)
    assert max(sizes) <= max(at_once, 2 * 14)  # a frame of each of two clips at the least


def test_opposite_neighbours_do_not_blow_up():
    step = torch.randn(6)
    for ratio in (-0.6, -1.0, -3 / 5, -1.00001):
        steps = torch.stack([step, ratio * step]).unsqueeze(0)
        scores = step_score_matrix(steps, 8, torch.nn.functional.normalize(torch.randn(4, 2, 6), dim=-1))
        assert torch.isfinite(scores).all() and scores.max() <= 1


def test_the_gradient_of_step_scores_keeps_no_copy_of_the_similarities():
    """Of the upsampled similarities autograd keeps one image, for the pool and for the clamp alike."""
    steps, words = torch.randn(2, 5, 4, requires_grad=True), torch.randn(3, 6, 4)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: (kept.setdefault(saved.untyped_storage().data_ptr(), saved), saved)[1], lambda saved: saved
    ):
        step_score_matrix(steps, 20, words)
    assert sum(saved.untyped_storage().nbytes() >= 4 * 2 * 20 * 3 * 6 for saved in kept.values()) == 1


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

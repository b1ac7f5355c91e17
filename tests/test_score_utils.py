"""The score, by its definition and as training computes it, against plain loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import TfidfVectorizer
from torch.nn.utils.rnn import pad_sequence

from tests.helpers import embedding_scores, make_frames
from utils.score_utils import (
    POOLINGS,
    Batch,
    Score,
    best_frame,
    caption_word_weights,
    inverse_document_frequency,
    score_matrix,
    self_score_matrix,
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
    """By `Score`, which training calls, and by the definition."""
    generator = torch.Generator().manual_seed(3)
    encoded = torch.randn(3, 3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    vectors = F.normalize(torch.randn(9, 4, generator=generator, dtype=torch.float64), dim=-1)
    vectors[0] = 0
    ids = torch.tensor([[3, 3, 8, 1], [2, 0, 0, 0], [5, 1, 0, 0]])
    batch = Batch(torch.empty(3, 13, 1), ids, torch.arange(3), torch.tensor([13, 5, 1]), torch.tensor([4, 1, 2]))
    score = Score(frames, 7.0, frames == "softmax", words, mask_words, mask_frames, vocabulary=9).double()
    score.count_words([torch.tensor([3, 1]), torch.tensor([3, 3]), torch.tensor([8])])
    inputs = (encoded, *score.parameters())
    lens = (batch.audio_lens if mask_frames else None, batch.text_lens if mask_words else None)
    embeds = make_frames(encoded, 13)
    by_definition = embedding_scores(embeds, vectors[ids], *lens, score, ids).audio_text
    idf = [1.0] * 9 if words == "mean" else [np.log(4 / (1 + count)) + 1 for count in (0, 1, 0, 2, 0, 0, 0, 0, 1)]
    sharpness = score.log_sharpness.exp() if frames == "softmax" else None
    plain = torch.stack(
        [
            plain_choice(
                embeds[i, : batch.audio_lens[i] if mask_frames else 13], vectors[ids[j, : batch.text_lens[j]]], frames,
                sharpness, [idf[word] for word in ids[j, : batch.text_lens[j]]],
                int(batch.text_lens[j]) if mask_words else 4,
            )
            for i in range(3)
            for j in range(3)
        ]
    ).view(3, 3)  # fmt: skip
    weights = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad((plain * weights).sum(), inputs, retain_graph=True)
    for scores in (score(encoded, vectors[ids], batch).audio_text, by_definition):
        torch.testing.assert_close(scores, plain, rtol=1e-6, atol=1e-6)  # idf is float32
        gradients = torch.autograd.grad((scores * weights).sum(), inputs, retain_graph=True)
        for ours, theirs in zip(gradients, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("masked", [False, True])
def test_scores_within_a_batch_are_those_of_its_embeddings(masked):
    encoded = torch.randn(3, 5, 6, requires_grad=True)
    text = F.normalize(torch.randn(3, 4, 6), dim=-1).requires_grad_()
    ids, lens = torch.ones(3, 4, dtype=torch.int64), (torch.tensor([20, 3, 9]), torch.tensor([1, 4, 2]))
    batch = Batch(torch.empty(3, 20, 1), ids, torch.arange(3), *lens)
    ours = Score(mask_words=masked, mask_frames=masked)(encoded, text, batch)
    theirs = embedding_scores(make_frames(encoded, 20), text, *(lens if masked else ()))
    torch.testing.assert_close(ours.audio_text, theirs.audio_text)
    torch.testing.assert_close(ours.text_text(), theirs.text_text())
    torch.testing.assert_close(ours.audio_audio(), theirs.audio_audio())
    assert ours.audio_text.requires_grad and not ours.text_text().requires_grad and not ours.audio_audio().requires_grad


def test_frames_that_tie_share_the_gradient_of_the_best():
    similarities = torch.tensor([[[0.5], [0.2], [0.5], [0.9]]], requires_grad=True)  # the last beyond the clip's end
    best_frame(similarities, None, torch.tensor([3])).sum().backward()
    assert similarities.grad.flatten().tolist() == [0.5, 0.0, 0.5, 0.0]


@pytest.mark.parametrize("frames", POOLINGS)
def test_weights_of_frames_add_up_to_a_words_score(frames):
    similarities = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
    similarities[:, 3] = 0.0  # all tie
    score = Score(frames)
    shares = score.frame_weights(similarities)
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(4))
    torch.testing.assert_close((shares * similarities).sum(dim=0), score.pool(similarities.unsqueeze(0))[0])


def test_idf_is_scikit_learns():
    captions = [[1, 2, 2], [2, 3], [2], [5, 1]]
    texts = [" ".join(f"w{word}" for word in caption) for caption in captions]
    theirs = TfidfVectorizer(vocabulary=[f"w{word}" for word in range(6)], token_pattern=r"\w+").fit(texts).idf_
    ours = inverse_document_frequency([torch.tensor(caption) for caption in captions], 6)
    np.testing.assert_allclose(ours[1:], theirs[1:], rtol=1e-6)
    assert ours[0] == 0 and inverse_document_frequency([], 3).tolist() == [0, 1, 1]


@pytest.mark.parametrize("weighing", ["mean", "idf"])
def test_captions_weigh_words_as_a_batch_does(make_batch, weighing):
    audio, _, _, audio_lens, _ = make_batch(3)
    vocabulary = F.normalize(torch.randn(20, audio.shape[2]), dim=-1)
    vocabulary[0] = 0
    score = Score("max", words=weighing, vocabulary=20)
    captions = [torch.tensor(ids) for ids in ([3, 3, 7], [19], [5, 1, 2, 3, 4])]
    score.count_words(captions)
    words, weights = caption_word_weights([ids.numpy() for ids in captions], idf=score.idf_values)
    assert words.tolist() == [1, 2, 3, 4, 5, 7, 19]
    by_word = word_scores(audio, vocabulary[words], audio_lens, score.pool)  # (N, V)
    ids, lens = pad_sequence(captions, batch_first=True), torch.tensor([3, 1, 5])
    expected = embedding_scores(audio, vocabulary[ids], audio_lens, lens, score, ids).audio_text
    np.testing.assert_allclose((weights @ by_word.numpy().T).T, expected, atol=1e-6)


def test_a_score_names_its_settings():
    assert str(Score()) == "frames=mean, words=mean"
    assert str(Score("softmax", 12.5, words="idf", mask_words=True)) == "frames=softmax(12.5), words=idf"

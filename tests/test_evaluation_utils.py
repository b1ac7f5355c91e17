"""Evaluation of a small model against each clip and caption alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from models import padded_clips
from tests import reference
from tests.helpers import VOCABULARY, embedding_scores, matrix_of, of_all_words, random_model, random_split, state_of
from utils import evaluation_utils, score_utils
from utils.criterion_utils import InfoNCE, TripletLoss, negative_mask
from utils.data_utils import collate
from utils.device_utils import Diverged
from utils.evaluation_utils import PairBatches, evaluate, score_split
from utils.metric_utils import both_directions
from utils.sampling_utils import STRATEGIES
from utils.score_utils import Score


@pytest.fixture
def split():
    return random_split()


@pytest.fixture
def model():
    return random_model().eval()


def test_a_long_clip_is_encoded_apart(split, model, monkeypatch):
    split.audio[3] = torch.randn(400, 64) - 5
    whole, encoded = score_split(model, split, keep_encoded=True), []
    monkeypatch.setattr(evaluation_utils, "FRAMES_AT_ONCE", 80)
    monkeypatch.setattr(padded_clips, "BLOCK", 64)
    model.audio_enc.gru.register_forward_hook(lambda module, inputs, output: encoded.append(inputs[0].batch_sizes))
    parts = score_split(model, split, keep_encoded=True)
    assert [int(sizes[0]) for sizes in encoded][-1] == 1 and len(encoded) > 2
    assert all(int(sizes[0]) * 4 * len(sizes) <= 80 for sizes in encoded[:-1])
    np.testing.assert_allclose(matrix_of(parts.cross), matrix_of(whole.cross), atol=1e-6)
    assert parts.clips.outputs([3]).shape == (1, 100, 20)
    for clip in range(6):
        torch.testing.assert_close(parts.clips.outputs([clip]), whole.clips.outputs([clip]), rtol=0, atol=1e-4)


def chosen_score(split, frames, words):
    score = Score(frames, words=words, vocabulary=VOCABULARY)
    score.count_words(split.captions)
    return score


CHOICES = [("mean", "mean"), ("max", "mean"), ("softmax", "idf"), ("mean", "idf")]


@pytest.mark.parametrize(("frames", "words"), CHOICES)
def test_scores_of_a_split_are_those_of_each_clip_and_caption_alone(split, model, frames, words):
    score = chosen_score(split, frames, words)
    scored = score_split(model, split, score)
    scores = matrix_of(scored.cross)
    assert scored.clips is None
    np.testing.assert_allclose(matrix_of(of_all_words(model, split, score)), scores, atol=1e-6)
    for clip, caption in np.ndindex(*scores.shape):
        ids = split.captions[caption].unsqueeze(0)
        with torch.no_grad():
            audio, text = model(split.audio[clip].unsqueeze(0), ids)
        expected = embedding_scores(audio, text, score=score, ids=ids).audio_text
        assert scores[clip, caption] == pytest.approx(expected.item(), abs=1e-5)


@torch.no_grad()
def plain_scores(model, split, captions, mask_words, score=None):
    """The scores among captions and their clips, of embeddings that were made clip by clip."""
    batch = collate(split, captions)
    frames = [model.audio_branch(split.audio[clip].unsqueeze(0))[0] for clip in batch.clips]
    text_lens = batch.text_lens if mask_words else None
    return embedding_scores(
        pad_sequence(frames, batch_first=True), model.text_branch(batch.text), batch.audio_lens, text_lens, score,
        batch.text,
    )  # fmt: skip


@pytest.mark.parametrize(("frames", "words"), CHOICES)
@pytest.mark.parametrize("mask_words", [False, True])
def test_scores_of_batches_are_those_of_every_clip_at_its_own_length(split, model, mask_words, frames, words):
    captions = np.array([[0, 1, 4, 7, 8, 12, 17], [17, 2, 2, 9, 10, 15, 5]])
    score = chosen_score(split, frames, words)
    scores = score_split(model, split, score, keep_encoded=True)
    batches = PairBatches(scores, 18, mask_words)
    for batch in captions:
        ours, theirs = batches.batch_scores(batch), plain_scores(model, split, batch.tolist(), mask_words, score)
        torch.testing.assert_close(ours.audio_text, theirs.audio_text)
        torch.testing.assert_close(ours.text_text(), theirs.text_text())
        torch.testing.assert_close(ours.audio_audio(), theirs.audio_audio())


def test_clips_and_captions_that_are_the_same_tie_exactly(split, model):
    """Then it is the first that a strategy takes, not the one that rounding favours."""
    split.captions[4], split.captions[11] = torch.tensor([3, 1, 3, 2]), torch.tensor([2, 3, 1, 3])
    batches = PairBatches(score_split(model, split, keep_encoded=True), 18, mask_words=False)
    captions = np.random.default_rng(1).permutation(18)
    scores, clips = batches.batch_scores(captions), split.caption_clips[captions]
    audio_audio, text_text = scores.audio_audio(), scores.text_text()
    for i, j in zip(*np.nonzero(clips[:, None] == clips), strict=True):
        assert torch.equal(audio_audio[:, i], audio_audio[:, j]) and torch.equal(audio_audio[i], audio_audio[j])
    assert torch.equal(audio_audio, audio_audio.T)
    same = [captions.tolist().index(caption) for caption in (4, 11)]
    assert torch.equal(text_text[:, same[0]], text_text[:, same[1]])


def plain_objective(model, split, name, batch_size, mask_words):
    """The mean loss over the batches, by loops over anchors, of scores in float64."""
    model, split = model.double(), replace(split, audio=[log_mel.double() for log_mel in split.audio])
    order, losses = np.random.default_rng(0).permutation(len(split.captions)), []
    generator = torch.Generator().manual_seed(0)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        scores = plain_scores(model, split, batch.tolist(), mask_words)
        exact = (scores.audio_text, scores.text_text(), scores.audio_audio())
        tying = [np.round(part.numpy(), 12) for part in exact]  # where rounding alone made a difference
        negatives = negative_mask(torch.from_numpy(split.caption_clips[batch]))
        if negatives.any() and name == "InfoNCE":
            losses.append(reference.info_nce(tying[0], negatives))
        elif negatives.any():
            losses.append(reference.triplet_loss(name, tying, negatives, generator=generator)[0])
    model.float()
    assert batch_size > 2 or len(losses) < 9  # a batch without negatives
    return np.mean(losses)


@pytest.mark.parametrize("mask_words", [False, True])
@pytest.mark.parametrize("batch_size", [2, 5, 18])  # with and without a last short batch
@pytest.mark.parametrize("name", ["InfoNCE", *STRATEGIES])
def test_objective_is_the_plain_loops_mean(split, model, name, batch_size, mask_words):
    split.captions[4] = split.captions[11].flip(0)  # the same words for two clips
    if batch_size == 2:
        first = np.random.default_rng(0).permutation(18)[:2]
        split.caption_clips[first] = split.caption_clips[first[0]]
    criterion = InfoNCE(0.07) if name == "InfoNCE" else TripletLoss(0.5, name)
    batches = PairBatches(score_split(model, split, keep_encoded=True), batch_size, mask_words)
    expected = plain_objective(model, split, name, batch_size, mask_words)
    assert batches.losses(criterion).mean().item() == pytest.approx(expected, abs=2e-6)


def test_a_split_without_negatives_has_an_objective_of_0(split, model):
    split.caption_clips[:] = 0
    batches = PairBatches(score_split(model, split), 5, mask_words=False)
    assert batches.losses(TripletLoss(0.5, "hard-NS")).tolist() == [0]


def test_a_strategy_that_compares_no_clips_has_none_compared(split, model, monkeypatch):
    monkeypatch.setattr(score_utils, "clip_pair_scores", None)
    monkeypatch.setattr(score_utils, "caption_scores", None)
    assert np.isfinite(evaluate(state_of(model, TripletLoss(0.5, "semi-hard-NS")), split, {}, 5)["val_obj"])


def test_each_pair_of_clips_is_scored_once(split, model, monkeypatch):
    scored, score = [], score_utils.clip_pair_scores
    monkeypatch.setattr(
        score_utils, "clip_pair_scores", lambda clips, pairs: (scored.append(pairs), score(clips, pairs))[1]
    )
    hard, easy = TripletLoss(0.5, "hard-audio-NS"), TripletLoss(0.5, "easy-audio-NS")
    evaluate(state_of(model, hard), split, {"easy": easy}, 5)
    (pairs,) = scored
    assert len(np.unique(np.sort(pairs, axis=1), axis=0)) == len(pairs) <= 21


def test_evaluation_repeats_itself_and_leaves_training_randomness_alone(split, model):
    criterion = TripletLoss(0.5, "random-NS")
    state = state_of(model, criterion)
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    first = evaluate(state, split, {"x": criterion}, 5)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert evaluate(state, split, {"x": criterion}, 5) == first
    assert first["val_x"] == first["val_obj"]
    scores = matrix_of(score_split(model, split).cross)
    retrieval = both_directions(scores, split.caption_clips)
    assert first["val_map_text_to_audio"] == retrieval["text_to_audio"]["mAP"]
    assert first["val_map_audio_to_text"] == retrieval["audio_to_text"]["mAP"]
    assert first["score_std"] == pytest.approx(np.std(scores, dtype=np.float64), rel=1e-12)


def test_scores_that_are_not_finite_end_the_evaluation(split, model):
    with torch.no_grad():
        model.audio_enc.gru.bias_ih_l0[0] = torch.nan
    with pytest.raises(Diverged, match="validation scores are not finite"):
        evaluate(state_of(model, TripletLoss(0.5, "hard-NS")), split, {}, 5)

"""Evaluation of a small model against each clip and caption alone."""

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from models import audio_encoders
from tests.helpers import embedding_scores, random_model, random_split, state_of
from utils import evaluation_utils
from utils.criterion_utils import TripletLoss, negative_mask
from utils.data_utils import collate
from utils.evaluation_utils import evaluate, objective, score_split, scores_of_batch
from utils.metric_utils import both_directions
from utils.model_utils import Diverged
from utils.score_utils import score_matrix


@pytest.fixture
def split():
    return random_split()


@pytest.fixture
def model():
    return random_model().eval()


def test_scores_of_a_split_are_those_of_each_clip_and_caption_alone(split, model):
    scores = score_split(model, split)
    for clip, caption in np.ndindex(*scores.cross.shape):
        with torch.no_grad():
            audio, text = model(split.log_mels[clip].unsqueeze(0), split.captions[caption].unsqueeze(0))
        assert scores.cross[clip, caption] == pytest.approx(score_matrix(audio, text).item(), abs=1e-6)
    assert not scores.steps


def test_a_long_clip_is_encoded_apart(split, model, monkeypatch):
    split.log_mels[3] = torch.randn(400, 64) - 5
    whole, encoded = score_split(model, split, keep_steps=True), []
    monkeypatch.setattr(evaluation_utils, "FRAMES_AT_ONCE", 80)
    monkeypatch.setattr(audio_encoders, "BLOCK", 64)
    model.audio_enc.gru.register_forward_hook(lambda module, inputs, output: encoded.append(inputs[0].batch_sizes))
    parts = score_split(model, split, keep_steps=True)
    assert [int(sizes[0]) for sizes in encoded][-1] == 1 and len(encoded) > 2
    assert all(int(sizes[0]) * 4 * len(sizes) <= 80 for sizes in encoded[:-1])
    np.testing.assert_allclose(parts.cross, whole.cross, atol=1e-6)
    assert parts.steps[3].shape == (1, 100, 20)


def test_all_words_have_their_scores_by_id(split, model):
    scores = score_split(model, split, all_words=True)
    np.testing.assert_allclose(scores.cross, score_split(model, split).cross, atol=1e-6)
    for word, clip in np.ndindex(*scores.by_word.shape):
        with torch.no_grad():
            audio, text = model(split.log_mels[clip].unsqueeze(0), torch.tensor([[word]]))
        assert scores.by_word[word, clip] == pytest.approx(score_matrix(audio, text).item(), abs=1e-5)


@torch.no_grad()
def plain_scores(model, split, captions, mask_words):
    """The scores among captions and their clips, of embeddings that were made clip by clip."""
    batch = collate(split, captions)
    frames = [model.audio_branch(split.log_mels[clip].unsqueeze(0))[0] for clip in batch.clips]
    text_lens = batch.text_lens if mask_words else None
    return embedding_scores(
        pad_sequence(frames, batch_first=True), model.text_branch(batch.text), batch.audio_lens, text_lens
    )


@pytest.mark.parametrize("mask_words", [False, True])
def test_scores_of_a_batch_are_those_of_every_clip_at_its_own_length(split, model, mask_words):
    captions = [0, 1, 4, 7, 8, 12, 17]
    ours = scores_of_batch(model, score_split(model, split, keep_steps=True), np.array(captions), mask_words)
    theirs = plain_scores(model, split, captions, mask_words)
    torch.testing.assert_close(ours.audio_text, theirs.audio_text)
    torch.testing.assert_close(ours.text_text(), theirs.text_text())
    torch.testing.assert_close(ours.audio_audio(), theirs.audio_audio())


@pytest.mark.parametrize("mask_words", [False, True])
def test_objective_of_one_batch_is_its_loss(split, model, mask_words):
    criterion, captions = TripletLoss(0.01, "full-batch-NS"), list(range(18))
    ours = objective(model, score_split(model, split), criterion, 18, mask_words)
    negatives = negative_mask(torch.from_numpy(split.caption_clips))
    theirs = criterion(plain_scores(model, split, captions, mask_words), negatives).loss
    assert ours == pytest.approx(theirs.item(), abs=1e-6)


def test_evaluation_repeats_itself_and_leaves_training_randomness_alone(split, model):
    criterion = TripletLoss(0.5, "random-NS")
    state = state_of(model, criterion)
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    first = evaluate(state, split, {"x": criterion}, 5)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert evaluate(state, split, {"x": criterion}, 5) == first
    assert first["val_x"] == first["val_obj"]
    scores = score_split(model, split).cross
    retrieval = both_directions(scores, split.caption_clips)
    assert first["val_map_text_to_audio"] == retrieval["text_to_audio"]["mAP"]
    assert first["val_map_audio_to_text"] == retrieval["audio_to_text"]["mAP"]
    assert first["score_std"] == pytest.approx(np.std(scores), rel=1e-5)


def test_scores_that_are_not_finite_end_the_evaluation(split, model):
    with torch.no_grad():
        model.audio_enc.gru.bias_ih_l0[0] = torch.nan
    with pytest.raises(Diverged, match="validation scores are not finite"):
        evaluate(state_of(model, TripletLoss(0.5, "hard-NS")), split, {}, 5)

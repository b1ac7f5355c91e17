"""S at the clip level against plain loops over its definition: in training, with gradients, and in evaluation."""

import numpy as np
import pytest
import torch

from models.audio_encoders import CRNNEncoder, FeatureEncoder
from models.core import CRNNWordModel
from models.text_encoders import WordEncoder
from tests.helpers import VOCABULARY, matrix_of, random_split
from utils.criterion_utils import InfoNCE, TripletLoss, negative_mask
from utils.data_utils import collate
from utils.evaluation_utils import PairBatches, score_split
from utils.sampling_utils import STRATEGIES
from utils.score_utils import BatchScores, ClipScore

CAPTIONS = [0, 1, 4, 7, 8, 12, 17]
CHOICES = [(words, mask_frames) for words in ("mean", "idf") for mask_frames in (False, True)]


def make_model(encoder="features", projection=6):
    """A model in float64, the same at every call: of features, or a CRNN, with projections or without."""
    torch.manual_seed(0)
    words = torch.randn(VOCABULARY, 64 if projection is None else 10)
    words[0] = 0
    audio = FeatureEncoder(64) if encoder == "features" else CRNNEncoder(64, words.shape[1], dropout=0)
    return CRNNWordModel(audio, WordEncoder(words, trainable=True), projection, projection).double()


def make_score(split, words="mean", mask_frames=False):
    score = ClipScore(words, mask_frames, VOCABULARY)
    score.count_words(split.captions)
    return score.double()


@pytest.fixture
def split():
    """6 clips of log-mels that serve as features too, and 18 captions."""
    data = random_split(longest=24)
    data.audio[:] = [clip.double() for clip in data.audio]
    return data


def clip_vector(model, outputs):
    """The unit vector of a clip, from the encoder's outputs (L, D), projected one by one."""
    if isinstance(model.audio_projection, torch.nn.Linear):
        deviation = outputs.var(dim=1, correction=0, keepdim=True).add(model.audio_norm.eps).sqrt()
        outputs = (outputs - outputs.mean(dim=1, keepdim=True)) / deviation
    total = sum(model.audio_projection(output) for output in outputs)
    return total / total.norm()


def caption_vector(model, score, ids):
    """The unit vector of a caption."""
    total = 0
    for word in ids:
        weight = 1 if score.idf is None else score.idf[word]
        total = total + weight * model.text_projection(model.text_enc.embedding.weight[word])
    return total / total.norm()


def plain_scores(model, score, split, captions, own_lengths=True):
    """The scores of captions and their clips, (N, N) each, by a loop; clips are encoded alone, in training padded."""
    batch = collate(split, captions)
    outputs = []
    for audio, length in zip(batch.audio, batch.audio_lens, strict=True):
        encoded = model.audio_enc((audio if model.training else audio[:length]).unsqueeze(0))[0]
        outputs.append(encoded[: model.audio_enc.frames_out(int(length))] if own_lengths else encoded)
    audio = [clip_vector(model, clip) for clip in outputs]
    text = [caption_vector(model, score, split.captions[caption]) for caption in captions]
    cross, texts, audios = (torch.stack([torch.stack([one @ other for other in right]) for one in left])
                            for left, right in ((audio, text), (text, text), (audio, audio)))  # fmt: skip
    return BatchScores(cross, texts.detach, audios.detach)


def training_scores(model, score, batch):
    encoded = score.encode_audio(model, batch.audio, score.training_lengths(batch))
    return score(encoded, score.encode_text(model, batch), batch)


@pytest.mark.parametrize("projection", [None, 6])
@pytest.mark.parametrize("encoder", ["features", "crnn"])
@pytest.mark.parametrize(("words", "mask_frames"), CHOICES)
def test_a_batchs_scores_and_gradients_are_the_plain_loops(split, encoder, projection, words, mask_frames):
    score, results, gradients = make_score(split, words, mask_frames), [], []
    for plain in (False, True):
        model = make_model(encoder, projection).train()
        if encoder == "crnn":
            for layer in model.audio_enc.cnn:
                layer.eval()  # batch norms: the loop's batches have one clip
        if plain:
            scores = plain_scores(model, score, split, CAPTIONS, own_lengths=mask_frames)
        else:
            scores = training_scores(model, score, collate(split, CAPTIONS))
        InfoNCE(0.1).double()(scores, ~torch.eye(7, dtype=torch.bool)).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
        results.append([scores.audio_text, scores.text_text(), scores.audio_audio()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)
    assert gradients[0]["text_enc.embedding.weight"].norm() > 0


@pytest.mark.parametrize("encoder", ["features", "crnn"])
@pytest.mark.parametrize("words", ["mean", "idf"])
def test_a_splits_scores_are_those_of_each_clip_and_caption_alone(split, encoder, words):
    model, score = make_model(encoder).eval(), make_score(split, words)
    with torch.no_grad():
        scores = score_split(model, split, score, keep_encoded=True)
        vectors = [clip_vector(model, model.audio_enc(audio.unsqueeze(0))[0]) for audio in split.audio]
        for clip, caption in np.ndindex(6, 18):
            expected = vectors[clip] @ caption_vector(model, score, split.captions[caption])
            assert matrix_of(scores.cross)[clip, caption] == pytest.approx(expected.item(), abs=1e-5)
        theirs = plain_scores(model, score, split, CAPTIONS)
    ours = PairBatches(scores, 18, mask_words=True).batch_scores(np.array(CAPTIONS))
    torch.testing.assert_close(ours.text_text().double(), theirs.text_text(), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.audio_audio().double(), theirs.audio_audio(), rtol=0, atol=1e-5)
    assert scores.clips.rows.shape[0] == 6  # one row a clip


@pytest.mark.parametrize("name", ["InfoNCE", *STRATEGIES])
def test_objective_is_the_plain_loops_mean(split, name):
    model, score = make_model().eval(), make_score(split)
    criterion = InfoNCE(0.07) if name == "InfoNCE" else TripletLoss(0.5, name)
    batches, expected = PairBatches(score_split(model, split, score, keep_encoded=True), 5, mask_words=True), []
    for captions, draws in zip(batches.captions, batches.draws, strict=True):
        with torch.no_grad():
            scores = plain_scores(model, score, split, captions.tolist())
        negatives = negative_mask(torch.from_numpy(split.caption_clips[captions]))
        expected.append(criterion(scores, negatives, draws).loss.item())
    assert batches.losses(criterion).mean().item() == pytest.approx(np.mean(expected), abs=2e-6)


def test_parts_of_clips_with_clips_add_up(split):
    model, score, batch = make_model().eval(), make_score(split), collate(split, CAPTIONS)
    encoded = score.encode_audio(model, batch.audio)
    whole = score.audio_audio(encoded, batch)
    parts = [score.audio_audio(encoded, batch, range(first, 7, 3)) for first in range(3)]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("words", ["mean", "idf"])
@pytest.mark.parametrize("encoder", ["features", "crnn"])
def test_terms_of_outputs_and_words_add_up_to_the_score(split, encoder, words):
    model, score = make_model(encoder).eval(), make_score(split, words)
    ids, audio = split.captions[3], split.audio[2]
    with torch.no_grad():
        embeds = score.word_embeds(model.encode_text(ids))
        weights = score.word_weights(ids.unsqueeze(0), torch.tensor([len(ids)]), embeds)[0]
        terms = score.alignment(model.encode_audio(audio.unsqueeze(0))[0], len(audio), embeds, weights)  # (L, W)
        expected = score_split(model, split, score).cross
    total = (score.frame_weights(terms) * terms).sum(dim=0) @ weights
    assert total.item() == pytest.approx(matrix_of(expected)[2, 3], abs=1e-5)


@pytest.mark.parametrize("projection", [None, 6])
@pytest.mark.parametrize("encoder", ["features", "crnn"])
def test_a_model_is_loaded_from_its_state_dict(encoder, projection):
    model = make_model(encoder, projection).float().eval()
    loaded = CRNNWordModel.from_state_dict(model.state_dict()).eval()
    audio, text = torch.randn(2, 12, 64), torch.tensor([[1, 2, 0], [3, 4, 5]])
    for ours, theirs in zip(loaded(audio, text), model(audio, text), strict=True):
        assert torch.equal(ours, theirs)

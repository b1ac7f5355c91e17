"""The dual encoder against the golden values, and encoding of many clips at once against one by one."""

import numpy as np
import pytest
import torch

from models import padded_clips
from models.audio_encoders import CRNNEncoder
from models.core import CRNNWordModel
from models.text_encoders import WordEncoder


@pytest.fixture
def state(golden):
    arrays = golden("model")
    return {key.removeprefix("state/"): torch.from_numpy(arrays[key]) for key in arrays if key.startswith("state/")}


def small_model(trainable_words=False):
    words = torch.randn(11, 300)
    words[0] = 0
    return CRNNWordModel(CRNNEncoder(64, 300), WordEncoder(words, trainable_words))


def test_golden_model(golden, state):
    arrays = golden("model")
    model = CRNNWordModel.from_state_dict(state).eval()
    with torch.no_grad():
        audio, text = model(torch.from_numpy(arrays["audio"]), torch.from_numpy(arrays["text"]))
    np.testing.assert_allclose(audio, arrays["audio_embeds"], atol=1e-5)
    np.testing.assert_allclose(text, arrays["text_embeds"], atol=1e-5)


def test_parameter_count_is_the_published_one():
    assert sum(p.numel() for p in small_model().parameters() if p.requires_grad) == 732_354


@pytest.mark.parametrize("frames", [4, 5, 50])
def test_frames_and_bands_in_embeddings_out(frames):
    model = CRNNWordModel(CRNNEncoder(128, 20), WordEncoder(torch.randn(5, 20))).eval()
    audio = model.audio_branch(torch.randn(1, frames, 128))
    assert audio.shape == (1, frames, 20)
    torch.testing.assert_close(audio.norm(dim=-1), torch.ones(1, frames))


def trained_model():
    """A model in evaluation mode, float64, whose norms have a bias: what is padded must not leak through it."""
    model = small_model().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.encode_audio(torch.randn(4, 60, 64, dtype=torch.float64) - 5)
    return model.eval()


def test_clips_encoded_together_are_those_encoded_alone():
    model = trained_model()
    clips = [torch.randn(frames, 64, dtype=torch.float64) - 5 for frames in (4, 37, 5, 64, 63, 62, 61)]
    lens = torch.tensor([len(clip) for clip in clips])
    together = model.encode_audio(torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), lens)
    for steps, clip in zip(together, clips, strict=True):
        alone = model.encode_audio(clip.unsqueeze(0))[0]
        torch.testing.assert_close(steps[: len(clip) // 4], alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("block", [4, 8, 32])
@torch.no_grad()
def test_long_clips_pass_the_cnn_block_by_block(monkeypatch, block):
    model, sizes = trained_model(), []
    model.audio_enc.cnn[1].register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[2]))
    for frames in (4, 7, 29, 30, 31, 32, 33, 34, 35, 36, 37, 63, 64, 65, 67, 68, 97):
        audio, lens = torch.randn(3, frames, 64, dtype=torch.float64) - 5, torch.tensor([frames, 4, (frames + 4) // 2])
        whole, together = model.encode_audio(audio), model.encode_audio(audio, lens)
        with monkeypatch.context() as patch:
            patch.setattr(padded_clips, "BLOCK", block)
            sizes.clear()
            torch.testing.assert_close(model.encode_audio(audio), whole, rtol=0, atol=1e-9)
            assert max(sizes) <= block + 2 * 16  # neighbours
            for ours, theirs, clip in zip(model.encode_audio(audio, lens), together, lens, strict=True):
                torch.testing.assert_close(ours[: clip // 4], theirs[: clip // 4], rtol=0, atol=1e-9)


def test_training_takes_a_long_clip_whole(monkeypatch):
    model = small_model().train()
    model.audio_enc.cnn[-1].eval()  # dropout
    audio, gradients = torch.randn(2, 50, 64) - 5, []
    for block in (padded_clips.BLOCK, 8):
        monkeypatch.setattr(padded_clips, "BLOCK", block)
        model.zero_grad()
        model.encode_audio(audio).square().sum().backward()
        gradients.append(model.audio_enc.cnn[1].weight.grad.clone())
    assert gradients[0].any() and torch.equal(*gradients)


def test_padding_word_stays_zero():
    model = small_model(trainable_words=True)
    words = model.text_branch(torch.tensor([[3, 0]]))
    assert words[0, 1].abs().max() == 0
    words.sum().backward()
    gradient = model.text_enc.embedding.weight.grad
    assert gradient[0].abs().max() == 0 and torch.isfinite(gradient).all() and gradient[3].abs().max() > 0


def test_word_vectors_of_another_dimension_are_refused():
    with pytest.raises(ValueError, match="200 dimensions"):
        CRNNWordModel(CRNNEncoder(64, 300), WordEncoder(torch.randn(5, 200)))

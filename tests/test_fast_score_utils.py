"""The fast scores, each against its definition in score_utils."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from models.tensors import upsample
from tests.helpers import make_frames
from utils import fast_score_utils
from utils.fast_score_utils import (
    EncodedClips,
    caption_scores,
    clip_pair_scores,
    clip_scores,
    frame_norms,
    frame_similarities,
    split_word_scores,
)
from utils.score_utils import (
    POOLINGS,
    caption_word_weights,
    mean_over_frames,
    score_matrix,
    self_score_matrix,
    similarities,
    word_scores,
)

FRAMES = [23, 4, 7, 40, 8, 23]


@pytest.fixture
def clips():
    """Random outputs of clips, with padding that is not a number between them."""
    generator, rows, starts = torch.Generator().manual_seed(0), [], []
    for frames in FRAMES:
        starts.append(sum(map(len, rows)))
        rows += [torch.randn(frames // 4, 6, generator=generator), torch.full((2, 6), torch.nan)]
    return EncodedClips(torch.cat(rows), np.array(starts), np.array(FRAMES) // 4, np.array(FRAMES))


@pytest.fixture
def frames(clips):
    """The clips' frame embeddings by their definition, (T, E) each."""
    return [make_frames(clips.outputs([clip]), frames)[0] for clip, frames in enumerate(FRAMES)]


def random_words(count, dim=6, dtype=torch.float32):
    return F.normalize(torch.randn(count, dim, dtype=dtype, generator=torch.Generator().manual_seed(1)), dim=-1)


@pytest.mark.parametrize(("length", "frames"), [(1, 4), (1, 7), (2, 8), (5, 20), (5, 23), (37, 150)])
def test_upsampling_is_the_librarys(length, frames):
    encoded = torch.randn(3, length, 6)
    torch.testing.assert_close(F.normalize(upsample(encoded, frames), dim=-1), make_frames(encoded, frames))


# --- clips with words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "frames"), [(1, 6), (2, 8), (5, 20), (5, 23)])
def test_similarities_and_their_gradients_are_those_of_the_frames(length, frames):
    generator = torch.Generator().manual_seed(length + frames)
    encoded = torch.randn(4, length, 6, generator=generator, dtype=torch.float64).requires_grad_()
    words = torch.randn(15, 6, generator=generator, dtype=torch.float64).requires_grad_()
    weights = torch.randn(4, frames, 15, generator=generator, dtype=torch.float64)
    fast = frame_similarities(encoded, frames, words) / frame_norms(encoded, frames).unsqueeze(2)
    plain = similarities(make_frames(encoded, frames), words)
    torch.testing.assert_close(fast, plain, rtol=1e-6, atol=1e-6)  # places between outputs are float32
    gradients = [torch.autograd.grad((made * weights).sum(), (encoded, words)) for made in (fast, plain)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_opposite_neighbours_do_not_blow_up():
    output = torch.randn(6)
    for ratio in (-0.6, -1.0, -3 / 5, -1.00001):
        encoded = torch.stack([output, ratio * output]).unsqueeze(0)
        cosines = frame_similarities(encoded, 8, random_words(8)) / frame_norms(encoded, 8).unsqueeze(2)
        assert torch.isfinite(cosines).all() and cosines.max() <= 1 + 1e-6


def test_the_gradient_of_a_score_keeps_no_copy_of_the_similarities():
    """Of the upsampled similarities autograd keeps one image, for the pool and for the relu alike."""
    encoded, words, kept = torch.randn(2, 5, 4, requires_grad=True), torch.randn(18, 4), {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: (kept.setdefault(saved.untyped_storage().data_ptr(), saved), saved)[1], lambda saved: saved
    ):
        mean_over_frames(frame_similarities(encoded, 20, words), frame_norms(encoded, 20))
    assert sum(saved.untyped_storage().nbytes() >= 4 * 2 * 20 * 18 for saved in kept.values()) == 1


def test_unit_frames_of_clips_of_different_lengths_are_those_of_each_clip(clips, frames):
    made, inside = clips.unit_frames(range(6))
    for ours, mask, theirs in zip(made, inside, frames, strict=True):
        torch.testing.assert_close(ours[: len(theirs)], theirs)
        assert mask.nonzero().flatten().tolist() == list(range(len(theirs)))


@pytest.mark.parametrize("at_once", [1, 1000, 10**6])
@pytest.mark.parametrize("pool", POOLINGS.values())
def test_words_are_scored_with_each_clip(monkeypatch, clips, frames, pool, at_once):
    monkeypatch.setattr(fast_score_utils, "AT_ONCE", at_once)
    scores = split_word_scores(clips, random_words(9), pool)
    for clip, own in enumerate(frames):
        torch.testing.assert_close(scores[:, clip], word_scores(own.unsqueeze(0), random_words(9), pool=pool)[0])


# --- clips with clips ------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("length", "frames"), [(1, 5), (3, 12), (5, 23)])
def test_scores_of_a_batchs_clips_are_those_of_their_frames(length, frames, masked):
    encoded = torch.randn(5, length, 6, generator=torch.Generator().manual_seed(0))
    lens = torch.tensor([frames, 1, 2, frames, 4]) if masked else None
    scores = clip_scores(encoded, frames, lens)
    torch.testing.assert_close(scores, self_score_matrix(make_frames(encoded, frames), lens))
    assert torch.equal(scores, scores.T)
    shares = [clip_scores(encoded, frames, lens, range(first, 5, 2)) for first in (0, 1)]
    torch.testing.assert_close(sum(shares), scores)


@pytest.mark.parametrize("at_once", [1, 40, 100, 1000, 10**6])
def test_clips_are_scored_in_pairs(monkeypatch, clips, frames, at_once):
    """Long ones part by part."""
    sizes, clamp = [], torch.Tensor.clamp_
    monkeypatch.setattr(torch.Tensor, "clamp_", lambda made, min: (sizes.append(made.numel()), clamp(made, min=min))[1])
    monkeypatch.setattr(fast_score_utils, "AT_ONCE", at_once)
    pairs = np.array([[0, 3], [0, 1], [0, 0], [0, 5], [0, 2], [0, 4], [5, 0], [2, 2], [1, 4], [3, 3]])
    for (i, j), score in zip(pairs, clip_pair_scores(clips, pairs), strict=True):
        assert score.item() == pytest.approx(score_matrix(frames[i][None], frames[j][None]).item(), abs=1e-6)
    assert clip_pair_scores(clips, pairs[:0]).shape == (0,)
    assert max(sizes) <= max(at_once, max(FRAMES))  # a frame at the least


@pytest.mark.parametrize("at_once", [1, 500, 5000, 10**6])
def test_pairs_go_together_as_far_as_the_memory_is_bounded(monkeypatch, at_once):
    monkeypatch.setattr(fast_score_utils, "AT_ONCE", at_once)
    frames = np.random.default_rng(0).integers(4, 60, (200, 2))
    runs = fast_score_utils._bounded(frames)
    assert np.concatenate([np.arange(200)[run] for run in runs]).tolist() == list(range(200))
    for run in runs:
        assert len(frames[run]) == 1 or len(frames[run]) * frames[run].max(axis=0).prod() <= at_once
    assert len(runs) <= 2 + 2 * 200 * 59 * 59 / at_once or at_once < 5000


# --- captions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 40, 10**6])
def test_captions_are_scored_with_captions(monkeypatch, at_once):
    monkeypatch.setattr(fast_score_utils, "AT_ONCE", at_once)
    rng, embeds = np.random.default_rng(0), random_words(10)
    captions = [rng.integers(1, 10, rng.integers(1, 6)) for _ in range(12)]
    captions[5] = captions[8][::-1].copy()
    words, weights = caption_word_weights(captions)
    ids = [torch.from_numpy(caption.copy()) for caption in captions]
    lens = torch.tensor(list(map(len, captions)))
    expected = self_score_matrix(embeds[pad_sequence(ids, batch_first=True)], lens)
    scores = caption_scores(embeds[words], weights)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)
    assert torch.equal(scores[:, 5], scores[:, 8])

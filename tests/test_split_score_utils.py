"""Scores of a whole split in large products against those of each clip and caption alone."""

import numpy as np
import pytest
import torch

from models.audio_encoders import upsample
from utils import split_score_utils
from utils.score_utils import POOLINGS, caption_word_weights, score_matrix
from utils.split_score_utils import (
    EncodedClips,
    caption_pair_scores,
    caption_sums,
    clip_pair_scores,
    group_word_scores,
    own_frames,
)

FRAMES = [23, 4, 7, 40, 8, 23]


@pytest.fixture
def clips():
    """Random steps of clips, with padding that is not a number between them."""
    generator, parts, starts = torch.Generator().manual_seed(0), [], []
    for frames in FRAMES:
        starts.append(sum(map(len, parts)))
        parts += [torch.randn(frames // 4, 6, generator=generator), torch.full((2, 6), torch.nan)]
    return EncodedClips(torch.cat(parts), np.array(starts), np.array(FRAMES))


@pytest.fixture
def frames(clips):
    """The clips' frame embeddings by their definition, (T, E) each."""
    made = [upsample(clips.of(clip), frames)[0] for clip, frames in enumerate(FRAMES)]
    return [torch.nn.functional.normalize(each, dim=-1) for each in made]


def test_frames_of_clips_of_different_lengths_are_each_ones_own(clips, frames):
    made = own_frames(clips.rows, torch.from_numpy(clips.starts), torch.tensor(FRAMES), 40)
    for ours, theirs in zip(made, frames, strict=True):
        torch.testing.assert_close(ours[: len(theirs)], theirs)
        assert not ours[len(theirs) :].any()


@pytest.mark.parametrize("pool", POOLINGS.values())
def test_words_are_scored_with_each_clip_of_a_group(clips, frames, pool):
    words = torch.nn.functional.normalize(torch.randn(9, 6), dim=-1)
    steps = torch.nn.utils.rnn.pad_sequence([clips.of(clip)[0] for clip in range(6)], batch_first=True)
    scores = group_word_scores(steps, FRAMES, words, pool)
    for clip, own in enumerate(frames):
        torch.testing.assert_close(scores[:, clip], score_matrix(own.unsqueeze(0), words.unsqueeze(1), pool=pool)[0])


@pytest.mark.parametrize("at_once", [1, 1000, 10**6])
def test_clips_are_scored_in_pairs(monkeypatch, clips, frames, at_once):
    monkeypatch.setattr(split_score_utils, "AT_ONCE", at_once)
    pairs = np.array([[0, 3], [0, 1], [0, 0], [0, 5], [0, 2], [0, 4], [5, 0], [2, 2], [1, 4], [3, 3]])
    for (i, j), score in zip(pairs, clip_pair_scores(clips, pairs), strict=True):
        assert score.item() == pytest.approx(score_matrix(frames[i][None], frames[j][None]).item(), abs=1e-6)
    assert clip_pair_scores(clips, pairs[:0]).shape == (0,)


@pytest.mark.parametrize("at_once", [1, 500, 5000, 10**6])
def test_pairs_go_together_as_far_as_the_memory_is_bounded(monkeypatch, at_once):
    monkeypatch.setattr(split_score_utils, "AT_ONCE", at_once)
    frames = np.random.default_rng(0).integers(4, 60, (200, 2))
    parts = split_score_utils._parts(frames)
    assert np.concatenate([np.arange(200)[part] for part, _ in parts]).tolist() == list(range(200))
    for part, longest in parts:
        assert (longest == frames[part].max(axis=0)).all()
        assert len(frames[part]) == 1 or len(frames[part]) * longest.prod() <= at_once
    assert len(parts) <= 2 + 2 * 200 * 59 * 59 / at_once or at_once < 5000


@pytest.mark.parametrize("at_once", [1, 40, 10**6])
def test_captions_are_scored_with_captions(monkeypatch, at_once):
    monkeypatch.setattr(split_score_utils, "AT_ONCE", at_once)
    rng, embeds = np.random.default_rng(0), torch.nn.functional.normalize(torch.randn(10, 6), dim=-1)
    captions = [rng.integers(1, 10, rng.integers(1, 6)) for _ in range(12)]
    captions[5] = captions[8][::-1].copy()
    words, weights = caption_word_weights(captions)
    batches = rng.permutation(12).reshape(3, 4)
    scores = caption_pair_scores(embeds[words], weights, batches)
    for batch, i, j in np.ndindex(3, 4, 4):
        one, other = (embeds[captions[batches[batch, place]]][None] for place in (i, j))
        assert scores[batch, i, j].item() == pytest.approx(score_matrix(one, other).item(), abs=1e-6)


def test_sums_of_captions_are_the_sparse_product():
    _, weights = caption_word_weights([np.array([3, 3, 7]), np.array([1]), np.array([7, 1, 3, 3])])
    table = torch.randn(3, 5)
    torch.testing.assert_close(caption_sums(weights, table), torch.from_numpy(weights.toarray()) @ table)

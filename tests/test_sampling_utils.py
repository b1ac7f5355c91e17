"""The strategies against plain loops over anchors."""

import pytest
import torch

from tests import reference
from utils.criterion_utils import negative_mask
from utils.sampling_utils import STRATEGIES
from utils.score_utils import BatchScores


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"random-NS"}))
def test_picks_are_those_of_plain_loops_and_ties_go_to_the_first_index(name):
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):  # coarse scores: ties everywhere
        cross, text, audio = (torch.randint(0, 3, (8, 8), generator=generator) / 4 for _ in range(3))
        clips = torch.randint(0, 5, (8,), generator=generator)
        scores = BatchScores(cross, lambda text=text: text, lambda audio=audio: audio)
        negatives = negative_mask(clips)
        picks, arrays = STRATEGIES[name](scores, negatives, None), [part.numpy() for part in (cross, text, audio)]
        for i, others in reference.anchors(negatives):
            plain = reference.picks(name, arrays, i, others)
            assert tuple(mask[i].nonzero().flatten().tolist() for mask in picks) == plain


def test_random_negatives_are_uniform_and_drawn_apart():
    negatives = negative_mask(torch.tensor([0, 1, 2, 0, 3]))
    scores = BatchScores(torch.zeros(5, 5), None, None)
    generator = torch.Generator().manual_seed(0)
    draws = [STRATEGIES["random-NS"](scores, negatives, generator) for _ in range(1000)]
    audio, text = (torch.stack(picks).float() for picks in zip(*draws, strict=True))
    expected = negatives / negatives.sum(1, keepdim=True)
    assert (audio.sum(2) == 1).all() and (text.sum(2) == 1).all()
    assert (audio.mean(0) - expected).abs().max() < 0.07  # five standard deviations
    assert (text.mean(0) - expected).abs().max() < 0.07
    assert 0.2 < (audio * text).sum(2).mean() < 0.4  # the same one by chance only: 1/3 or 1/4


@pytest.mark.parametrize("name", STRATEGIES)
def test_an_anchor_without_negatives_picks_none(name):
    scores = BatchScores(torch.rand(3, 3), lambda: torch.rand(3, 3), lambda: torch.rand(3, 3))
    negatives = torch.tensor([[False, False, False], [True, False, True], [True, True, False]])
    for picks in STRATEGIES[name](scores, negatives, None):
        assert not (picks & ~negatives).any() and picks.any(dim=1).tolist() == [False, True, True]

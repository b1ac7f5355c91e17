"""SpecAugment against plain loops, and what its draws are spread over."""

import math
from itertools import product

import pytest
import torch

from utils.augment_utils import SpecAugment, spec_augment

HOW = [
    SpecAugment(time_masks=2, time_share=0.5, band_masks=1, bands=3),
    SpecAugment(time_masks=1, time_share=1.0),
    SpecAugment(band_masks=2, bands=6),
]


def plain(audio, lens, draws, how):
    """The same, value by value."""
    hidden = audio.clone()
    for clip, length in enumerate(lens.tolist()):
        mean = audio[clip, :length].double().mean().item()
        for mask, (u, v) in enumerate(draws[clip].double().tolist()):
            in_time = mask < how.time_masks
            size = length if in_time else audio.shape[2]
            width = math.floor(u * ((math.floor(how.time_share * length) if in_time else how.bands) + 1))
            start = math.floor(v * (size - width + 1))
            for frame, band in product(range(length), range(audio.shape[2])):
                if start <= (frame if in_time else band) < start + width:
                    hidden[clip, frame, band] = mean
    return hidden


def clips(seed, dtype=torch.float32):
    """Zero-padded log-mels (5, 12, 6), and their true frames."""
    generator = torch.Generator().manual_seed(seed)
    audio, lens = torch.randn(5, 12, 6, generator=generator).to(dtype) - 5, torch.tensor([12, 4, 9, 1, 11])
    audio[torch.arange(12) >= lens[:, None]] = 0
    return audio, lens


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_hidden_is_that_of_plain_loops(how, dtype):
    for seed in range(20):
        audio, lens = clips(seed, dtype)
        draws = torch.rand(5, how.masks, 2, generator=torch.Generator().manual_seed(seed))
        expected, hidden = plain(audio, lens, draws, how), spec_augment(audio, lens, draws, how)
        assert hidden.dtype == dtype and torch.equal(hidden == audio, expected == audio)
        torch.testing.assert_close(hidden, expected)


def test_the_extremes_of_the_draws_stay_within_the_clip():
    audio, lens = clips(0)
    how = SpecAugment(time_masks=1, time_share=0.5)
    nothing = torch.zeros(5, 1, 2)  # width 0
    assert torch.equal(spec_augment(audio, lens, nothing, how), audio)
    most = torch.full((5, 1, 2), 1 - 2**-24)  # as near to 1 as float32 gets: the widest mask, at the end
    changed = (spec_augment(audio, lens, most, how) != audio).any(dim=2)
    for clip, length in enumerate(lens.tolist()):
        assert changed[clip].nonzero().flatten().tolist() == list(range(length - length // 2, length))


def test_widths_then_starts_are_uniform():
    """A mask of 0 to 2 of 4 frames: each width in a third of the clips, then each place alike."""
    count = 60_000
    draws = torch.rand(count, 1, 2, generator=torch.Generator().manual_seed(0))
    audio = torch.arange(8.0).view(1, 4, 2).repeat(count, 1, 1)  # no value is the mean
    hidden = spec_augment(audio, torch.full((count,), 4), draws, SpecAugment(time_masks=1, time_share=0.5))
    patterns, counts = (hidden != audio)[:, :, 0].unique(dim=0, return_counts=True)
    shares = {tuple(row): number / count for row, number in zip(patterns.int().tolist(), counts.tolist(), strict=True)}
    expected = {(0, 0, 0, 0): 1 / 3}
    expected |= {tuple(int(i == start) for i in range(4)): 1 / 12 for start in range(4)}
    expected |= {tuple(int(i in (start, start + 1)) for i in range(4)): 1 / 9 for start in range(3)}
    assert shares == pytest.approx(expected, abs=0.01)

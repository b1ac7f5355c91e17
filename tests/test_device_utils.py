"""What is made ahead for a device is what would have been made step by step."""

import pytest
import torch

from tests.helpers import CPU
from utils.device_utils import Draws


@pytest.mark.parametrize("at_once", [1, 100, 10_000])
def test_draws_made_at_once_are_those_made_step_by_step(at_once):
    draws, generator = Draws(torch.Generator().manual_seed(0), CPU), torch.Generator().manual_seed(0)
    draws.at_once = at_once  # as on CUDA
    for size in (9, 9, 4, 9, 30):
        taken = draws.take(2, size, size)
        for each in taken:  # as random_ns draws them: the audio negatives', then the text negatives'
            assert torch.equal(each, torch.rand(size, size, generator=generator))

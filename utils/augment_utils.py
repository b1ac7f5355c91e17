"""SpecAugment: stretches of time and bands that a training step hides in its clips' log-mels.

Source: Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition", Interspeech 2019
(arXiv 1904.08779); without its time warping, which its authors found to matter least.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SpecAugment:
    """How much is hidden of each clip; nothing, as it stands."""

    time_masks: int = 0
    time_share: float = 0.1  # of a clip's own frames: so much a time mask hides at the most
    band_masks: int = 0
    bands: int = 8  # so many a band mask hides at the most

    @property
    def masks(self) -> int:
        """K, of both kinds."""
        return self.time_masks + self.band_masks


def spec_augment(audio: Tensor, lens: Tensor, draws: Tensor, how: SpecAugment) -> Tensor:
    """Log-mels of n clips, where what is hidden is the mean of the clip's own frames; the padding stays as it is.

    A mask's width is uniform in {0, ..., its most}, then its start among those where it fits in the clip.

    Args:
        audio: (n, T, M), zero-padded.
        lens: (n,) true frames.
        draws: (n, K, 2) uniform in [0, 1), for width and start; time masks come first.
    """
    most = (how.time_share * lens.double()).floor().unsqueeze(1)  # (n, 1) frames
    times, bands = draws.double().split([how.time_masks, how.band_masks], dim=1)
    frames = _hidden(times, most, lens.unsqueeze(1), audio.shape[1]).unsqueeze(2)  # (n, T, 1)
    hidden = frames | _hidden(bands, how.bands, audio.shape[2], audio.shape[2]).unsqueeze(1)  # (n, T, M)
    own = (torch.arange(audio.shape[1], device=audio.device) < lens.unsqueeze(1)).unsqueeze(2)  # (n, T, 1)
    mean = audio.sum(dim=(1, 2)) / (lens * audio.shape[2])  # (n,): the padding adds 0
    return torch.where(hidden & own, mean[:, None, None].to(audio.dtype), audio)


def _hidden(draws: Tensor, most: Tensor | int, size: Tensor | int, places: int) -> Tensor:
    """(n, places) bool: what masks by draws (n, K, 2) hide, each at most `most` wide, within the first `size`."""
    width = (draws[..., 0] * (most + 1)).floor()  # (n, K)
    start = (draws[..., 1] * (size - width + 1)).floor()
    place = torch.arange(places, device=draws.device).view(-1, 1, 1)
    return ((start <= place) & (place < start + width)).any(dim=2).T

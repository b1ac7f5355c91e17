"""The eight negative-sampling strategies, one small pure function each.

A strategy sees the scores of a batch of N anchor pairs and which items may serve as negatives of which anchor,
and returns two (N, N) boolean masks of what it picked: audio negatives and text negatives, a row an anchor.
An anchor without negatives gets empty rows. Ties go to the first index. Choosing takes no gradient.

A ninth strategy is one function here and one row in STRATEGIES. One that reads scores within a modality declares it,
by `compares`: audio-audio scores need the encoder's outputs of all clips.
Source: Xie, Räsänen, Virtanen, "On Negative Sampling for Contrastive Audio-Text Retrieval", ICASSP 2023.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from utils.score_utils import BatchScores

Picks = tuple[Tensor, Tensor]  # audio negatives, text negatives: (N, N) bool each
Strategy = Callable[[BatchScores, Tensor, torch.Generator | None], Picks]


def compares(modality: str) -> Callable[[Strategy], Strategy]:
    """Declare that a strategy compares items of one modality, "text" or "audio", with each other."""

    def declare(strategy: Strategy) -> Strategy:
        strategy.compares = modality
        return strategy

    return declare


def random_ns(scores: BatchScores, negatives: Tensor, generator: torch.Generator | Tensor | None) -> Picks:
    """One audio and one text negative, drawn apart and uniformly; the draws (2, N, N) may be given."""
    if not isinstance(generator, Tensor):
        # on the CPU: the same negatives on every device
        generator = torch.rand((2, *negatives.shape), generator=generator).to(negatives.device)
    return _highest(generator[0], negatives), _highest(generator[1], negatives)


def full_batch_ns(scores: BatchScores, negatives: Tensor, generator: torch.Generator | None) -> Picks:
    """All negatives of the batch."""
    return negatives, negatives


def semi_hard_ns(scores: BatchScores, negatives: Tensor, generator: torch.Generator | None) -> Picks:
    """The negative whose cross-modality score is closest to the anchor pair's, on either side."""
    positive = scores.audio_text.diagonal().unsqueeze(1)  # (N, 1): S_ii
    audio_gap = (scores.audio_text.T - positive).abs()  # [i, j]: |S(a_j, t_i) - S_ii|
    text_gap = (scores.audio_text - positive).abs()  # [i, k]: |S(a_i, t_k) - S_ii|
    return _highest(-audio_gap, negatives), _highest(-text_gap, negatives)


def hard_ns(scores: BatchScores, negatives: Tensor, generator: torch.Generator | None) -> Picks:
    """The negative with the highest cross-modality score."""
    return _highest(scores.audio_text.T, negatives), _highest(scores.audio_text, negatives)


@compares("text")
def easy_text_ns(scores: BatchScores, negatives: Tensor, generator: torch.Generator | None) -> Picks:
    """The pair whose caption is least like the anchor's."""
    return _pair(_highest(-scores.text_text(), negatives))


@compares("text")
def hard_text_ns(scores: BatchScores, negatives: Tensor, generator: torch.Generator | None) -> Picks:
    """The pair whose caption is most like the anchor's."""
    return _pair(_highest(scores.text_text(), negatives))


@compares("audio")
def easy_audio_ns(scores: BatchScores, negatives: Tensor, generator: torch.Generator | None) -> Picks:
    """The pair whose clip is least like the anchor's."""
    return _pair(_highest(-scores.audio_audio(), negatives))


@compares("audio")
def hard_audio_ns(scores: BatchScores, negatives: Tensor, generator: torch.Generator | None) -> Picks:
    """The pair whose clip is most like the anchor's."""
    return _pair(_highest(scores.audio_audio(), negatives))


STRATEGIES: dict[str, Strategy] = {
    "random-NS": random_ns,
    "full-batch-NS": full_batch_ns,
    "semi-hard-NS": semi_hard_ns,
    "hard-NS": hard_ns,
    "easy-text-NS": easy_text_ns,
    "hard-text-NS": hard_text_ns,
    "easy-audio-NS": easy_audio_ns,
    "hard-audio-NS": hard_audio_ns,
}


def _highest(values: Tensor, negatives: Tensor) -> Tensor:
    """(N, N) mask of each anchor's negative with the highest value; ties: first index."""
    choice = values.masked_fill(~negatives, -torch.inf).argmax(dim=1, keepdim=True)
    return (torch.arange(len(negatives), device=negatives.device) == choice) & negatives


def _pair(picked: Tensor) -> Picks:
    """The same pair serves as the audio and as the text negative."""
    return picked, picked

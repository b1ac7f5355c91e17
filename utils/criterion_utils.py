"""The training objectives: the paper's triplet loss, and InfoNCE. Both take a batch's scores, however S is computed."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.sampling_utils import STRATEGIES
from utils.score_utils import BatchScores


class Picked(NamedTuple):
    """A strategy's picks in a batch of N pairs, and what it picked from: (N, N) each, without gradient."""

    scores: Tensor  # S(a_i, t_j)
    negatives: Tensor  # bool, of `negative_mask`
    audio: Tensor  # bool, a row an anchor: its audio negatives
    text: Tensor  # bool: its text negatives


class LossTerms(NamedTuple):
    """A batch's loss, the share of its comparisons that still add to it (both scalars), and a strategy's picks."""

    loss: Tensor
    active: Tensor
    picked: Picked | None = None  # by a loss that has a strategy


class TripletLoss(nn.Module):
    """L = mean over anchors i of [mean_j max(0, S(a_j, t_i) - S_ii + m) + mean_k max(0, S(a_i, t_k) - S_ii + m)].

    j and k run over the audio and text negatives that the sampling strategy picks; anchors without negatives are left
    out of the mean, and the loss is 0 with zero gradients where there are no others. Active are the triplets that
    violate the margin. Source: ICASSP 2023 paper, section 2.

    Args:
        margin: m.
        sampling: a name in `utils.sampling_utils.STRATEGIES`; another raises ValueError.
    """

    def __init__(self, margin: float, sampling: str):
        super().__init__()
        if sampling not in STRATEGIES:
            raise ValueError(f"sampling {sampling!r}: it is one of {', '.join(STRATEGIES)}")
        self.margin = margin
        self.pick = STRATEGIES[sampling]

    def forward(
        self, scores: BatchScores, negatives: Tensor, generator: torch.Generator | Tensor | None = None
    ) -> LossTerms:
        """The loss of N pairs, from their scores (N, N) and `negatives` (N, N), the candidates of `negative_mask`.

        `generator` draws the random negatives, or is their draws (2, N, N); None is torch's own.
        """
        cross = scores.audio_text
        with torch.no_grad():
            audio_picks, text_picks = self.pick(scores._replace(audio_text=cross.detach()), negatives, generator)
        positive = cross.diagonal().unsqueeze(1)  # (N, 1): S_ii
        # clamp, not relu: the published code's gradient at exactly 0
        audio_hinge = (cross.T - positive + self.margin).clamp(min=0)  # [i, j]: anchor i, audio negative j
        text_hinge = (cross - positive + self.margin).clamp(min=0)  # [i, k]: anchor i, text negative k
        anchors = _mean_of_picked(audio_hinge, audio_picks) + _mean_of_picked(text_hinge, text_picks)  # (N,)
        loss = anchors.sum() / negatives.any(dim=1).sum().clamp(min=1)
        violations = ((audio_hinge > 0) & audio_picks).sum() + ((text_hinge > 0) & text_picks).sum()
        active = violations / (audio_picks.sum() + text_picks.sum()).clamp(min=1)
        return LossTerms(loss, active, Picked(cross.detach(), negatives, audio_picks, text_picks))


class InfoNCE(nn.Module):
    """L = mean over anchors i of the cross-entropy of t_i among {t_i, t_k} and of a_i among {a_i, a_j}, halved.

    The logits are S / tau; j and k run over all of the batch's negatives; anchors that have none are left out of the
    mean. Active are the anchors that a negative outscores. tau is learnt, by its logarithm.
    Source: van den Oord et al., arXiv 1807.03748; the objective of the DCASE 2023 language-based retrieval baseline.

    Args:
        temperature: tau at the start.
    """

    def __init__(self, temperature: float):
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def forward(
        self, scores: BatchScores, negatives: Tensor, generator: torch.Generator | Tensor | None = None
    ) -> LossTerms:
        """The loss of N pairs; arguments as in `TripletLoss.forward`, the generator is not needed."""
        cross = scores.audio_text
        own = torch.arange(len(cross), device=cross.device)
        others = ~negatives.logical_or(torch.eye(len(cross), dtype=torch.bool, device=cross.device))
        logits = (cross / self.log_temperature.exp().to(cross.device)).masked_fill(others, -torch.inf)
        texts, audios = (F.cross_entropy(each, own, reduction="none") for each in (logits, logits.T))  # (N,) each
        outscored = (logits.argmax(dim=1) != own).float() + (logits.argmax(dim=0) != own).float()
        count = 2 * negatives.any(dim=1).sum().clamp(min=1)  # an anchor without negatives adds 0 to both sums
        return LossTerms((texts + audios).sum() / count, outscored.sum() / count)


CRITERIA: dict[str, type[nn.Module]] = {"TripletLoss": TripletLoss, "InfoNCE": InfoNCE}


def compares_clips(criterion: nn.Module) -> bool:
    """Whether a criterion's strategy needs the scores of clips with clips."""
    return getattr(getattr(criterion, "pick", None), "compares", None) == "audio"


def negative_mask(fids: Tensor) -> Tensor:
    """(N,) clip numbers -> (N, N) bool: [i, j]: is item j of another clip than anchor i?"""
    return fids.unsqueeze(1) != fids.unsqueeze(0)


def _mean_of_picked(hinge: Tensor, picks: Tensor) -> Tensor:
    """(N,) mean of each row's picked terms; 0 where nothing was picked."""
    return (hinge * picks).sum(dim=1) / picks.sum(dim=1).clamp(min=1)

"""The training objectives: the paper's triplet loss, and InfoNCE."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.distributed_utils import gather_rows, rank, share, sum_over_processes, world_size
from utils.sampling_utils import STRATEGIES, BatchScores
from utils.score_utils import score_matrix, self_score_matrix, self_step_score_matrix, step_score_matrix


class LossTerms(NamedTuple):
    """A batch's loss, and the share of its comparisons that are not won yet (both scalars)."""

    loss: Tensor
    active: Tensor


class Criterion(nn.Module):
    """A loss of a batch's scores: a subclass says which, in `of_scores`.

    By default scores average over the padded lengths, as in the published code.

    Args:
        mask_words: average scores over each caption's own words; needs text_lens.
        mask_frames: average scores over each clip's own frames; needs audio_lens.
    """

    def __init__(self, mask_words: bool = False, mask_frames: bool = False):
        super().__init__()
        self.mask_words = mask_words
        self.mask_frames = mask_frames

    def of_scores(
        self, scores: BatchScores, fids: Tensor | Sequence, generator: torch.Generator | None = None
    ) -> LossTerms:
        """The loss from the batch's scores; `generator` serves random choices (None: torch's own)."""
        raise NotImplementedError

    def forward(
        self,
        audio_embeds: Tensor,
        text_embeds: Tensor,
        fids: Tensor | Sequence,
        audio_lens: Tensor | None = None,
        text_lens: Tensor | None = None,
    ) -> Tensor:
        """Loss of N pairs: audio_embeds (N, T, E), text_embeds (N, W, E), their clips' fids (N,), true lengths (N,).

        Returns a scalar; 0 with zero gradients where no anchor has a negative.
        """
        return self.of_embeddings(audio_embeds, text_embeds, fids, audio_lens, text_lens).loss

    def of_embeddings(
        self,
        audio_embeds: Tensor,
        text_embeds: Tensor,
        fids: Tensor | Sequence,
        audio_lens: Tensor | None = None,
        text_lens: Tensor | None = None,
    ) -> LossTerms:
        """As `forward`, with the share of active triplets."""
        audio_lens, text_lens = self._counted_lens(audio_lens, text_lens)
        scores = BatchScores(
            audio_text=score_matrix(audio_embeds, text_embeds, audio_lens, text_lens),
            text_text=lambda: self_score_matrix(text_embeds, text_lens),
            audio_audio=lambda: self_score_matrix(audio_embeds, audio_lens),
        )
        return self.of_scores(scores, fids)

    def of_steps(
        self,
        steps: Tensor,
        frames: int,
        text_embeds: Tensor,
        fids: Tensor | Sequence,
        audio_lens: Tensor | None = None,
        text_lens: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> LossTerms:
        """As `of_embeddings`, from audio steps (N, L, E) that stand for T frames: the same numbers, faster.

        Of several processes each gives the steps (n, L, E) of its own share of the pairs, and all else of all N. Each
        gets the whole batch's loss, with that part of the gradient that goes through its own steps.
        """
        audio_lens, text_lens = self._counted_lens(audio_lens, text_lens)
        n = len(text_embeds)
        own_lens = None if audio_lens is None else audio_lens[share(n)]
        own_rows = range(rank(), n, world_size())  # of a triangle: every so many, for equal work

        def audio_audio() -> Tensor:
            part = self_step_score_matrix(gather_rows(steps.detach(), n), frames, audio_lens, own_rows)
            return sum_over_processes(part)

        scores = BatchScores(
            audio_text=gather_rows(step_score_matrix(steps, frames, text_embeds, own_lens, text_lens), n),
            text_text=lambda: self_score_matrix(text_embeds, text_lens),
            audio_audio=audio_audio,
        )
        return self.of_scores(scores, fids, generator)

    def _counted_lens(self, audio_lens: Tensor | None, text_lens: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The lengths to average over: None (the padded ones) unless an option is on, and then they must be there."""
        if self.mask_frames and audio_lens is None:
            raise ValueError("mask_frames needs the true lengths")
        if self.mask_words and text_lens is None:
            raise ValueError("mask_words needs the true lengths")
        return audio_lens if self.mask_frames else None, text_lens if self.mask_words else None


class TripletLoss(Criterion):
    """L = mean over anchors i of [mean_j max(0, S(a_j, t_i) - S_ii + m) + mean_k max(0, S(a_i, t_k) - S_ii + m)].

    j and k run over the audio and text negatives that the sampling strategy picks among the batch's items with
    another fid; anchors that have none are left out of the mean. Active are the triplets that violate the margin.
    Source: ICASSP 2023 paper, section 2.

    Args:
        margin: m.
        sampling: a name in `utils.sampling_utils.STRATEGIES`.
        mask_words, mask_frames: as in `Criterion`.
    """

    def __init__(self, margin: float, sampling: str, mask_words: bool = False, mask_frames: bool = False):
        super().__init__(mask_words, mask_frames)
        if sampling not in STRATEGIES:
            raise ValueError(f"sampling {sampling!r}: it is one of {', '.join(STRATEGIES)}")
        self.margin = margin
        self.pick = STRATEGIES[sampling]

    def of_scores(
        self, scores: BatchScores, fids: Tensor | Sequence, generator: torch.Generator | None = None
    ) -> LossTerms:
        """As in `Criterion`."""
        cross = scores.audio_text
        negatives = negative_mask(fids, cross.device)  # (N, N)
        with torch.no_grad():
            audio_picks, text_picks = self.pick(scores._replace(audio_text=cross.detach()), negatives, generator)
        positive = cross.diagonal().unsqueeze(1)  # (N, 1): S_ii
        audio_hinge = (cross.T - positive + self.margin).clamp(min=0)  # [i, j]: anchor i, audio negative j
        text_hinge = (cross - positive + self.margin).clamp(min=0)  # [i, k]: anchor i, text negative k
        anchors = _mean_of_picked(audio_hinge, audio_picks) + _mean_of_picked(text_hinge, text_picks)  # (N,)
        loss = anchors.sum() / negatives.any(dim=1).sum().clamp(min=1)
        violations = ((audio_hinge > 0) & audio_picks).sum() + ((text_hinge > 0) & text_picks).sum()
        active = violations / (audio_picks.sum() + text_picks.sum()).clamp(min=1)
        return LossTerms(loss, active)


class InfoNCE(Criterion):
    """L = mean over anchors i of the cross-entropy of t_i among {t_i, t_k} and of a_i among {a_i, a_j}, halved.

    The logits are S / tau; j and k run over all of the batch's items with another fid; anchors that have none are left
    out of the mean. Active are the anchors that a negative outscores. tau is learnt, by its logarithm.
    Source: van den Oord et al., arXiv 1807.03748; the objective of the DCASE 2023 language-based retrieval baseline.

    Args:
        temperature: tau at the start.
        mask_words, mask_frames: as in `Criterion`.
    """

    def __init__(self, temperature: float, mask_words: bool = False, mask_frames: bool = False):
        super().__init__(mask_words, mask_frames)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def of_scores(
        self, scores: BatchScores, fids: Tensor | Sequence, generator: torch.Generator | None = None
    ) -> LossTerms:
        """As in `Criterion`."""
        cross = scores.audio_text
        negatives = negative_mask(fids, cross.device)  # (N, N)
        anchors = negatives.any(dim=1)  # (N,)
        own = torch.arange(len(cross), device=cross.device)
        others = ~negatives.logical_or(torch.eye(len(cross), dtype=torch.bool, device=cross.device))
        logits = (cross / self.log_temperature.exp().to(cross.device)).masked_fill(others, -torch.inf)
        texts, audios = (F.cross_entropy(each, own, reduction="none") for each in (logits, logits.T))  # (N,) each
        count = anchors.sum().clamp(min=1)
        outscored = (logits.argmax(dim=1) != own).float() + (logits.argmax(dim=0) != own).float()
        return LossTerms(((texts + audios) * anchors).sum() / (2 * count), (outscored * anchors).sum() / (2 * count))


CRITERIA: dict[str, type[Criterion]] = {"TripletLoss": TripletLoss, "InfoNCE": InfoNCE}


def negative_mask(fids: Tensor | Sequence, device: torch.device | str = "cpu") -> Tensor:
    """(N, N) bool: [i, j] is whether item j may serve as a negative of anchor i, that is, has another fid."""
    if not isinstance(fids, Tensor):
        fids = torch.from_numpy(np.unique(np.asarray(fids), return_inverse=True)[1])
    fids = fids.to(device)
    return fids.unsqueeze(1) != fids.unsqueeze(0)


def _mean_of_picked(hinge: Tensor, picks: Tensor) -> Tensor:
    """(N,) mean of each row's picked terms; 0 where nothing was picked."""
    return (hinge * picks).sum(dim=1) / picks.sum(dim=1).clamp(min=1)

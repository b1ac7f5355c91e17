"""Scores from what the audio encoder gives before upsampling: the same as `score_utils` has them, at less cost.

Dot products commute with upsampling, max(0, normalise(upsample(x)) . w) = max(0, upsample(x . w)) / |upsample(x)|:
they are taken at a quarter of the frames. What is pooled are frames, whatever the pool: normalised, the best frame may
lie between two steps.

Shapes: N, M items; T frames; W words; L steps; E embedding dimension; V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.audio_encoders import send, upsample
from utils.score_utils import (
    AT_ONCE,
    BatchScores,
    Pool,
    mean_over_frames,
    mean_weights,
    self_score_matrix,
    symmetric,
    word_weights,
)


def step_score_matrix(
    steps: Tensor,
    frames: int,
    text_embeds: Tensor,
    audio_lens: Tensor | None = None,
    text_lens: Tensor | None = None,
    pool: Pool = mean_over_frames,
    importance: Tensor | None = None,
) -> Tensor:
    """`score_matrix` of upsampled and normalised steps, without making the frames.

    Args:
        steps: (N, L, E) of `CRNNWordModel.audio_steps`.
        frames: T, the number of frames that they stand for.
        text_embeds: (M, W, E).
        audio_lens, text_lens: (N,) frames and (M,) words, as in `score_matrix`, as the rest.

    Returns:
        (N, M) scores.
    """
    n, length, _ = steps.shape
    m, w, _ = text_embeds.shape
    dots = steps.flatten(0, 1) @ text_embeds.flatten(0, 1).T  # (N*L, M*W)
    # relu keeps less for its gradient than clamp, and needs not copy it; at 0 theirs differ, but a dot product that is
    # exactly 0 is a zero vector's, which hands on none. In place only without gradient: upsampling gives a view.
    similarities = F.relu(upsample(dots.view(n, length, m * w), frames), inplace=not dots.requires_grad)  # (N, T, M*W)
    by_word = pool(similarities, step_norms(steps, frames), audio_lens).view(n, m, w)  # (N, M, W)
    return (by_word * word_weights(text_lens, m, w, similarities, importance)).sum(dim=-1)


@torch.no_grad()
def word_scores(steps: Tensor, frames: int, embeds: Tensor, pool: Pool = mean_over_frames) -> Tensor:
    """`step_score_matrix` of one clip's steps (1, L, E) with words (V, E), without gradient: (V,).

    So many words at a time as bound the memory: a pool holds their similarities up to four times.
    """
    at_once = max(1, AT_ONCE // (4 * frames))
    parts = embeds.split(at_once)
    return torch.cat([step_score_matrix(steps, frames, some.unsqueeze(1), pool=pool)[0] for some in parts])


def step_norms(steps: Tensor, frames: int) -> Tensor:
    """(N, T): the lengths of upsampled frames of steps (N, L, E).

    The squared length of (1 - p) x + p y is (1 - p)^2 |x|^2 + 2 p (1 - p) x.y + p^2 |y|^2.
    """
    left, right, p = _between(steps, frames)
    squares = steps.square().sum(dim=-1)  # (N, L)
    products = (steps * torch.cat([steps[:, 1:], steps[:, -1:]], dim=1)).sum(dim=-1)  # (N, L)
    apart = (1 - p) ** 2 * squares[:, left] + p**2 * squares[:, right]
    square = apart + 2 * p * (1 - p) * products[:, left]
    # Where neighbours cancel out, only rounding is left of the frame: it is kept from growing to full length.
    floor = (1e-6 * apart).detach().clamp(min=1e-24)
    return square.maximum(floor).sqrt()


def step_weights(steps: Tensor, frames: int, lens: Tensor | None = None) -> Tensor:
    """(N, T): what each upsampled frame of steps (N, L, E) counts in a mean over T or `lens` normalised frames."""
    return mean_weights(lens, len(steps), frames, steps) / step_norms(steps, frames)


@torch.no_grad()
def pair_scores(steps: Tensor, weights: Tensor, other_steps: Tensor, other_weights: Tensor) -> Tensor:
    """Scores of one clip with others of one length, frame by frame, without gradient.

    Args:
        steps: (L, E), and weights: (T,) of `step_weights`.
        other_steps: (N, K, E), and other_weights: (N, S).

    Returns:
        (N,) scores; frame by frame dot products are interpolated from step by step ones in both directions, of long
        clips from those of some frames of the others at a time.
    """
    size = (other_weights.shape[1], len(weights))  # S, T
    at_once = max(1, AT_ONCE // (len(other_steps) * size[1]))  # frames of the others
    if size[0] <= at_once:
        by_frame = upsample(steps @ other_steps.transpose(1, 2), size[1])  # (N, T, K)
        # Upsampling goes row by row, through memory as it lies.
        similarities = upsample(by_frame.transpose(1, 2).contiguous(), size[0]).clamp_(min=0)  # (N, S, T)
        return (similarities @ weights * other_weights).sum(dim=-1)
    left, right, p = _between(other_steps, size[0])
    scores = other_weights.new_zeros(len(other_steps))
    for first in range(0, size[0], at_once):
        some = slice(first, first + at_once)  # S'
        others = torch.lerp(other_steps[:, left[some]], other_steps[:, right[some]], p[some].unsqueeze(1))
        similarities = upsample(steps @ others.transpose(1, 2), size[1]).clamp_(min=0)  # (N, T, S')
        scores += (weights @ similarities * other_weights[:, some]).sum(dim=-1)
    return scores


@torch.no_grad()
def self_step_score_matrix(steps: Tensor, frames: int, lens: Tensor | None = None, rows: range | None = None) -> Tensor:
    """`self_score_matrix` of upsampled and normalised steps (N, L, E), without making the frames: (N, N).

    With `rows`, only the pairs i <= j whose i is among them, and 0 elsewhere: the parts add up to the whole.
    """
    n, weights = len(steps), step_weights(steps, frames, lens)
    scores, rows = steps.new_zeros(n, n), range(n) if rows is None else rows
    pairs = torch.tensor([(i, j) for i in rows for j in range(i, n)], dtype=torch.int64).view(-1, 2).T  # (2, P)
    if steps.is_cuda and frames**2 <= AT_ONCE:
        for i, j in send(pairs, steps.device).split(AT_ONCE // frames**2, dim=1):
            scores[i, j] = _scores_of_pairs(steps[i], weights[i], steps[j], weights[j])
    else:  # on a CPU one pair's T * T values stay in the cache
        for i, j in pairs.T.tolist():
            scores[i, j] = pair_scores(steps[i], weights[i], steps[j : j + 1], weights[j : j + 1])[0]
    return symmetric(scores)


def _scores_of_pairs(steps: Tensor, weights: Tensor, other_steps: Tensor, other_weights: Tensor) -> Tensor:
    """`pair_scores` of P clips (P, L, E) with one other each, weights (P, T): (P,), from P products at once."""
    dots = steps @ other_steps.transpose(1, 2)  # (P, L, L)
    size = weights.shape[1], other_weights.shape[1]
    similarities = F.interpolate(dots.unsqueeze(1), size=size, mode="bilinear", align_corners=False).squeeze(1)
    by_frame = torch.bmm(weights.unsqueeze(1), similarities.clamp_(min=0)).squeeze(1)  # (P, T)
    return (by_frame * other_weights).sum(dim=-1)


def batch_scores(
    steps: Tensor,
    frames: int,
    text_embeds: Tensor,
    audio_lens: Tensor | None = None,
    text_lens: Tensor | None = None,
    pool: Pool = mean_over_frames,
    importance: Tensor | None = None,
) -> BatchScores:
    """The scores of a batch, from the steps (N, L, E) of its clips; arguments as in `step_score_matrix`."""
    return BatchScores(
        audio_text=step_score_matrix(steps, frames, text_embeds, audio_lens, text_lens, pool, importance),
        text_text=lambda: self_score_matrix(text_embeds, text_lens),
        audio_audio=lambda: self_step_score_matrix(steps.detach(), frames, audio_lens),
    )


def _between(steps: Tensor, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """The steps (of N, L, E) that each upsampled frame lies between, and how near it is to the right one: (T,) each."""
    length = steps.shape[1]
    place = ((torch.arange(frames, device=steps.device) + 0.5) * (length / frames) - 0.5).clamp(min=0)
    left = place.long().clamp(max=length - 1)
    return left, (left + 1).clamp(max=length - 1), (place - left).to(steps.dtype)

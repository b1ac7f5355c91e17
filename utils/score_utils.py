"""The score of a clip and a caption: S = mean over frames f and words w of max(0, a_f . e_w).

`score_matrix` is the definition. The functions of steps give the same numbers from dot products at a quarter of the
frames; lengths decide whether a mean runs over the padding as well, as published, or over each item's own.

Shapes: N, M items; T frames; W words; L steps; E embedding dimension; V vocabulary; C clips.
Source: Xie, Räsänen, Virtanen, "On Negative Sampling for Contrastive Audio-Text Retrieval", ICASSP 2023.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from models.audio_encoders import send, upsample

AT_ONCE = 2**27  # similarities, frame by word or frame by frame: ten minutes by the words of Clotho; 0.5 GB


def score_matrix(
    audio_embeds: Tensor, text_embeds: Tensor, audio_lens: Tensor | None = None, text_lens: Tensor | None = None
) -> Tensor:
    """Scores of every clip with every caption, as one matrix product.

    Args:
        audio_embeds: (N, T, E) frame embeddings.
        text_embeds: (M, W, E) word embeddings.
        audio_lens: (N,) true frame counts, to average over those alone; None averages over all T, padding
            included, as published.
        text_lens: (M,) true word counts, likewise.

    Returns:
        (N, M) scores. Either side may as well hold the other modality: S(t, t) and S(a, a) are the same function.
    """
    n, t, _ = audio_embeds.shape
    m, w, _ = text_embeds.shape
    similarities = audio_embeds.flatten(0, 1) @ text_embeds.flatten(0, 1).T  # (N*T, M*W)
    # clamp, not relu: the published code's gradient at exactly 0
    similarities = similarities.clamp(min=0).view(n, t, m * w)  # (N, T, M*W)
    frame_weights = _mean_weights(audio_lens, n, t, similarities)  # (N, T)
    word_weights = _mean_weights(text_lens, m, w, similarities)  # (M, W)
    by_word = torch.bmm(frame_weights.unsqueeze(1), similarities).view(n, m, w)  # (N, M, W)
    return (by_word * word_weights).sum(dim=-1)


def alignment_map(audio_embeds: Tensor, text_embeds: Tensor) -> Tensor:
    """What a score is the mean of: frames (T, E) and words (W, E) -> (T, W), max(0, a_f . e_w)."""
    return (audio_embeds @ text_embeds.T).clamp(min=0)


@torch.no_grad()
def self_score_matrix(embeds: Tensor, lens: Tensor | None = None) -> Tensor:
    """Scores of items of one modality with each other, without gradient; each pair is computed once.

    Args:
        embeds: (N, T, E); lens: (N,) true lengths or None, as in `score_matrix`.

    Returns:
        (N, N), symmetric. One row of pairs at a time bounds the memory at T * N * T values; CUDA takes all in one
        product where they are few.
    """
    n = len(embeds)
    if embeds.is_cuda and (n * embeds.shape[1]) ** 2 <= AT_ONCE:
        return _symmetric(score_matrix(embeds, embeds, lens, lens))
    scores = embeds.new_empty(n, n)
    for i in range(n):
        one_lens, rest_lens = (None, None) if lens is None else (lens[i : i + 1], lens[i:])
        row = score_matrix(embeds[i : i + 1], embeds[i:], one_lens, rest_lens)[0]
        scores[i, i:] = scores[i:, i] = row
    return scores


def step_score_matrix(
    steps: Tensor,
    frames: int,
    text_embeds: Tensor,
    audio_lens: Tensor | None = None,
    text_lens: Tensor | None = None,
) -> Tensor:
    """`score_matrix` of upsampled and normalised steps, without making the frames: dot products commute with
    upsampling, max(0, normalise(upsample(x)) . w) = max(0, upsample(x . w)) / |upsample(x)|.

    Args:
        steps: (N, L, E) of `CRNNWordModel.audio_steps`.
        frames: T, the number of frames that they stand for.
        text_embeds: (M, W, E).
        audio_lens, text_lens: (N,) frames and (M,) words, as in `score_matrix`.

    Returns:
        (N, M) scores.
    """
    n, length, _ = steps.shape
    m, w, _ = text_embeds.shape
    dots = steps.flatten(0, 1) @ text_embeds.flatten(0, 1).T  # (N*L, M*W)
    similarities = upsample(dots.view(n, length, m * w), frames).clamp_(min=0)  # (N, T, M*W)
    frame_weights = step_weights(steps, frames, audio_lens)  # (N, T)
    word_weights = _mean_weights(text_lens, m, w, similarities)  # (M, W)
    by_word = torch.bmm(frame_weights.unsqueeze(1), similarities).view(n, m, w)  # (N, M, W)
    return (by_word * word_weights).sum(dim=-1)


@torch.no_grad()
def word_scores(steps: Tensor, frames: int, embeds: Tensor) -> Tensor:
    """`step_score_matrix` of one clip's steps (1, L, E) with words (V, E), without gradient: (V,).

    So many words at a time as bound the memory.
    """
    at_once = max(1, AT_ONCE // frames)
    return torch.cat([step_score_matrix(steps, frames, some.unsqueeze(1))[0] for some in embeds.split(at_once)])


def step_weights(steps: Tensor, frames: int, lens: Tensor | None = None) -> Tensor:
    """(N, T): what each upsampled frame of steps (N, L, E) counts in a mean over T or `lens` normalised frames.

    The squared length of (1 - p) x + p y is (1 - p)^2 |x|^2 + 2 p (1 - p) x.y + p^2 |y|^2.
    """
    left, right, p = _between(steps, frames)
    squares = steps.square().sum(dim=-1)  # (N, L)
    products = (steps * torch.cat([steps[:, 1:], steps[:, -1:]], dim=1)).sum(dim=-1)  # (N, L)
    apart = (1 - p) ** 2 * squares[:, left] + p**2 * squares[:, right]
    square = apart + 2 * p * (1 - p) * products[:, left]
    # Where neighbours cancel out, only rounding is left of the frame: it is kept from growing to full length.
    floor = (1e-6 * apart).detach().clamp(min=1e-24)
    return _mean_weights(lens, len(steps), frames, steps) / square.maximum(floor).sqrt()


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
    return _symmetric(scores)


def _symmetric(scores: Tensor) -> Tensor:
    """(N, N), with what is above the diagonal below it as well."""
    return torch.triu(scores) + torch.triu(scores, diagonal=1).T


def _scores_of_pairs(steps: Tensor, weights: Tensor, other_steps: Tensor, other_weights: Tensor) -> Tensor:
    """`pair_scores` of P clips (P, L, E) with one other each, weights (P, T): (P,), from P products at once."""
    dots = steps @ other_steps.transpose(1, 2)  # (P, L, L)
    size = weights.shape[1], other_weights.shape[1]
    similarities = F.interpolate(dots.unsqueeze(1), size=size, mode="bilinear", align_corners=False).squeeze(1)
    by_frame = torch.bmm(weights.unsqueeze(1), similarities.clamp_(min=0)).squeeze(1)  # (P, T)
    return (by_frame * other_weights).sum(dim=-1)


class BatchScores(NamedTuple):
    """Scores within a batch of N pairs; those within a modality are computed only for a strategy that asks."""

    audio_text: Tensor  # (N, N): S(a_i, t_j)
    text_text: Callable[[], Tensor]  # () -> (N, N): S(t_i, t_j), without gradient
    audio_audio: Callable[[], Tensor]  # () -> (N, N): S(a_i, a_j), without gradient


def batch_scores(
    steps: Tensor,
    frames: int,
    text_embeds: Tensor,
    audio_lens: Tensor | None = None,
    text_lens: Tensor | None = None,
) -> BatchScores:
    """The scores of a batch, from the steps (N, L, E) of its clips; arguments as in `step_score_matrix`."""
    return BatchScores(
        audio_text=step_score_matrix(steps, frames, text_embeds, audio_lens, text_lens),
        text_text=lambda: self_score_matrix(text_embeds, text_lens),
        audio_audio=lambda: self_step_score_matrix(steps.detach(), frames, audio_lens),
    )


def caption_word_weights(captions: list[np.ndarray], vocabulary: int | None = None) -> tuple[np.ndarray, csr_array]:
    """The captions' distinct words, and their share in each caption: S is one sparse product with the words' scores.

    Args:
        captions: M arrays of word ids.
        vocabulary: how many ids there are, to have a column for each; else for those that occur.

    Returns:
        words: (V,) the columns' ids, sorted.
        weights: (M, V) sparse float32: how often caption m has word v, over its length. With the word scores
            s (V, C) of clips, S = (weights @ s).T is the (C, M) matrix of masked scores.
    """
    lens = np.array([len(ids) for ids in captions], dtype=np.int64)
    words, columns = np.unique(np.concatenate([*captions, np.empty(0, np.int64)]), return_inverse=True)
    if vocabulary is not None:
        words, columns = np.arange(vocabulary), words[columns]
    shares = np.repeat(1.0 / np.maximum(lens, 1), lens).astype(np.float32)
    rows = np.repeat(np.arange(len(captions)), lens)
    return words.astype(np.int64), csr_array((shares, (rows, columns)), shape=(len(captions), len(words)))


def _between(steps: Tensor, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """The steps (of N, L, E) that each upsampled frame lies between, and how near it is to the right one: (T,) each."""
    length = steps.shape[1]
    place = ((torch.arange(frames, device=steps.device) + 0.5) * (length / frames) - 0.5).clamp(min=0)
    left = place.long().clamp(max=length - 1)
    return left, (left + 1).clamp(max=length - 1), (place - left).to(steps.dtype)


def _mean_weights(lens: Tensor | None, items: int, size: int, like: Tensor) -> Tensor:
    """(items, size) weights whose weighted sum is the mean over all places, or over each item's first `lens`."""
    if lens is None:
        return like.new_full((items, size), 1.0 / max(size, 1))
    lens = lens.to(like.device)
    inside = torch.arange(size, device=like.device) < lens.unsqueeze(1)
    return inside.to(like.dtype) / lens.clamp(min=1).unsqueeze(1)

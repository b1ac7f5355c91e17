"""Scores of a whole split: of words and captions with clips, of clips with clips and of captions with captions.

Every clip and caption is taken at its own length. On a CPU it goes clip by clip, whose values stay in the cache;
on CUDA in few large products. AT_ONCE bounds the similarities that are held at a time.

Shapes: N clips of a group; C clips, M captions of the split; T frames, L steps, E embedding dimension; V words;
P pairs.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from models.audio_encoders import TIME_POOLING, send, upsample
from utils.score_utils import AT_ONCE, Pool, mean_over_frames
from utils.step_score_utils import pair_scores, step_weights, word_scores

PARTNERS = 4  # clips that a clip is compared with at once on a CPU


@dataclass(frozen=True)
class EncodedClips:
    """What clips were encoded to: the steps of all of them in one tensor."""

    rows: Tensor  # (R, E) steps, with padding between the clips
    starts: np.ndarray  # (C,) the row that each clip begins at
    frames: np.ndarray  # (C,) frames that a clip's steps stand for

    def of(self, clip: int) -> Tensor:
        """A clip's steps (1, L, E), a view."""
        start = self.starts[clip]
        return self.rows[start : start + self.frames[clip] // TIME_POOLING].unsqueeze(0)


@torch.no_grad()
def group_word_scores(steps: Tensor, frames: list[int], embeds: Tensor, pool: Pool = mean_over_frames) -> Tensor:
    """Scores of words (V, E) with clips, padded steps (N, L, E) that stand for so many frames each: (V, N)."""
    if not steps.is_cuda:
        clips = zip(steps.split(1), frames, strict=True)
        return torch.stack([word_scores(clip[:, : t // TIME_POOLING], t, embeds, pool) for clip, t in clips], dim=1)
    size, (n, length, _) = max(frames), steps.shape
    own = send(torch.tensor(frames), steps.device)  # (N,)
    starts = torch.arange(n, device=steps.device) * length
    made = own_frames(steps.flatten(0, 1), starts, own, size).flatten(0, 1)  # (N*T, E)
    at_once = max(1, AT_ONCE // len(made))  # words
    parts = ((made @ some.T).clamp_(min=0).view(n, size, -1) for some in embeds.split(at_once))
    return torch.cat([pool(similarities, None, own) for similarities in parts], dim=1).T


@torch.no_grad()
def clip_pair_scores(clips: EncodedClips, pairs: np.ndarray) -> Tensor:
    """Scores of clips with clips, of pairs (P, 2) of indices: (P,)."""
    if not clips.rows.is_cuda:
        scored = _in_turn(clips, pairs)
        return torch.cat(scored) if scored else torch.zeros(0)
    frames = clips.frames[pairs]  # (P, 2)
    # Pairs of like lengths go together: little is padded.
    order = np.lexsort((frames.min(axis=1), frames.max(axis=1) // 64))
    long_first = np.where(frames[:, :1] >= frames[:, 1:], pairs, pairs[:, ::-1])[order]
    ahead = send(torch.from_numpy(np.stack([clips.starts, clips.frames])), clips.rows.device)  # (2, C)
    indices = send(torch.from_numpy(long_first), clips.rows.device)  # (P, 2)
    scores = []
    for part, sizes in _parts(clips.frames[long_first]):
        if sizes.prod() > AT_ONCE:
            scores += _in_turn(clips, long_first[part])
            continue
        one, other = (ahead[:, indices[part, side]] for side in (0, 1))  # starts and frames, (2, P') each
        made = (own_frames(clips.rows, *side, size) for side, size in zip((one, other), sizes.tolist(), strict=True))
        similarities = torch.bmm(next(made), next(made).transpose(1, 2)).clamp_(min=0)  # (P', T, T')
        scores.append(similarities.sum(dim=(1, 2)) / (one[1] * other[1]))
    return torch.cat(scores)[send(torch.from_numpy(np.argsort(order)), clips.rows.device)]


def _in_turn(clips: EncodedClips, pairs: np.ndarray) -> list[Tensor]:
    """The scores of P pairs, in vectors one behind the other: of a clip with a few of its partners at a time."""
    weights = {clip: step_weights(clips.of(clip), int(clips.frames[clip])) for clip in np.unique(pairs).tolist()}
    changes = np.flatnonzero(np.diff(pairs[:, 0])) + 1
    scores = []
    for same in np.split(pairs, changes) if len(pairs) else []:
        i, frames = int(same[0, 0]), int(clips.frames[same[0, 0]])
        for others in np.split(same[:, 1], range(PARTNERS, len(same), PARTNERS)):
            longest = int(clips.frames[others].max())
            if len(others) * frames * longest <= AT_ONCE:
                scores += _with_partners(clips, weights, i, others.tolist())
            else:
                scores += [pair_scores(clips.of(i)[0], weights[i][0], clips.of(j), weights[j]) for j in others.tolist()]
    return scores


def _with_partners(clips: EncodedClips, weights: dict[int, Tensor], clip: int, others: list[int]) -> list[Tensor]:
    """`pair_scores` of a clip with each of some others, which are compared step by step in one product."""
    steps = [clips.of(other)[0] for other in others]  # (K, E) each
    dots = clips.of(clip)[0] @ torch.cat(steps).T  # (L, all K)
    by_step = upsample(dots.unsqueeze(0), int(clips.frames[clip]))[0].T.contiguous()  # (all K, T)
    scores = []
    for part, other in zip(by_step.split([len(each) for each in steps]), others, strict=True):
        similarities = upsample(part.unsqueeze(0), int(clips.frames[other]))[0].clamp_(min=0)  # (S, T)
        scores.append(weights[other] @ (similarities @ weights[clip][0]))
    return scores


def _parts(frames: np.ndarray) -> list[tuple[slice, np.ndarray]]:
    """Runs of the pairs whose clips have so many frames (P, 2), so many as bound the memory, and their longest."""
    parts, first = [], 0
    while first < len(frames):
        longest = np.maximum.accumulate(frames[first : first + max(1, AT_ONCE // frames[first].prod())])
        sizes = longest.prod(axis=1) * np.arange(1, len(longest) + 1)
        count = max(1, int(np.searchsorted(sizes, AT_ONCE, side="right")))
        parts.append((slice(first, first + count), longest[count - 1]))
        first += count
    return parts


def own_frames(rows: Tensor, starts: Tensor, frames: Tensor, size: int) -> Tensor:
    """Frames of clips of different lengths, upsampled from their steps and of length 1, 0 beyond each clip's end.

    Args:
        rows: (R, E) steps.
        starts: (N,) the row that each clip begins at.
        frames: (N,) each clip's own frames.
        size: T, to pad them to.

    Returns:
        (N, T, E).
    """
    lens = (frames // TIME_POOLING).unsqueeze(1)  # (N, 1)
    time = torch.arange(size, device=rows.device)  # (T,)
    place = ((time + 0.5) * (lens / frames.unsqueeze(1)) - 0.5).clamp(min=0)  # (N, T)
    left = place.long().minimum(lens - 1)
    right, share = (left + 1).minimum(lens - 1), (place - left).unsqueeze(-1)
    begins = starts.unsqueeze(1)
    made = F.normalize(torch.lerp(rows[begins + left], rows[begins + right], share.to(rows.dtype)), dim=-1)
    return made * (time < frames.unsqueeze(1)).unsqueeze(-1)


def caption_sums(weights: csr_array, table: Tensor) -> Tensor:
    """The captions' weighted sums (M, K) of the words' rows of a table (V, K): a sparse product with weights (M, V)."""
    if not table.is_cuda:
        return torch.from_numpy(weights @ table.numpy())
    parts = (weights.indices.astype(np.int64), weights.indptr[:-1].astype(np.int64), weights.data)
    words, begins, shares = (send(torch.from_numpy(part), table.device) for part in parts)
    return F.embedding_bag(words, table, begins, mode="sum", per_sample_weights=shares)


@torch.no_grad()
def caption_pair_scores(embeds: Tensor, weights: csr_array, captions: np.ndarray) -> Tensor:
    """Scores of captions with captions, among those of each of B batches, at their own lengths.

    The captions' words are compared by way of the distinct ones, so captions of the same words tie exactly.

    Args:
        embeds: (V, E) words.
        weights: (M, V) how much of each caption a word is.
        captions: (B, N) indices.

    Returns:
        (B, N, N).
    """
    batches, n = captions.shape
    counts = np.diff(weights.indptr)
    places = weights.indptr[:-1, None] + np.arange(counts.max())  # (M, W) of the captions' distinct words
    inside = np.arange(counts.max()) < counts[:, None]
    places = np.where(inside, places, 0)
    own = send(torch.from_numpy(weights.indices[places].astype(np.int64)), embeds.device)
    shares = send(torch.from_numpy(np.where(inside, weights.data[places], 0)), embeds.device)
    chosen = send(torch.from_numpy(captions), embeds.device)
    scores, at_once = [], max(1, AT_ONCE // (n * max(len(embeds), n * own.shape[1])))  # batches
    for first in range(0, batches, at_once):
        some = chosen[first : first + at_once]  # (B', N)
        with_words = _word_means(embeds, weights[captions[first : first + at_once].ravel()])
        with_words = with_words.view(len(some), n, len(embeds))  # (B', N, V)
        theirs = own[some].view(len(some), 1, -1).expand(-1, n, -1)  # (B', N, N*W)
        by_word = with_words.gather(2, theirs).view(len(some), n, n, -1)  # (B', N, N, W)
        scores.append((by_word * shares[some].unsqueeze(1)).sum(dim=-1))
    return torch.cat(scores)


def _word_means(embeds: Tensor, weights: csr_array) -> Tensor:
    """Scores of captions with single words, of weights (M, V) and embeddings (V, E): (M, V)."""
    at_once = max(1, AT_ONCE // len(embeds))  # words
    return torch.cat([caption_sums(weights, (embeds @ some.T).clamp_(min=0)) for some in embeds.split(at_once)], dim=1)

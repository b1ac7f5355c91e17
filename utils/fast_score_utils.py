"""The scores of `score_utils`, cheaper: equal up to rounding, from the encoder's outputs before upsampling.

Dot products commute with upsampling, max(0, normalise(upsample(x)) . w) = max(0, upsample(x . w)) / |upsample(x)|, so
they are taken at the encoder's rate. The pool still runs over frames: the best one may lie between two outputs.

| here | its definition, with frames = normalise(upsample(encoded)) |
|---|---|
| `frame_similarities` / `frame_norms` | `score_utils.similarities(frames, words)` |
| `split_word_scores` | `score_utils.word_scores` of each clip at its own length |
| `clip_scores`, `clip_pair_scores` | `score_utils.self_score_matrix(frames)` |
| `caption_scores` | `score_utils.self_score_matrix` of each caption at its own length |

On a CPU clips go one by one, whose values stay in the cache; on CUDA many at once. AT_ONCE bounds the similarities
that are held at a time. Shapes: N clips of a batch; C clips, M captions of a split; T frames, L encoder outputs,
E embedding dimension; K, V words; P pairs.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from models.tensors import to_device, upsample

AT_ONCE = 2**27  # similarities, frame by word or frame by frame: ten minutes by the words of Clotho; 0.5 GB

# --- clips with words ------------------------------------------------------------------------------------


def frame_similarities(encoded: Tensor, frames: int, words: Tensor) -> Tensor:
    """(N, L, E) and words (K, E) -> (N, T, K): max(0, a_f . w), to be divided by `frame_norms`."""
    dots = encoded.flatten(0, 1) @ words.T  # (N*L, K)
    upsampled = upsample(dots.view(*encoded.shape[:2], -1), frames)  # (N, T, K)
    # relu keeps less for its gradient than clamp, and needs not copy it; at 0 theirs differ, but a dot product that is
    # exactly 0 is a zero vector's, which hands on none. In place only without gradient: upsampling gives a view.
    return F.relu(upsampled, inplace=not dots.requires_grad)


def frame_norms(encoded: Tensor, frames: int) -> Tensor:
    """(N, L, E) -> (N, T): the lengths of the upsampled frames.

    The squared length of (1 - p) x + p y is (1 - p)^2 |x|^2 + 2 p (1 - p) x.y + p^2 |y|^2.
    """
    left, right, p = _neighbours(encoded, frames)
    squares = encoded.square().sum(dim=-1)  # (N, L)
    products = (encoded * torch.cat([encoded[:, 1:], encoded[:, -1:]], dim=1)).sum(dim=-1)  # (N, L)
    apart = (1 - p) ** 2 * squares[:, left] + p**2 * squares[:, right]
    square = apart + 2 * p * (1 - p) * products[:, left]
    # Where neighbours cancel out, only rounding is left of the frame: it is kept from growing to full length.
    floor = (1e-6 * apart).detach().clamp(min=1e-24)
    return square.maximum(floor).sqrt()


def _neighbours(encoded: Tensor, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs left and right of each upsampled frame, and the share of the right one in it: (T,) each."""
    length = encoded.shape[1]
    place = ((torch.arange(frames, device=encoded.device) + 0.5) * (length / frames) - 0.5).clamp(min=0)
    left = place.long().clamp(max=length - 1)
    return left, (left + 1).clamp(max=length - 1), (place - left).to(encoded.dtype)


class EncodedClips(NamedTuple):
    """What clips were encoded to, in one tensor; T frames and L outputs differ from clip to clip."""

    rows: Tensor  # (R, E) outputs, with padding between the clips
    starts: np.ndarray  # (C,) each clip's first row,
    lengths: np.ndarray  # (C,) its outputs,
    frames: np.ndarray  # (C,) and the frames that these stand for
    counted: Tensor | None = None  # (C,) how many of these frames S averages over; None: all

    @classmethod
    def of_batch(cls, encoded: Tensor, lengths: np.ndarray, frames: np.ndarray, counted: Tensor | None = None):
        """The clips of a padded batch (N, L, E), with the numbers of their outputs and frames (N,)."""
        n, length, _ = encoded.shape
        return cls(encoded.flatten(0, 1), length * np.arange(n), lengths, frames, counted)

    def outputs(self, clips: Sequence[int]) -> Tensor:
        """The outputs of clips of one length (N, L, E), unpadded: of one clip, a view."""
        length = self.lengths[clips[0]]
        if len(clips) == 1:
            return self.rows[self.starts[clips[0]] :][:length].unsqueeze(0)
        rows = self.starts[clips][:, None] + np.arange(length)
        return self.rows[to_device(torch.from_numpy(rows), self.rows.device)]

    def unit_frames(self, clips: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Frames (N, T, E) of length 1, padded to the longest clip, and (N, T): which of them are a clip's own."""
        places = np.stack([self.starts[clips], self.lengths[clips], self.frames[clips]])
        starts, lengths, frames = to_device(torch.from_numpy(places), self.rows.device).unsqueeze(2)  # (N, 1) each
        time = torch.arange(places[2].max(), device=self.rows.device)  # (T,)
        place = ((time + 0.5) * (lengths / frames) - 0.5).clamp(min=0)  # (N, T)
        left = place.long().minimum(lengths - 1)
        right, share = (left + 1).minimum(lengths - 1), (place - left).unsqueeze(-1)
        upsampled = torch.lerp(self.rows[starts + left], self.rows[starts + right], share.to(self.rows.dtype))
        return F.normalize(upsampled, dim=-1), time < frames


@torch.no_grad()
def split_word_scores(
    clips: EncodedClips, words: Tensor, pool: Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
) -> Tensor:
    """Scores of words (V, E) with clips, each at its own length: (V, C); `pool` is one of `score_utils.POOLINGS`.

    Words go in chunks, since a pool holds their similarities up to four times.
    """
    count = len(clips.starts)
    if not clips.rows.is_cuda:
        columns = []
        for clip in range(count):
            encoded, frames = clips.outputs([clip]), int(clips.frames[clip])
            norms = frame_norms(encoded, frames)
            chunks = words.split(max(1, AT_ONCE // (4 * frames)))
            pooled = [pool(frame_similarities(encoded, frames, chunk), norms, None)[0] for chunk in chunks]
            columns.append(torch.cat(pooled))
        return torch.stack(columns, dim=1)
    frames, _ = clips.unit_frames(range(count))  # (C, T, E)
    lens = to_device(torch.from_numpy(clips.frames), frames.device)
    chunks = words.split(max(1, AT_ONCE // frames[..., 0].numel()))
    return torch.cat([pool((frames @ chunk.T).clamp_(min=0), None, lens) for chunk in chunks], dim=1).T


# --- clips with clips ------------------------------------------------------------------------------------


@torch.no_grad()
def clip_scores(encoded: Tensor, frames: int, lens: Tensor | None = None, anchors: range | None = None) -> Tensor:
    """Scores of the clips of a batch (N, L, E) with each other, over all T frames or each clip's `lens`: (N, N).

    With `anchors`, only the pairs i <= j whose i is among them, and 0 elsewhere: the parts add up to the whole.
    """
    n, length, _ = encoded.shape
    clips = EncodedClips.of_batch(encoded, np.full(n, length), np.full(n, frames), lens)
    i, j = np.triu_indices(n)
    pairs = np.stack([i, j], axis=1)[np.isin(i, range(n) if anchors is None else anchors)]
    scores = encoded.new_zeros(n, n)
    scores[tuple(to_device(torch.from_numpy(pairs), encoded.device).T)] = clip_pair_scores(clips, pairs)
    return symmetric(scores)


def symmetric(scores: Tensor) -> Tensor:
    """(N, N), with what is above the diagonal below it as well."""
    return torch.triu(scores) + torch.triu(scores, diagonal=1).T


@torch.no_grad()
def clip_pair_scores(clips: EncodedClips, pairs: np.ndarray) -> Tensor:
    """Scores of clips with clips, by pairs (P, 2) of indices: (P,)."""
    if not clips.rows.is_cuda:
        weighted = {clip: _weighted(clips, [clip]) for clip in np.unique(pairs).tolist()}
        scores = [_pair_scores(*weighted[i], *weighted[j]) for i, j in pairs.tolist()]
        return torch.cat([clips.rows.new_empty(0), *scores])
    frames = clips.frames[pairs]  # (P, 2)
    # Pairs of like lengths go together: little is padded.
    order = np.lexsort((frames.min(axis=1), frames.max(axis=1) // 64))
    long_first = np.where(frames[:, :1] >= frames[:, 1:], pairs, pairs[:, ::-1])[order]
    scores = [clips.rows.new_empty(0)]
    for part in _bounded(clips.frames[long_first]):
        scores.append(_pair_scores(*_weighted(clips, long_first[part, 0]), *_weighted(clips, long_first[part, 1])))
    return torch.cat(scores)[to_device(torch.from_numpy(np.argsort(order)), clips.rows.device)]


def _pair_scores(outputs: Tensor, weights: Tensor, other_outputs: Tensor, other_weights: Tensor) -> Tensor:
    """The scores (P,) of pairs of clips: sum over their frames f, g of weight_f * weight_g * max(0, a_f . b_g).

    From outputs (P, L, E), (P, L', E) and weights of frames (P, T), (P, T'). Dot products of outputs are upsampled in
    both directions. What would pass AT_ONCE is cut along the other clips' frames, which are their own outputs then.
    """
    size = max(1, AT_ONCE // weights.numel())
    if other_weights.shape[1] > size:
        left, right, p = _neighbours(other_outputs, other_weights.shape[1])
        scores = weights.new_zeros(len(weights))
        for part in torch.arange(len(p), device=p.device).split(size):
            frames = torch.lerp(other_outputs[:, left[part]], other_outputs[:, right[part]], p[part].unsqueeze(1))
            scores += _pair_scores(outputs, weights, frames, other_weights[:, part])
        return scores
    by_frame = upsample(outputs @ other_outputs.mT, weights.shape[1])  # (P, T, L')
    # Upsampling goes row by row, through memory as it lies.
    similarities = upsample(by_frame.mT.contiguous(), other_weights.shape[1]).clamp_(min=0)  # (P, T', T)
    return (torch.bmm(similarities, weights.unsqueeze(2)).squeeze(2) * other_weights).sum(dim=1)


def _weighted(clips: EncodedClips, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Outputs (P, L, E) of clips and what their frames weigh in S (P, T); of clips of several lengths, unit frames."""
    if len(np.unique(clips.frames[chosen])) > 1:
        frames, inside = clips.unit_frames(chosen)
        return frames, inside / inside.sum(dim=1, keepdim=True)
    outputs, frames = clips.outputs(chosen), int(clips.frames[chosen[0]])
    if clips.counted is None:
        return outputs, 1 / (frames * frame_norms(outputs, frames))
    counted = clips.counted[to_device(torch.as_tensor(np.asarray(chosen)), outputs.device)].unsqueeze(1)  # (P, 1)
    inside = torch.arange(frames, device=outputs.device) < counted
    return outputs, inside / counted.clamp(min=1) / frame_norms(outputs, frames)


def _bounded(frames: np.ndarray) -> list[slice]:
    """Runs of pairs of clips of (P, 2) frames, so long that their similarities, padded to the longest, fit AT_ONCE."""
    runs, first = [], 0
    while first < len(frames):
        longest = np.maximum.accumulate(frames[first : first + max(1, AT_ONCE // frames[first].prod())])
        sizes = longest.prod(axis=1) * np.arange(1, len(longest) + 1)
        count = max(1, int(np.searchsorted(sizes, AT_ONCE, side="right")))
        runs.append(slice(first, first + count))
        first += count
    return runs


# --- captions --------------------------------------------------------------------------------------------


def caption_sums(weights: csr_array, table: Tensor) -> Tensor:
    """The captions' weighted sums (M, K) of the words' rows of a table (V, K): a sparse product with weights (M, V)."""
    if not table.is_cuda:
        return torch.from_numpy(weights @ table.numpy())
    arrays = (weights.indices.astype(np.int64), weights.indptr[:-1].astype(np.int64), weights.data)
    words, begins, shares = (to_device(torch.from_numpy(array), table.device) for array in arrays)
    return F.embedding_bag(words, table, begins, mode="sum", per_sample_weights=shares)


@torch.no_grad()
def caption_scores(embeds: Tensor, weights: csr_array) -> Tensor:
    """Scores (N, N) of captions at their own lengths with each other, from words (V, E) and their weights (N, V).

    Captions are compared by their distinct words, so captions of the same words tie exactly.
    """
    counts = np.diff(weights.indptr)
    places = weights.indptr[:-1, None] + np.arange(counts.max())  # (N, W) of the captions' distinct words
    inside = np.arange(counts.max()) < counts[:, None]
    places = np.where(inside, places, 0)
    words = to_device(torch.from_numpy(weights.indices[places].astype(np.int64)), embeds.device)  # (N, W)
    shares = to_device(torch.from_numpy(np.where(inside, weights.data[places], 0)), embeds.device)
    chunks = embeds.split(max(1, AT_ONCE // len(embeds)))
    by_word = torch.cat([caption_sums(weights, (embeds @ chunk.T).clamp_(min=0)) for chunk in chunks], dim=1)  # (N, V)
    return (by_word[:, words] * shares).sum(dim=-1)  # (N, N, W) -> (N, N)

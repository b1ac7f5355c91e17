"""Rank the relevant items of a whole split without holding its scores, clips x captions.

A caption's scores with all clips are one sparse product with the scores of its words. They are computed tile by tile,
on the device of the word scores. Metrics follow from two counts for each relevant pair: how many items score higher,
and how many score the same.

Shapes: C clips, M captions, V words; L relevant pairs of a clip and a caption; tiles of m captions and c clips.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from models.tensors import to_device
from utils.fast_score_utils import caption_sums
from utils.metric_utils import per_query_by_counts

ROWS = 255  # captions of a tile, so that a count of them fits in a byte
COLUMNS = {"cpu": 512, "cuda": 2**16}  # clips of a tile: on a CPU so many as stay in the cache
PAIRS_AT_ONCE = 2**20  # pairs of a caption and a clip that are scored at a time


@dataclass(frozen=True)
class CaptionScores:
    """The scores of M captions with C clips. A score has the same bits, whichever method computes it."""

    weights: csr_array  # (M, V) how much of each caption a word is
    by_word: Tensor  # (V, C) float32: the scores of words

    def to(self, device: torch.device) -> "CaptionScores":
        """The same, computed on a device."""
        return CaptionScores(self.weights, self.by_word.to(device))

    @property
    def shape(self) -> tuple[int, int]:
        """M, C."""
        return self.weights.shape[0], self.by_word.shape[1]

    def tile(self, captions: slice, clips: slice) -> Tensor:
        """The scores of some captions with some clips: (m, c)."""
        weights = self.weights if captions == slice(None) else self.weights[captions]
        return caption_sums(weights, self.by_word[:, clips].contiguous())

    def tiles(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """All scores in tiles (m, c), with their captions and their clips."""
        captions, clips = self.shape
        rows = [(part, self.weights[part]) for part in slices(captions, ROWS)]
        for columns in slices(clips, COLUMNS[self.by_word.device.type]):
            table = self.by_word[:, columns].contiguous()
            for part, weights in rows:
                yield part, columns, caption_sums(weights, table)

    def with_clips(self, captions: np.ndarray, clips: np.ndarray) -> Tensor:
        """The scores of some captions (P,) with some clips of each (P, K): (P, K)."""
        parts = slices(len(captions), max(1, PAIRS_AT_ONCE // clips.shape[1]))
        scores = [self._with_clips(captions[part], clips[part]) for part in parts]
        return torch.cat(scores) if scores else self.by_word.new_zeros(clips.shape)

    def _with_clips(self, captions: np.ndarray, clips: np.ndarray) -> Tensor:
        own = self.weights[captions]  # (P, V), of S entries
        entries, owners = np.arange(len(own.data)), np.repeat(np.arange(len(captions)), np.diff(own.indptr))
        indices = (own.indices.astype(np.int64), clips[owners])
        words, columns = (to_device(torch.from_numpy(part), self.by_word.device) for part in indices)
        table = self.by_word[words.unsqueeze(1), columns]  # (S, K)
        return caption_sums(csr_array((own.data, (owners, entries)), shape=(len(captions), len(entries))), table)


def slices(count: int, step: int) -> list[slice]:
    """Split range(count) into slices of at most `step` items."""
    return [slice(first, min(first + step, count)) for first in range(0, count, step)]


def per_query_both_directions(scores: CaptionScores, pairs: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """The metrics of each query, as `metric_utils.per_query_by_counts`; pairs (L, 2) of `relevant_pairs`."""
    captions, clips = scores.shape
    return per_query_by_counts(rank_counts(scores, pairs).cpu().numpy(), pairs, clips, captions)


@torch.no_grad()
def rank_counts(scores: CaptionScores, pairs: np.ndarray) -> Tensor:
    """Count the items above and beside each of the `relevant_pairs` (L, 2), in the rankings of both directions.

    Returns (5, L) float64, on the scores' device: each pair's score; how many clips score above it for the caption, and
    how many as much; how many captions for the clip, and how many as much.
    """
    clips, captions = pairs.T
    by_clip = np.argsort(clips, kind="stable")
    sorted_clips = clips[by_clip]
    own = scores.with_clips(captions, clips[:, None]).squeeze(1)  # (L,)
    device = own.device
    rows, columns, order = (to_device(torch.from_numpy(part), device) for part in (captions, sorted_clips, by_clip))
    own_by_clip = own[order]
    counts = torch.zeros(4, len(pairs), dtype=torch.int64, device=device)
    for some, of_clips, tile in scores.tiles():
        mine = _within(captions, some)
        others, limits = tile.index_select(0, rows[mine] - some.start), own[mine].unsqueeze(1)  # (l, c), (l, 1)
        counts[0, mine] += (others > limits).sum(dim=1)
        counts[1, mine] += (others == limits).sum(dim=1)
        mine = _within(sorted_clips, of_clips)
        others, limits = tile.index_select(1, columns[mine] - of_clips.start), own_by_clip[mine]  # (m, l), (l,)
        counts[2, mine] += _column_counts(others > limits)
        counts[3, mine] += _column_counts(others == limits)
    counts[2:, order] = counts[2:].clone()
    return torch.cat([own.double().unsqueeze(0), counts.double()])


def _within(sorted_items: np.ndarray, part: slice) -> slice:
    """The positions of the items within a part."""
    return slice(*np.searchsorted(sorted_items, (part.start, part.stop)).tolist())


def _column_counts(mask: Tensor) -> Tensor:
    """How many entries of each column are true, of at most 255 rows: summing bytes takes a tenth of the time."""
    return mask.view(torch.uint8).sum(dim=0, dtype=torch.uint8)


@torch.no_grad()
def spread(scores: CaptionScores) -> Tensor:
    """The standard deviation of all scores, a float64 scalar on their device."""
    tiles = [(tile.numel(), *torch.var_mean(tile.double(), correction=0)) for _, _, tile in scores.tiles()]
    sizes, variances, means = zip(*tiles, strict=True)
    shares = to_device(torch.tensor(sizes, dtype=torch.float64) / sum(sizes), means[0].device)
    apart = torch.stack(means) - means[0]  # 0 of scores that are all equal
    return (shares @ (torch.stack(variances) + (apart - shares @ apart).square())).sqrt()


@torch.no_grad()
def hardest_negatives(scores: CaptionScores, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The highest score of each caption (M,) and of each clip (C,) with an irrelevant item; 0 where there is none.

    The scores are on the CPU; the pairs are those of `rank_counts`.
    """
    of_captions, of_clips = (np.zeros(count, np.float32) for count in scores.shape)
    for captions, clips, tile in scores.tiles():
        right = pairs[_within(pairs[:, 1], captions)]
        clip, caption = right[(right[:, 0] >= clips.start) & (right[:, 0] < clips.stop)].T
        wrong = tile.numpy()
        wrong[caption - captions.start, clip - clips.start] = 0
        np.maximum(of_captions[captions], wrong.max(axis=1), out=of_captions[captions])
        np.maximum(of_clips[clips], wrong.max(axis=0), out=of_clips[clips])
    return of_captions, of_clips

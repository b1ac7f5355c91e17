"""Statistics of negatives: how hard they are, how many anchors share them, and which are likely false.

Shapes: N pairs of a batch, B batches, K strategies, M captions, V vocabulary, E embedding dimension. A leading 2 stands
for audio and text negatives.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from utils.criterion_utils import Picked
from utils.score_utils import caption_word_weights

STATISTICS = ("negative_gap", "negatives_above", "hubness", "effective_negatives")
SHARED_WORDS = 0.5  # share of a caption's content words that makes it like another caption
SHARED_MEANING = 0.9  # cosine of two captions' mean content-word vectors that makes them alike
_ARTICLES_PRONOUNS = """a an the this that these those some any each every both all other another it its he his him she
    her they their them i we us our you your who which what someone something one"""
_PREPOSITIONS_CONJUNCTIONS = """of in on at by to from with without into onto off out over under up down through across
    around about above below behind beside between before after during near against along towards inside outside and or
    but nor if as than while when where then so because until since not no"""
_AUXILIARIES = "is are was were be been being am do does did has have had having can could will would may might there"
FUNCTION_WORDS = frozenset(f"{_ARTICLES_PRONOUNS} {_PREPOSITIONS_CONJUNCTIONS} {_AUXILIARIES}".split())


# --- how hard, and how many ------------------------------------------------------------------------------


def gaps(picked: Picked) -> Tensor:
    """(2, ..., N, N): S_ii - S(a_j, t_i) and S_ii - S(a_i, t_k) of all items, for one batch or a stack of batches."""
    positive = picked.scores.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)  # (..., N, 1): S_ii
    return positive - torch.stack([picked.scores.mT, picked.scores])


def both_sides(picked: Picked) -> Tensor:
    """(2, ..., N, N) bool: the picks."""
    return torch.stack([picked.audio, picked.text])


def pick_statistics(batches: Sequence[Picked]) -> dict[str, float]:
    """STATISTICS averaged over batches; an empty dict if there are none.

    negative_gap: S_ii minus the negative's score, averaged over the picks of both sides.
    negatives_above: the share of these picks whose negative scores above S_ii.
    hubness: the share of an item's possible anchors (of other clips) that pick it, for the item with the largest share.
        It is 1 if all anchors pick the same item.
    effective_negatives: exp of the entropy of the picks over items, the effective number of distinct negatives.

    The last two are means over both sides. Batches of equal size are stacked, and the device is awaited once.
    """
    sizes = dict.fromkeys(len(picked.scores) for picked in batches)
    by_size = ([picked for picked in batches if len(picked.scores) == size] for size in sizes)
    numbers = [_statistics(Picked(*map(torch.stack, zip(*same_size, strict=True)))) for same_size in by_size]
    return dict(zip(STATISTICS, torch.cat(numbers, dim=1).mean(dim=1).tolist(), strict=True)) if numbers else {}


def _statistics(picked: Picked) -> Tensor:
    """(4, B): STATISTICS of each of B batches."""
    gap, picks = gaps(picked), both_sides(picked)  # (2, B, N, N)
    count = picks.sum(dim=(0, 2, 3)).clamp(min=1)  # (B,)
    times = picks.sum(dim=2)  # (2, B, N): anchors that pick each item,
    possible = picked.negatives.sum(dim=1).clamp(min=1)  # (B, N): and that could
    shares = times / times.sum(dim=2, keepdim=True).clamp(min=1)
    return torch.stack(
        [
            (gap * picks).sum(dim=(0, 2, 3)) / count,
            ((gap < 0) & picks).sum(dim=(0, 2, 3)) / count,
            (times / possible).amax(dim=2).mean(dim=0),
            torch.special.entr(shares).sum(dim=2).exp().mean(dim=0),
        ]
    )


def agreement(strategies: Sequence[Sequence[Picked]]) -> np.ndarray:
    """(K, K): the overlap of two strategies' picks in the same batches, averaged over all anchors and both sides.

    The overlap is Jaccard's index: picks in common, divided by the picks of either. For strategies that pick one
    negative, it is the share of anchors with the same pick.
    """
    shares = []
    for batch in zip(*strategies, strict=True):
        picks = torch.stack([both_sides(picked).flatten(0, 1) for picked in batch]).float()  # (K, 2N, N)
        anchors = picks[:, picks[0].any(dim=1)]  # (K, A, N): those with negatives
        both = torch.einsum("kan,lan->kla", anchors, anchors)
        size = anchors.sum(dim=2)  # (K, A)
        shares.append(both / (size.unsqueeze(1) + size.unsqueeze(0) - both))
    return torch.cat(shares, dim=2).double().mean(dim=2).numpy()


# --- likely false negatives ------------------------------------------------------------------------------


class CaptionLikeness:
    """Which captions say nearly the same as a clip's own captions: as its negatives they are likely false.

    Content words are those not in FUNCTION_WORDS. Each counts once; words match letter by letter.

    Args:
        captions: M arrays of word ids.
        caption_clips: (M,) the clip of each caption.
        words: V, by id.
        vectors: (V, E) unit vectors of the words.
    """

    def __init__(self, captions: list[np.ndarray], caption_clips: np.ndarray, words: list[str], vectors: np.ndarray):
        content = np.array([word not in FUNCTION_WORDS for word in words])
        _, weights = caption_word_weights(captions, len(words))
        self.words = (weights > 0).astype(np.float32) * content  # (M, V) sparse
        self.counts = np.asarray(self.words.sum(axis=1))  # (M,)
        means = self.words @ vectors  # (M, E)
        self.means = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        self.caption_clips = caption_clips

    def likely_false(self, captions: np.ndarray) -> np.ndarray:
        """(N, N) bool of a batch of captions (N,): [i, j] is whether caption j is like a caption of anchor i's clip.

        It is if that caption has SHARED_WORDS of its content words, or if the mean vectors of the two captions' content
        words have a cosine of SHARED_MEANING. A caption without content words is like none.
        """
        needed = SHARED_WORDS * np.maximum(self.counts[captions], 1)  # (N,)
        rows = []
        for clip in self.caption_clips[captions]:
            of_clip = np.flatnonzero(self.caption_clips == clip)
            shared = (self.words[captions] @ self.words[of_clip].T).toarray().max(axis=1)  # (N,)
            cosine = (self.means[captions] @ self.means[of_clip].T).max(axis=1)
            rows.append((shared >= needed) | (cosine >= SHARED_MEANING))
        return np.stack(rows)


def share_of_picks(picked: Picked, marked: np.ndarray) -> float:
    """The share of a batch's picks, on both sides, that are marked (N, N) bool."""
    picks = both_sides(picked)
    return float((picks & torch.from_numpy(marked)).sum() / picks.sum().clamp(min=1))

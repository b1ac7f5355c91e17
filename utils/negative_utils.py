"""What strategies pick, in numbers: how hard the negatives are, whether anchors share them, and which are likely none.

Shapes: N pairs of a batch, B batches, K strategies, M captions, V vocabulary, E embedding dimension. Of the two sides,
audio negatives come first, text negatives second.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from utils.criterion_utils import Picked
from utils.score_utils import caption_word_weights

STATISTICS = ("negative_gap", "negatives_above", "hubness", "effective_negatives")
SHARED_WORDS = 0.5  # of a caption's content words: from there on it says much what another says
SHARED_MEANING = 0.9  # cosine of the means of two captions' content words: likewise
_ARTICLES_PRONOUNS = """a an the this that these those some any each every both all other another it its he his him she
    her they their them i we us our you your who which what someone something one"""
_PREPOSITIONS_CONJUNCTIONS = """of in on at by to from with without into onto off out over under up down through across
    around about above below behind beside between before after during near against along towards inside outside and or
    but nor if as than while when where then so because until since not no"""
_AUXILIARIES = "is are was were be been being am do does did has have had having can could will would may might there"
FUNCTION_WORDS = frozenset(f"{_ARTICLES_PRONOUNS} {_PREPOSITIONS_CONJUNCTIONS} {_AUXILIARIES}".split())


# --- how hard, and how many ------------------------------------------------------------------------------


def gaps(picked: Picked) -> Tensor:
    """(2, ..., N, N): S_ii - S(a_j, t_i) and S_ii - S(a_i, t_k), of all items; of one batch or of many at once."""
    positive = picked.scores.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)  # (..., N, 1): S_ii
    return positive - torch.stack([picked.scores.mT, picked.scores])


def both_sides(picked: Picked) -> Tensor:
    """(2, ..., N, N) bool: what was picked."""
    return torch.stack([picked.audio, picked.text])


def pick_statistics(batches: Sequence[Picked]) -> dict[str, float]:
    """The means over batches of STATISTICS; nothing of no batches.

    negative_gap: S_ii minus the negative's score, averaged over the picks of both sides.
    negatives_above: the share of these picks whose negative scores above S_ii.
    hubness: the share of an item's possible anchors, those of other clips, that pick it: the largest of the batch. It
        is 1 where all pick the same one.
    effective_negatives: exp of the entropy of the picks over items: how many distinct negatives there are, in effect.

    The last two are means over both sides. Batches of one size are taken at once, and the device is waited for once.
    """
    sizes = dict.fromkeys(len(picked.scores) for picked in batches)
    alike = ([picked for picked in batches if len(picked.scores) == size] for size in sizes)
    numbers = [_statistics(Picked(*map(torch.stack, zip(*some, strict=True)))) for some in alike]
    return dict(zip(STATISTICS, torch.cat(numbers, dim=1).mean(dim=1).tolist(), strict=True)) if numbers else {}


def _statistics(picked: Picked) -> Tensor:
    """(4, B): STATISTICS of each of B batches."""
    gap, picks = gaps(picked), both_sides(picked)  # (2, B, N, N)
    count = picks.sum(dim=(0, 2, 3)).clamp(min=1)  # (B,)
    times = picks.sum(dim=2)  # (2, B, N): how often each item is picked,
    possible = picked.negatives.sum(dim=1).clamp(min=1)  # (B, N): and could be
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
    """(K, K): how much two strategies' picks have in common, a mean over the anchors of all batches and both sides.

    It is Jaccard's: what both pick, of what either picks. Of strategies that pick one negative each, it is the share of
    anchors with the same pick.

    Args:
        strategies: of each of K the picks in B batches, the same for all.
    """
    shares = []
    for batch in zip(*strategies, strict=True):
        each = torch.stack([both_sides(picked).flatten(0, 1) for picked in batch]).float()  # (K, 2N, N)
        anchors = each[:, each[0].any(dim=1)]  # (K, A, N): those that have negatives
        both = torch.einsum("kan,lan->kla", anchors, anchors)
        size = anchors.sum(dim=2)  # (K, A)
        shares.append(both / (size.unsqueeze(1) + size.unsqueeze(0) - both))
    return torch.cat(shares, dim=2).double().mean(dim=2).numpy()


# --- negatives that are likely none ----------------------------------------------------------------------


class CaptionLikeness:
    """Which captions say much what a clip's own captions say: as negatives of that clip they are likely false.

    Content words are those that are not in FUNCTION_WORDS, each counted once; words are the same only letter by letter.

    Args:
        captions: M arrays of word ids.
        caption_clips: (M,) the clip that each describes.
        words: V, by id.
        vectors: (V, E) of the words, each of length 1.
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
        """(N, N) bool of a batch of captions (N,): [i, j] is whether caption j says what one of anchor i's clip says.

        It does where it shares SHARED_WORDS of its content words with that one, or the means of both's vectors have a
        cosine of SHARED_MEANING. A caption without content words says nothing.
        """
        needed = SHARED_WORDS * np.maximum(self.counts[captions], 1)  # (N,)
        return np.stack([self._like(captions, needed, clip) for clip in self.caption_clips[captions]])

    def _like(self, captions: np.ndarray, needed: np.ndarray, clip: int) -> np.ndarray:
        own = np.flatnonzero(self.caption_clips == clip)
        shared = (self.words[captions] @ self.words[own].T).toarray().max(axis=1)  # (N,)
        cosine = (self.means[captions] @ self.means[own].T).max(axis=1)
        return (shared >= needed) | (cosine >= SHARED_MEANING)


def share_of_picks(picked: Picked, marked: np.ndarray) -> float:
    """The share of a batch's picks, of both sides, that fall on marked items, (N, N) bool."""
    picks = both_sides(picked)
    return float((picks & torch.from_numpy(marked)).sum() / picks.sum().clamp(min=1))

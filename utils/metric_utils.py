"""Retrieval metrics: mAP, mAP@k, R@k, HR@k and the median rank, as expected values under random tie-breaking.

Closed forms for ties: McSherry and Najork, "Computing information retrieval performance measures efficiently in
the presence of tied scores", ECIR 2008. Nothing is sorted: a relevant item's place follows from how many items
score above it and how many as much, so the cost is one pass over the scores for each relevant item of a query.
"""

from typing import NamedTuple

import numpy as np

CUTOFFS = (1, 5, 10)
MAP_CUTOFFS = (10, 16)  # the DCASE challenge ranked by the one until 2024, and by the other in 2025
AVERAGED = ("mAP", *(f"mAP{k}" for k in MAP_CUTOFFS), *(f"R{k}" for k in CUTOFFS), *(f"HR{k}" for k in CUTOFFS))
_BLOCK = 16_000_000  # scores compared at a time

# --- the definition, on a whole score matrix; the tests compare with it what runs ------------------------


def retrieval_metrics(scores: np.ndarray, relevance: np.ndarray) -> dict[str, float]:
    """Metrics averaged over queries, from scores (Q, I), higher is better, and relevance (Q, I) bool.

    Returns:
        mAP: precision at each relevant item, summed and divided by the number of relevant ones.
        mAP10, mAP16: the same over the first 10 or 16 ranks, divided by 10 or 16 at the most.
        R1, R5, R10: share of the relevant items in the first k; HR1, HR5, HR10: whether any is there.
        MedR: median rank of the first one.
        queries, and tied_queries: how many of them share a score between a relevant and an irrelevant item, so that
        only the expected value is defined.

    Raises:
        ValueError: shapes that differ, no queries, NaN, or a query without a relevant item.
    """
    return averages(per_query_metrics(scores, relevance))


def per_query_metrics(scores: np.ndarray, relevance: np.ndarray) -> dict[str, np.ndarray]:
    """What `retrieval_metrics` averages; arguments and errors are the same.

    Returns:
        (Q,) each: the names in AVERAGED, first_rank (of the first relevant item), and tied (bool).
    """
    scores, relevance = np.asarray(scores), np.asarray(relevance, dtype=bool)
    _check(scores, relevance)
    query, item = np.nonzero(relevance)  # L entries, by query
    above, tied = _rank_counts(scores, query, item)
    return _metrics_of_counts(scores[query, item], above, tied, query, scores.shape)


def both_directions(
    scores: np.ndarray, caption_clips: np.ndarray, extra_relevant: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    """`retrieval_metrics` of "text_to_audio" and "audio_to_text", of scores (C, M) of clips and captions.

    The other arguments are those of `relevant_pairs`.
    """
    clips, captions = relevant_pairs(caption_clips, extra_relevant).T
    relevance = np.zeros(scores.shape, dtype=bool)
    relevance[clips, captions] = True
    return {
        "text_to_audio": retrieval_metrics(np.ascontiguousarray(scores.T), relevance.T),
        "audio_to_text": retrieval_metrics(scores, relevance),
    }


def _check(scores: np.ndarray, relevance: np.ndarray) -> None:
    if scores.ndim != 2 or scores.shape != relevance.shape:
        raise ValueError(f"scores {scores.shape} and relevance {relevance.shape} must be of one (queries, items) shape")
    if scores.size == 0:
        raise ValueError(f"scores {scores.shape}: nothing to rank")
    if np.isnan(scores).any():
        raise ValueError(f"NaN scores, first at query {np.argwhere(np.isnan(scores))[0][0]}")
    if not relevance.any(axis=1).all():
        raise ValueError(f"query {np.flatnonzero(~relevance.any(axis=1))[0]} has no relevant item")


def _rank_counts(scores: np.ndarray, query: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many items score above each entry's item for its query, and how many as much (itself included): (L,)."""
    above, tied = np.empty(len(query), np.int64), np.empty(len(query), np.int64)
    step = max(1, _BLOCK // scores.shape[1])
    for start in range(0, len(query), step):
        part = slice(start, start + step)
        rows = scores[query[part]]  # (step, I)
        own = scores[query[part], item[part], None]  # (step, 1)
        above[part] = np.count_nonzero(rows > own, axis=1)
        tied[part] = np.count_nonzero(rows == own, axis=1)
    return above, tied


# --- what runs, from the rank counts of `retrieval_utils` -------------------------------------------------


def averages(values: dict[str, np.ndarray]) -> dict[str, float]:
    """`retrieval_metrics` of queries whose `per_query_metrics` are these."""
    metrics = {name: float(np.mean(values[name])) for name in AVERAGED}
    metrics["MedR"] = float(np.median(values["first_rank"]))
    metrics["queries"] = len(values["tied"])
    metrics["tied_queries"] = int(np.count_nonzero(values["tied"]))
    return metrics


def relevant_pairs(caption_clips: np.ndarray, extra_relevant: np.ndarray | None = None) -> np.ndarray:
    """Which clips and captions are right for each other: (L, 2), each pair once, sorted by caption.

    Args:
        caption_clips: (M,) the clip, in [0, C), that each caption describes.
        extra_relevant: (P, 2) further pairs of a clip and a caption that are relevant to each other; None: none.
    """
    pairs = np.stack([caption_clips, np.arange(len(caption_clips))], axis=1)
    if extra_relevant is None:
        return pairs
    return np.unique(np.concatenate([pairs, extra_relevant])[:, ::-1], axis=0)[:, ::-1]


def per_query_by_counts(
    counts: np.ndarray, pairs: np.ndarray, clips: int, captions: int
) -> dict[str, dict[str, np.ndarray]]:
    """`per_query_metrics` of "text_to_audio" (M,) and of "audio_to_text" (C,), the same numbers, without the scores.

    From counts (5, L) of `retrieval_utils.rank_counts`, the pairs (L, 2) of `relevant_pairs`, C and M.
    """
    own = counts[0]
    clips_above, clips_tied, captions_above, captions_tied = counts[1:].astype(np.int64)
    order = np.argsort(pairs[:, 0], kind="stable")  # by clip
    return {
        "text_to_audio": _metrics_of_counts(own, clips_above, clips_tied, pairs[:, 1], (captions, clips)),
        "audio_to_text": _metrics_of_counts(
            own[order], captions_above[order], captions_tied[order], pairs[order, 0], (clips, captions)
        ),
    }


def per_query_by_chance(pairs: np.ndarray, clips: int, captions: int) -> dict[str, dict[str, np.ndarray]]:
    """`per_query_by_counts` of random rankings: expected values, which are those of scores that are all equal."""
    nothing = np.zeros(len(pairs))
    counts = np.stack([nothing, nothing, nothing + clips, nothing, nothing + captions])
    return per_query_by_counts(counts, pairs, clips, captions)


def chance_map(relevant: np.ndarray, items: int) -> float:
    """The expected mAP of a random ranking, of queries with R relevant (Q,) of I items: that of equal scores.

    Of I items in random order, the one at rank p is relevant with probability R / I, and then 1 + (p - 1) c of the
    first p are, c = (R - 1) / (I - 1). The mean over p of that precision is c + (1 - c) H_I / I, H harmonic numbers.
    """
    c = (np.asarray(relevant) - 1) / max(items - 1, 1)  # (Q,)
    return float(np.mean(c + (1 - c) * np.sum(1 / np.arange(1, items + 1)) / items))


def chance_both_directions(pairs: np.ndarray, clips: int, captions: int) -> dict[str, float]:
    """`chance_map` of text-to-audio and audio-to-text retrieval; arguments as in `per_query_by_counts`."""
    return {
        "text_to_audio": chance_map(np.bincount(pairs[:, 1], minlength=captions), clips),
        "audio_to_text": chance_map(np.bincount(pairs[:, 0], minlength=clips), captions),
    }


def _metrics_of_counts(
    own: np.ndarray, above: np.ndarray, tied: np.ndarray, query: np.ndarray, shape: tuple[int, int]
) -> dict[str, np.ndarray]:
    """`per_query_metrics` of scores of a shape (Q, I), from their L relevant items, sorted by query.

    Of each item: its own score, the counts above and tied of `_rank_counts`, and its query.
    """
    queries, items = shape
    relevant_above, relevant_tied = _relevant_counts(own, query)
    total = np.bincount(query, minlength=queries)  # (Q,) relevant items
    groups = _Groups(above, tied, relevant_above, relevant_tied)

    def sums(entries: np.ndarray) -> np.ndarray:
        return np.bincount(query, weights=entries, minlength=queries)  # (Q,)

    values = {"mAP": sums(groups.precision(cutoff=items)) / total}
    for k in MAP_CUTOFFS:
        values[f"mAP{k}"] = sums(groups.precision(cutoff=k)) / np.minimum(total, k)
    for k in CUTOFFS:
        values[f"R{k}"] = sums(groups.share_within(k)) / total
    first = relevant_above == 0  # the entries of each query's best tie group
    for k in CUTOFFS:
        values[f"HR{k}"] = sums(np.where(first, groups.hit_within(k) / relevant_tied, 0))
    values["first_rank"] = sums(np.where(first, groups.first_rank() / relevant_tied, 0))
    values["tied"] = sums(tied > relevant_tied) > 0
    return values


def _relevant_counts(own: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `_rank_counts`, among the relevant items of the same query alone: own scores and queries (L,) -> (L,) each."""
    order = np.lexsort((-own, query))
    own, query = own[order], query[order]
    new_query = np.r_[True, query[1:] != query[:-1]]
    new_group = new_query | np.r_[True, own[1:] != own[:-1]]
    group = np.cumsum(new_group) - 1  # (L,) tie group of each entry
    group_start = np.flatnonzero(new_group)
    query_start = np.flatnonzero(new_query)[np.cumsum(new_query) - 1]  # (L,)
    above, tied = np.empty(len(own), np.int64), np.empty(len(own), np.int64)
    above[order] = group_start[group] - query_start
    tied[order] = np.bincount(group)[group]
    return above, tied


class _Groups(NamedTuple):
    """The tie group of each relevant item (an entry), and its expected contributions.

    Every entry carries an equal part of its group's value, so that sums over entries are sums over groups.
    """

    above: np.ndarray  # (L,) items above the group
    tied: np.ndarray  # (L,) n, items in it
    relevant_above: np.ndarray  # (L,) R, relevant items above it
    relevant_tied: np.ndarray  # (L,) r, relevant items in it

    def precision(self, cutoff: int) -> np.ndarray:
        """(L,) expected precision at the entry's rank, where that rank is within the cutoff, else 0.

        At place p of its group an item is relevant with probability r/n, and then R + 1 + (p - 1) c of the first
        above + p items are, c = (r - 1) / (n - 1). The sum over p of that precision, in harmonic numbers H.
        """
        places = np.clip(cutoff - self.above, 0, self.tied)  # of the group, within the cutoff
        c = (self.relevant_tied - 1) / np.maximum(self.tied - 1, 1)
        harmonic = np.r_[0.0, np.cumsum(1.0 / np.arange(1, (self.above + self.tied).max() + 1))]
        inverse_ranks = harmonic[self.above + places] - harmonic[self.above]
        return (c * places + (self.relevant_above + 1 - c - c * self.above) * inverse_ranks) / self.tied

    def share_within(self, k: int) -> np.ndarray:
        """(L,) probability that the entry is among the first k."""
        return np.clip(k - self.above, 0, self.tied) / self.tied

    def hit_within(self, k: int) -> np.ndarray:
        """(L,) probability that any relevant item of the group is among the first k: 1 - C(n-r, p) / C(n, p)."""
        places = np.clip(k - self.above, 0, self.tied)  # p
        miss = np.ones(len(self.tied))
        for drawn in range(k):
            left = np.maximum(self.tied - drawn, 1)
            irrelevant = np.maximum(self.tied - self.relevant_tied - drawn, 0)
            miss = np.where(drawn < places, miss * irrelevant / left, miss)
        return 1 - miss

    def first_rank(self) -> np.ndarray:
        """(L,) expected rank of the group's first relevant item."""
        return self.above + (self.tied + 1) / (self.relevant_tied + 1)

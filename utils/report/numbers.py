"""A report's rank histogram, choice of queries, and formats of numbers. Shapes: Q queries, I items."""

import numpy as np

from utils.metric_utils import AVERAGED

METRICS = (*AVERAGED, "MedR")  # the columns of tables
RANK_BINS = (1, 2, 3, 4, 5, 10, 20, 50, 100, 200, 500)  # last rank of each bin of a histogram


def rank_shares(ranks: np.ndarray, relevant: np.ndarray, items: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The histogram of the first relevant item's rank, observed and by chance.

    Args:
        ranks: (Q,) rank of each query's first relevant item.
        relevant: (Q,) each query's number of relevant items.
        items: I.

    Returns:
        Labels of the bins ("1", ..., "6–10", ...), and the share of queries in each: observed, and in a random ranking.
    """
    last = [rank for rank in RANK_BINS if rank < items] + [items]
    first = [1, *(rank + 1 for rank in last[:-1])]
    labels = [str(low) if low == high else f"{low}–{high}" for low, high in zip(first, last, strict=True)]
    places = np.searchsorted(last, ranks - 0.5)  # a tie's expected rank goes to the lower rank's bin
    observed = np.bincount(places, minlength=len(last)) / len(ranks)
    numbers, counts = np.unique(relevant, return_counts=True)
    within = np.average([_first_within(last, number, items) for number in numbers], axis=0, weights=counts)
    return labels, observed, np.diff(within, prepend=0)


def _first_within(ranks: list[int], relevant: int, items: int) -> np.ndarray:
    """For each rank, the probability that a relevant item is at this rank or above, in random order."""
    drawn = np.arange(relevant)
    return 1 - np.prod(np.maximum(items - np.array(ranks)[:, None] - drawn, 0) / (items - drawn), axis=1)


def choose_queries(
    first_rank: np.ndarray, margin: np.ndarray, query_clips: np.ndarray, count: int
) -> dict[str, list[int]]:
    """Choose the best, the typical (median) and the worst queries, each of another clip.

    Args:
        first_rank: (Q,) rank of the first relevant item.
        margin: (Q,) of the positive over the hardest negative; orders queries of equal rank.
        query_clips: (Q,) the clip that each query is or describes.
        count: queries in each list, fewer if clips run out.
    """
    order = np.lexsort((-margin, first_rank))
    by_typicality = order[np.argsort(np.abs(np.arange(len(order)) - (len(order) - 1) / 2), kind="stable")]
    taken: set[int] = set()
    chosen = {}
    for name, candidates in (("worst", order[::-1]), ("best", order), ("typical", by_typicality)):
        chosen[name] = []
        for query in candidates.tolist():
            if len(chosen[name]) < count and query_clips[query] not in taken:
                chosen[name].append(query)
                taken.add(int(query_clips[query]))
    return {name: chosen[name] for name in ("best", "typical", "worst")}


def plain(value: object) -> str:
    """A setting as in conf.yaml."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def shown(metric: str, value: float | None) -> str:
    """A metric, or its standard deviation, to the digits that tables show."""
    return "–" if value is None else f"{value:.1f}" if metric == "MedR" else f"{value:.3f}"


def signed(value: float) -> str:
    """A difference with its sign, to the digits that tables show."""
    return f"{round(value, 3) + 0.0:+.3f}".replace("-", "−")  # + 0.0 turns -0.0 into 0.0

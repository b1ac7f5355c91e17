"""Histograms of ranks, of scores, of margins, and of the gaps between positives and negatives."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from utils.report import figures
from utils.report.figures import FILLED, INK, OUTLINED, RED, Picture, house_style, panel, picture_of

BINS = 40
MIN_REACH = 0.01  # of an axis to either side of 0, so that a collapse stays a spike


@house_style
def rank_histogram(title: str, labels: list[str], observed: np.ndarray, chance: np.ndarray) -> Picture:
    """Draw shares of queries by rank of the first relevant item (bars) and those of a random ranking (dashes)."""
    figure, axes = panel(title, "rank of the first relevant result", "queries")
    places = np.arange(len(labels))
    axes.bar(places, observed, 0.8, color=figures.BLUE)
    top = 1.12 * max(observed.max(), chance.max())
    for place, share, expected in zip(places, observed, chance, strict=True):
        if share >= 0.005:
            crossed = share - 0.03 * top <= expected < share + 0.1 * top  # the dashes would cross the number
            axes.annotate(
                f"{100 * share:.0f}", (place, expected if crossed else share), xytext=(0, 2),
                textcoords="offset points", ha="center", fontsize=8,
            )  # fmt: skip
    axes.hlines(chance, places - 0.45, places + 0.45, color=RED, linewidth=2, linestyle=(0, (3, 1)))
    axes.plot([], [], color=RED, linewidth=2, linestyle=(0, (3, 1)), label="by chance")
    figure.legend(loc="outside lower center")
    axes.set_xticks(places, labels, rotation=45 if len(labels) > 7 else 0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0, " %"))
    axes.set_ylim(0, top)
    shares = [
        f"rank {label}: {100 * share:.0f} % (by chance {100 * expected:.0f} %)"
        for label, share, expected in zip(labels, observed, chance, strict=True)
    ]
    return picture_of(figure, f"{title}. Share of queries by rank of the first relevant result: {', '.join(shares)}.")


@house_style
def score_histogram(title: str, positive: np.ndarray, negative: np.ndarray) -> Picture:
    """Draw the scores of each query's best relevant item (Q,) and of its hardest negative (Q,)."""
    figure, axes = panel(title, "score", "queries")
    # The axis starts at 0, the lowest score. An axis that fits the scores would stretch a collapse to a spread.
    edges = np.linspace(0, max(1.05 * positive.max(), 1.05 * negative.max(), 0.05), BINS + 1)
    axes.hist(positive, edges, label="relevant item", **FILLED)
    axes.hist(negative, edges, label="hardest negative", **OUTLINED)
    axes.set_xlim(0, edges[-1])
    figure.legend(loc="outside lower center", ncols=2)
    alt = f"Scores of relevant items: {_spread(positive)}. Scores of the hardest negatives: {_spread(negative)}."
    return picture_of(figure, f"{title}. {alt}")


@house_style
def margin_histogram(title: str, positive: np.ndarray, negative: np.ndarray) -> Picture:
    """Draw by how much each query's best relevant item (Q,) scores above its hardest negative (Q,)."""
    margin = positive - negative
    ahead = f"{100 * np.mean(margin > 0):.0f} %"
    figure, axes = panel(title, "relevant item's score − hardest negative's", "queries")
    reach = max(1.05 * np.abs(margin).max(), 0.1 * positive.max(), MIN_REACH)
    edges = np.linspace(-reach, reach, BINS + 1)
    behind = np.minimum(margin[margin <= 0], -1e-9 * reach)  # ties count as left of 0
    axes.hist(margin[margin > 0], edges, label="relevant item ahead", **FILLED)
    axes.hist(behind, edges, label="not ahead", **OUTLINED)
    _mark_zero(axes)
    figures.note(axes, f"ahead: {ahead}")
    figure.legend(loc="outside lower center", ncols=2)
    alt = f"Relevant item's score minus the hardest negative's: {_spread(margin)}; above 0 for {ahead} of queries."
    return picture_of(figure, f"{title}. {alt}")


@house_style
def gap_histogram(
    title: str, audio: np.ndarray, text: np.ndarray, margin: float, reach: tuple[float, float]
) -> Picture:
    """Draw by how much positive pairs score above their negatives.

    Args:
        audio, text: S_ii minus the negative's score, of each audio negative (P,) and each text negative (Q,).
        margin: the loss's; smaller gaps add to the loss.
        reach: the lowest and the highest gap of all figures that share an axis.
    """
    edges = np.linspace(1.05 * min(reach[0], -MIN_REACH), 1.05 * max(reach[1], MIN_REACH), BINS + 1)
    figure, axes = panel(title, "S of the positive pair − S with the negative", "share of picks")
    for gaps, label, style in ((audio, "audio negatives", FILLED), (text, "text negatives", OUTLINED)):
        axes.hist(gaps, edges, weights=np.full(len(gaps), 1 / max(1, len(gaps))), label=label, **style)
    _mark_zero(axes)
    if margin < edges[-1]:
        axes.axvline(margin, color=figures.GREY, linewidth=1, linestyle=(0, (5, 2)), label="margin")
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0, " %"))
    axes.locator_params(axis="y", nbins=5)
    figure.legend(loc="outside lower center", ncols=3)
    sides = [
        f"Score of the positive pair minus that with its {side} negative: {_spread(gaps)}; below 0 for "
        f"{100 * np.mean(gaps < 0):.0f} % of picks."
        for side, gaps in (("audio", audio), ("text", text))
    ]
    return picture_of(figure, f"{title}. {' '.join(sides)}")


def _mark_zero(axes: Axes) -> None:
    axes.axvline(0, color=INK, linewidth=1, linestyle=figures.DASHED)
    axes.locator_params(axis="x", nbins=6)


def _spread(values: np.ndarray) -> str:
    return f"median {np.median(values):.3f}, from {values.min():.3f} to {values.max():.3f}"

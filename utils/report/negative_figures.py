"""Figures of what strategies pick; drawn as those of `utils.report.figures`."""

import numpy as np
from matplotlib import rc_context

from utils.report.figures import BLUE, FILL, GREY, INK, RED, SETTINGS, Picture, panel, picture_of

LEAST_REACH = 0.01  # of the axis to either side of 0: a collapse stays a spike


def gap_histogram(
    title: str, audio: np.ndarray, text: np.ndarray, margin: float, reach: tuple[float, float]
) -> Picture:
    """How far anchors' own pairs score above their negatives, or below.

    Args:
        audio, text: S_ii minus the negative's score, of each audio negative (P,) and each text negative (Q,).
        margin: of the loss; what is below it adds to the loss.
        reach: the lowest and the highest value of all figures that are to share an axis.
    """
    edges = np.linspace(1.05 * min(reach[0], -LEAST_REACH), 1.05 * max(reach[1], LEAST_REACH), 41)
    with rc_context(SETTINGS):
        figure, axes = panel(title, "S of the anchor pair − S with the negative", "share of picks")
        for values, look in (
            (audio, {"histtype": "stepfilled", "facecolor": FILL, "edgecolor": BLUE, "label": "audio negatives"}),
            (text, {"histtype": "step", "color": RED, "linewidth": 1.8, "label": "text negatives"}),
        ):
            axes.hist(values, edges, weights=np.full(len(values), 1 / max(1, len(values))), **look)
        axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (2, 2)))
        if margin < edges[-1]:
            axes.axvline(margin, color=GREY, linewidth=1, linestyle=(0, (5, 2)), label="margin")
        axes.set_xlim(edges[0], edges[-1])
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        axes.locator_params(axis="x", nbins=6)
        axes.locator_params(axis="y", nbins=5)
        figure.legend(loc="outside lower center", ncols=3)
        return picture_of(figure, f"{title}. {_in_words('audio', audio)} {_in_words('text', text)}")


def _in_words(side: str, values: np.ndarray) -> str:
    return (
        f"Score of the anchor pair minus that with its {side} negative: median {np.median(values):.3f}, from "
        f"{values.min():.3f} to {values.max():.3f}; below 0 for {100 * np.mean(values < 0):.0f} % of picks."
    )

"""Training curves of one or several trials."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from utils.report import figures
from utils.report.figures import BLUE, GREEN, GREY, INK, PURPLE, RED, Picture, house_style, panel, picture_of

PANELS = (  # title, key in metrics.jsonl, whether the axis is logarithmic
    ("Training loss", "train_loss", False),
    ("Validation objective", "val_obj", False),
    ("Gap between positives and negatives", "negative_gap", False),
    ("Negatives above the positive", "negatives_above", False),
    ("Hubness of the negatives", "hubness", False),
    ("Effective number of negatives", "effective_negatives", False),
    ("Learning rate", "lr", True),
    ("Validation mAP, text-to-audio", "val_map_text_to_audio", False),
    ("Validation mAP, audio-to-text", "val_map_audio_to_text", False),
    ("Standard deviation of scores", "score_std", True),
)
STYLES = [(colour, dashes) for dashes in ((), (5, 2), (1.5, 1.5)) for colour in (BLUE, RED, GREEN, PURPLE, GREY)]
WIDTH = 1.8  # of a line, in points; dashes are in widths
LOG_FLOOR = 1e-9  # the lowest value on a logarithmic axis


class Line(NamedTuple):
    """A line of a panel."""

    name: str
    epochs: Sequence[float]
    values: Sequence[float]
    style: int = 0  # index into STYLES
    faint: bool = False  # one seed behind the mean over seeds


def panels_of(*histories: list[dict[str, float]]) -> list[tuple[str, str, bool]]:
    """The PANELS for which any of these trials has values."""
    keys = {key for history in histories for results in history for key in results}
    return [panel for panel in PANELS if panel[1] in keys]


def line_of(history: list[dict[str, float]], name: str, key: str, style: int = 0, faint: bool = False) -> Line:
    """A trial's values of a key by epoch."""
    points = [(results["epoch"], results[key]) for results in history if key in results]
    epochs, values = zip(*points, strict=True) if points else ((), ())
    return Line(name, epochs, values, style, faint)


@house_style
def curves(title: str, lines: list[Line], log: bool = False, best_epoch: int | None = None) -> Picture:
    """Draw values by epoch, on a logarithmic axis if `log`, and mark the best epoch if given."""
    figure, axes = panel(title, "epoch")
    for line in lines:
        colour, dashes = STYLES[line.style % len(STYLES)]
        width, alpha = (0.8, 0.35) if line.faint else (WIDTH, 1.0)
        marker = "o" if len(line.epochs) < 20 and not line.faint else ""
        values = np.maximum(line.values, LOG_FLOOR) if log else line.values  # after a collapse the spread is 0
        axes.plot(
            line.epochs, values, marker=marker, linestyle=(0, dashes) if dashes else "-", color=colour,
            linewidth=width, alpha=alpha, markersize=3,
        )  # fmt: skip
    if log:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,), numticks=6))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y")
    if best_epoch is not None:
        axes.axvline(best_epoch, color=INK, linewidth=1, linestyle=figures.DASHED)
        figures.note(axes, f"best epoch: {best_epoch}")
    return picture_of(figure, f"{title} by epoch. {' '.join(map(_in_words, lines))}".strip())


def _in_words(line: Line) -> str:
    """A line's first, last, lowest and highest value; nothing of a faint line, which the mean sums up."""
    points = [(epoch, value) for epoch, value in zip(line.epochs, line.values, strict=True) if math.isfinite(value)]
    if line.faint or not points:
        return ""
    low, high = min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])
    return (
        f"{line.name}: {points[0][1]:.4g} at epoch {points[0][0]}, {points[-1][1]:.4g} at epoch {points[-1][0]}, "
        f"lowest {low[1]:.4g} at epoch {low[0]}, highest {high[1]:.4g} at epoch {high[0]}."
    )

"""The look of all figures: SVG text with an alternative text. The same data give the same bytes.

Figures are drawn in COLOURS. Each becomes a CSS variable that follows the reader's choice of a light or a dark page.
The colours have a contrast of at least 3 to their background and differ for colour-blind readers too; lines also differ
in dashes, bars in outlines.
"""

import io
import warnings
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

INK, BLUE, RED, GREEN, PURPLE, GREY = "#1d2329", "#0072b2", "#cc5500", "#00805f", "#a14b8b", "#6f6f6f"
COLOURS = {  # on a light page: on a dark one
    INK: "#e3e7ec",
    BLUE: "#56b4e9",
    RED: "#f5903d",
    GREEN: "#3fc39e",
    PURPLE: "#dd8fc6",
    GREY: "#a8a8a8",
}
DASHED = (0, (2, 2))
FILLED = {"histtype": "stepfilled", "facecolor": (*to_rgb(BLUE), 0.4), "edgecolor": BLUE}
OUTLINED = {"histtype": "step", "color": RED, "linewidth": 1.8}
LOG_MEL_COLOURS = colormaps["magma"].resampled(48)  # few colours: a third of the bytes
LOG_MEL_RANGE = 16  # below the loudest: 70 dB; digital silence is at -36
SETTINGS = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "legend.frameon": False,
    **{f"{name}.color": INK for name in ("text", "xtick", "ytick", "grid")},
    **{f"axes.{name}color": INK for name in ("edge", "label", "title")},
    "grid.alpha": 0.15,
}
house_style = rc_context(SETTINGS)  # decorates each function that draws


class Picture(NamedTuple):
    """A figure."""

    svg: str
    width: int  # CSS pixels
    height: int
    alt: str  # the alternative text


def panel(title: str, x_label: str, y_label: str = "") -> tuple[Figure, Axes]:
    """An empty figure of the usual size."""
    figure = Figure(figsize=(4.2, 2.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    return figure, axes


def note(axes: Axes, text: str) -> None:
    """Write a short text at the right of the title."""
    axes.set_title(text, loc="right", fontsize=8, fontweight="normal")


def column_means(frames: np.ndarray, limit: int) -> np.ndarray:
    """Average frames (T, n) into at most `limit` columns: (n, columns)."""
    return np.stack([column.mean(axis=0) for column in np.array_split(frames, min(limit, len(frames)))], axis=1)


def picture_of(figure: Figure, alt: str) -> Picture:
    """Write a figure as SVG that follows the reader's colours."""
    buffer = io.StringIO()
    with warnings.catch_warnings():  # the reader's fonts draw the characters that matplotlib's font lacks
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]  # without the external document type
    for colour in COLOURS:
        svg = svg.replace(colour, f"var({variable(colour)})")
    svg = svg.replace(">", f"><style>{colour_variables('svg')}</style>", 1)
    width, height = (round(inches * 96) for inches in figure.get_size_inches())
    return Picture(svg, width, height, alt)


def variable(colour: str) -> str:
    """The CSS variable of one of COLOURS."""
    return f"--{colour.removeprefix('#')}"


def colour_variables(element: str) -> str:
    """CSS that sets the variables of COLOURS in an element, for light and for dark pages."""
    light = "".join(f"{variable(colour)}:{colour};" for colour in COLOURS)
    dark = "".join(f"{variable(colour)}:{dark};" for colour, dark in COLOURS.items())
    return f"{element}{{{light}}}@media(prefers-color-scheme:dark){{{element}{{{dark}}}}}"

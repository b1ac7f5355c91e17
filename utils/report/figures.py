"""Figures as SVG text, each with what it shows in words. The same data give the same bytes.

All is drawn in COLOURS; each becomes a CSS variable that follows the reader's choice of a light or a dark page. They
stand apart from their background (a contrast of 3 at the least), and from each other for colour-blind readers too;
lines and bars differ in dashes or outlines as well.
"""

import io
import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

INK, BLUE, RED, GREEN, PURPLE, GREY = "#1d2329", "#0072b2", "#cc5500", "#00805f", "#a14b8b", "#6f6f6f"
COLOURS = {  # on a light page: on a dark one
    INK: "#e3e7ec",
    BLUE: "#56b4e9",
    RED: "#f5903d",
    GREEN: "#3fc39e",
    PURPLE: "#dd8fc6",
    GREY: "#a8a8a8",
}
STYLES = [(colour, dashes) for dashes in ((), (5, 2), (1.5, 1.5)) for colour in (BLUE, RED, GREEN, PURPLE, GREY)]
FILL = (*to_rgb(BLUE), 0.4)
POINTS_PER_INCH = 72
LOG_FLOOR = 1e-9  # the lowest value of a logarithmic axis
MAX_COLUMNS = 300  # of an image: more frames than that are averaged
LOG_MEL_COLOURS = colormaps["magma"].resampled(48)  # few colours: a third of the bytes
LOG_MEL_RANGE = 16  # below the loudest: 70 dB; digital silence lies at -36
ALIGNMENT_COLOURS = colormaps["viridis"].resampled(48)

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
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick", "grid")},
    **{f"axes.{part}color": INK for part in ("edge", "label", "title")},
    "grid.alpha": 0.15,
}


class Picture(NamedTuple):
    """A figure."""

    svg: str
    width: int  # CSS pixels
    height: int
    alt: str  # what it shows, for those who do not see it


class Line(NamedTuple):
    """A line of a panel."""

    name: str
    epochs: Sequence[float]
    values: Sequence[float]
    style: int = 0  # a place in STYLES: colour, and dashes in points
    faint: bool = False  # one seed behind the mean over seeds


def curves(title: str, lines: list[Line], log: bool = False, best_epoch: int | None = None) -> Picture:
    """Values by epoch, on a logarithmic axis if `log`, with the best epoch marked if there is one."""
    with rc_context(SETTINGS):
        figure, axes = panel(title, "epoch", "")
        for line in lines:
            colour, dashes = STYLES[line.style % len(STYLES)]
            width, alpha = (0.8, 0.35) if line.faint else (1.8, 1.0)
            marker = "o" if len(line.epochs) < 20 and not line.faint else ""
            # A collapse brings the spread to 0 exactly: drawn at the floor, not left out.
            values = np.maximum(line.values, LOG_FLOOR) if log else line.values
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
            axes.axvline(best_epoch, color=INK, linewidth=1, linestyle=(0, (2, 2)))
            axes.set_title(f"best epoch: {best_epoch}", loc="right", fontsize=8, fontweight="normal")
        return picture_of(figure, f"{title} by epoch. {' '.join(map(_in_words, lines))}".strip())


def rank_histogram(title: str, labels: list[str], observed: np.ndarray, chance: np.ndarray) -> Picture:
    """Shares of queries by rank of the first relevant item (bars), beside those of a random ranking (dashes)."""
    with rc_context(SETTINGS):
        figure, axes = panel(title, "rank of the first right result", "queries")
        places = np.arange(len(labels))
        axes.bar(places, observed, 0.8, color=BLUE)
        top = 1.12 * max(observed.max(), chance.max())
        for place, share, expected in zip(places, observed, chance, strict=True):
            if share >= 0.005:
                near = share - 0.03 * top <= expected < share + 0.1 * top  # the dashes would cross the number
                height = expected if near else share
                axes.annotate(
                    f"{100 * share:.0f}", (place, height), xytext=(0, 2), textcoords="offset points", ha="center",
                    fontsize=8,
                )  # fmt: skip
        axes.hlines(chance, places - 0.45, places + 0.45, color=RED, linewidth=2, linestyle=(0, (3, 1)))
        axes.plot([], [], color=RED, linewidth=2, linestyle=(0, (3, 1)), label="by chance")
        figure.legend(loc="outside lower center")
        axes.set_xticks(places, labels, rotation=45 if len(labels) > 7 else 0)
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        axes.set_ylim(0, top)
        parts = [
            f"rank {label}: {100 * share:.0f} % (by chance {100 * expected:.0f} %)"
            for label, share, expected in zip(labels, observed, chance, strict=True)
        ]
        return picture_of(figure, f"{title}. Share of queries by rank of the first right result: {', '.join(parts)}.")


def score_histogram(title: str, positive: np.ndarray, negative: np.ndarray) -> Picture:
    """How each query's best right item (Q,) and its hardest negative (Q,) score; the axis begins at 0."""
    with rc_context(SETTINGS):
        figure, axes = panel(title, "score", "queries")
        # From 0, the lowest score there can be: were the axis to fit the scores, a collapse would look like a spread.
        edges = np.linspace(0, max(1.05 * positive.max(), 1.05 * negative.max(), 0.05), 41)
        axes.hist(positive, edges, histtype="stepfilled", facecolor=FILL, edgecolor=BLUE, label="right item")
        axes.hist(negative, edges, histtype="step", color=RED, linewidth=1.8, label="hardest negative")
        axes.set_xlim(0, edges[-1])
        figure.legend(loc="outside lower center", ncols=2)
        alt = (
            f"{title}. Scores of right items: median {np.median(positive):.3f}, from {positive.min():.3f} to "
            f"{positive.max():.3f}. Scores of the hardest negatives: median {np.median(negative):.3f}, from "
            f"{negative.min():.3f} to {negative.max():.3f}."
        )
        return picture_of(figure, alt)


def margin_histogram(title: str, positive: np.ndarray, negative: np.ndarray) -> Picture:
    """How far each query's best right item (Q,) scores above its hardest negative (Q,), or below."""
    margin = positive - negative
    ahead = float(np.mean(margin > 0))
    with rc_context(SETTINGS):
        figure, axes = panel(title, "right item's score − hardest negative's", "queries")
        reach = max(1.05 * np.abs(margin).max(), 0.1 * positive.max(), 0.01)  # a collapse stays a spike here too
        edges = np.linspace(-reach, reach, 41)
        behind = np.minimum(margin[margin <= 0], -1e-9 * reach)  # ties stand left of 0
        axes.hist(
            margin[margin > 0], edges, histtype="stepfilled", facecolor=FILL, edgecolor=BLUE, label="right item ahead"
        )
        axes.hist(behind, edges, histtype="step", color=RED, linewidth=1.8, label="not ahead")
        axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (2, 2)))
        axes.locator_params(axis="x", nbins=6)
        axes.set_title(f"ahead: {100 * ahead:.0f} %", loc="right", fontsize=8, fontweight="normal")
        figure.legend(loc="outside lower center", ncols=2)
        alt = (
            f"{title}. Score of the right item minus that of the hardest negative: median {np.median(margin):.3f}, "
            f"from {margin.min():.3f} to {margin.max():.3f}; above 0 for {100 * ahead:.0f} % of queries."
        )
        return picture_of(figure, alt)


def alignment(
    log_mel: np.ndarray, similarities: np.ndarray, by_word: np.ndarray, marked: np.ndarray, words: list[str],
    pool: str, hop: float, top: float,
) -> Picture:  # fmt: skip
    """A clip's log-mel above its similarities with a caption's words, on one time axis.

    Args:
        log_mel: (T, n_mels).
        similarities: (T, W), max(0, a_f . e_w).
        by_word: (W,) the words' scores.
        marked: (T, W) bool, the frames that count in those; none are marked where all count.
        words: W.
        pool: what their scores are, over the frames.
        hop: seconds between frames.
        top: the similarity that is drawn brightest.
    """
    words = [word if len(word) <= 15 else word[:14] + "…" for word in words]
    right, above, mel_height, gap, row, below = 26, 3, 62, 5, 12.5, 26  # points
    left = max(36, 8 + 4.4 * max(map(len, words)))
    width, rows_height = 302, row * len(words)
    height = above + mel_height + gap + rows_height + below
    extent = (-hop / 2, (len(log_mel) - 0.5) * hop)
    with rc_context(SETTINGS | {"font.size": 8}):
        figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))

        def add_axes(bottom: float, tall: float) -> Axes:
            return figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, tall / height))

        mel_axes = add_axes(below + rows_height + gap, mel_height)
        loudest = log_mel.max()
        _image(mel_axes, log_mel.T[::-1], LOG_MEL_COLOURS, extent, log_mel.shape[1], loudest - LOG_MEL_RANGE, loudest)
        mel_axes.set_axis_off()
        space = 3 / (width - left - right) * (extent[1] - extent[0])  # 3 points, in seconds
        mel_axes.text(extent[0] - space, log_mel.shape[1] / 2, "log-mel", ha="right", va="center")
        mel_axes.text(extent[1] + space, 0, pool)
        word_axes = add_axes(below, rows_height)
        _image(word_axes, similarities.T, ALIGNMENT_COLOURS, extent, len(words), 0, top)
        word_axes.spines[:].set_visible(False)
        word_axes.set_yticks([])  # texts instead: an axis takes several times as long to draw
        for i, (word, value) in enumerate(zip(words, by_word, strict=True)):
            place = len(words) - i - 0.5
            word_axes.text(extent[0] - space, place, word, ha="right", va="center")
            word_axes.text(extent[1] + space, place, f"{value:.2f}", va="center")
            starts, ends = _runs(marked[:, i])  # drawn at least a fiftieth of the picture wide
            middle, half = (starts + ends - 1) * hop / 2, np.maximum(ends - starts, len(marked) / 50) * hop / 2
            word_axes.hlines([place - 0.4] * len(starts), middle - half, middle + half, color=RED, linewidth=2)
        word_axes.set_xlabel("time (s)", labelpad=1)
        return picture_of(figure, _alignment_in_words(similarities, by_word, words, hop))


# --- parts -----------------------------------------------------------------------------------------------


def panel(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """An empty figure of the size that most have; to be drawn within SETTINGS."""
    figure = Figure(figsize=(4.2, 2.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    return figure, axes


def _image(
    axes: Axes, pixels: np.ndarray, colours: object, extent: tuple[float, float], top: float, low: float, high: float
) -> None:  # fmt: skip
    """Draw (rows, T), the first row at the top, over the seconds of `extent` and from 0 to `top`."""
    columns = math.ceil(pixels.shape[1] / MAX_COLUMNS)  # frames to a column
    starts = np.arange(0, pixels.shape[1], columns)
    widths = np.diff(starts, append=pixels.shape[1])
    pooled = np.add.reduceat(pixels, starts, axis=1) / widths
    axes.imshow(pooled, colours, aspect="auto", interpolation="none", extent=(*extent, 0, top), vmin=low, vmax=high)


def picture_of(figure: Figure, alt: str) -> Picture:
    """A figure as SVG that follows the reader's colours."""
    buffer = io.StringIO()
    with warnings.catch_warnings():  # text stays text: the reader's fonts draw what matplotlib's lacks
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]  # without the reference to a document type elsewhere
    for colour in COLOURS:
        svg = svg.replace(colour, f"var({variable(colour)})")
    svg = svg.replace(">", f"><style>{colour_variables('svg')}</style>", 1)
    width, height = (round(inches * 96) for inches in figure.get_size_inches())
    return Picture(svg, width, height, alt)


def variable(colour: str) -> str:
    """The CSS variable that stands for one of COLOURS."""
    return f"--{colour.removeprefix('#')}"


def colour_variables(element: str) -> str:
    """CSS that gives an element the variables of COLOURS, for light and for dark pages."""
    light, dark = (
        "".join(f"{variable(colour)}:{value};" for colour, value in pairs)
        for pairs in (zip(COLOURS, COLOURS, strict=True), COLOURS.items())
    )
    return f"{element}{{{light}}}@media(prefers-color-scheme:dark){{{element}{{{dark}}}}}"


def _in_words(line: Line) -> str:
    """Where a line begins and ends, and its extremes; nothing of one seed's, since the mean speaks for it."""
    finite = [(epoch, value) for epoch, value in zip(line.epochs, line.values, strict=True) if math.isfinite(value)]
    if line.faint or not finite:
        return ""
    low, high = min(finite, key=lambda point: point[1]), max(finite, key=lambda point: point[1])
    return (
        f"{line.name}: {finite[0][1]:.4g} at epoch {finite[0][0]}, {finite[-1][1]:.4g} at epoch {finite[-1][0]}, "
        f"lowest {low[1]:.4g} at epoch {low[0]}, highest {high[1]:.4g} at epoch {high[0]}."
    )


def _runs(marked: np.ndarray) -> np.ndarray:
    """(2, R): the first frame of each run of marked ones (T,), and the one behind its last."""
    return np.flatnonzero(np.diff(marked, prepend=False, append=False)).reshape(-1, 2).T


def _alignment_in_words(similarities: np.ndarray, by_word: np.ndarray, words: list[str], hop: float) -> str:
    """The words with the highest scores, and where each peaks."""
    peaks = similarities.argmax(axis=0) * hop
    strongest = np.argsort(-by_word, kind="stable")[:3]
    parts = [f"“{words[i]}” {by_word[i]:.2f}, strongest at {peaks[i]:.1f} s" for i in strongest]
    return (
        f"Log-mel of {len(similarities) * hop:.1f} s, above the similarity of its frames with {len(words)} words. "
        f"Highest: {'; '.join(parts)}."
    )

"""A clip's log-mel above its similarities with a caption's words."""

from typing import NamedTuple

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from utils.common.counts import counted
from utils.report.figures import LOG_MEL_COLOURS, LOG_MEL_RANGE, RED, SETTINGS, Picture, column_means, picture_of

COLOURS = colormaps["viridis"].resampled(48)
MAX_COLUMNS = 300  # of an image; the frames of longer clips are averaged
POINTS_PER_INCH = 72
WIDTH, RIGHT, TOP, MEL_HEIGHT, GAP, ROW, BOTTOM = 302, 26, 3, 62, 5, 12.5, 26  # points


class Alignment(NamedTuple):
    """A clip and a caption, with the terms of their score: T frames, W words.

    The log-mel has frames of its own where the model reads features.
    """

    log_mel: np.ndarray  # (frames, n_mels)
    similarities: np.ndarray  # (T, W): max(0, a_f . e_w)
    frame_weights: np.ndarray  # (T, W): each frame's share of a word's score
    words: list[str]  # W
    pooling: str  # over the frames: score.frames
    hop: float  # seconds between frames,
    log_mel_hop: float  # and between those of the log-mel

    @property
    def by_word(self) -> np.ndarray:
        """(W,) the words' scores."""
        return (self.frame_weights * self.similarities).sum(axis=0)

    @property
    def marked(self) -> np.ndarray:
        """(T, W) bool: the frames with at least half the highest weight in a word's score; none if all weigh alike."""
        half = self.frame_weights.max(axis=0) / 2
        return (self.frame_weights >= half) & (self.frame_weights.min(axis=0) < half)


@rc_context(SETTINGS | {"font.size": 8})
def draw(alignment: Alignment, top: float, bottom: float = 0.0) -> Picture:
    """Draw an alignment on one time axis; `bottom` is the value of the darkest colour, `top` that of the brightest."""
    log_mel, similarities, hop, by_word = alignment.log_mel, alignment.similarities, alignment.hop, alignment.by_word
    mel_span, word_span = time_span(log_mel, alignment.log_mel_hop), time_span(similarities, hop)
    words = [word if len(word) <= 15 else word[:14] + "…" for word in alignment.words]
    left, rows_height = max(36, 8 + 4.4 * max(map(len, words))), ROW * len(words)
    height = TOP + MEL_HEIGHT + GAP + rows_height + BOTTOM
    start, end = mel_span  # of the axis
    least = len(log_mel) / 50 * (alignment.log_mel_hop / hop)  # frames that are underlined: a fiftieth of the width
    space = 3 / (WIDTH - left - RIGHT) * (end - start)  # 3 points, in seconds
    figure = Figure(figsize=(WIDTH / POINTS_PER_INCH, height / POINTS_PER_INCH))
    mel_axes, word_axes = (
        figure.add_axes((left / WIDTH, bottom / height, 1 - (left + RIGHT) / WIDTH, tall / height))
        for bottom, tall in ((BOTTOM + rows_height + GAP, MEL_HEIGHT), (BOTTOM, rows_height))
    )
    loudest, n_mels = log_mel.max(), log_mel.shape[1]
    mel_image = column_means(log_mel, MAX_COLUMNS)[::-1]
    word_image = column_means(similarities, MAX_COLUMNS)
    for axes, image, colours, span, rows, low, high in (
        (mel_axes, mel_image, LOG_MEL_COLOURS, mel_span, n_mels, loudest - LOG_MEL_RANGE, loudest),
        (word_axes, word_image, COLOURS, word_span, len(words), bottom, top),
    ):
        extent = (*span, 0, rows)
        axes.imshow(image, colours, aspect="auto", interpolation="none", extent=extent, vmin=low, vmax=high)
        axes.set_xlim(start, end)
    mel_axes.set_axis_off()
    mel_axes.text(start - space, n_mels / 2, "log-mel", ha="right", va="center")
    mel_axes.text(end + space, 0, alignment.pooling)
    word_axes.spines[:].set_visible(False)
    word_axes.set_yticks([])  # texts draw several times faster than tick labels
    for i, (word, score) in enumerate(zip(words, by_word, strict=True)):
        place = len(words) - i - 0.5
        word_axes.text(start - space, place, word, ha="right", va="center")
        word_axes.text(end + space, place, f"{score:.2f}", va="center")
        firsts, stops = runs(alignment.marked[:, i])
        middle = (firsts + stops - 1) * hop / 2
        half = np.maximum(stops - firsts, least) * hop / 2
        word_axes.hlines([place - 0.4] * len(firsts), middle - half, middle + half, color=RED, linewidth=2)
    word_axes.set_xlabel("time (s)", labelpad=1)
    return picture_of(figure, _in_words(alignment))


def time_span(frames: np.ndarray, hop: float) -> tuple[float, float]:
    """The seconds at which frames (T, ...) begin and end; the first is centred at 0 s."""
    return -hop / 2, (len(frames) - 0.5) * hop


def runs(marked: np.ndarray) -> np.ndarray:
    """(2, R): the first frame of each run of marked frames (T,), and the frame after its last."""
    return np.flatnonzero(np.diff(marked, prepend=False, append=False)).reshape(-1, 2).T


def _in_words(alignment: Alignment) -> str:
    """The words with the highest scores, and where each peaks."""
    by_word, peaks = alignment.by_word, alignment.similarities.argmax(axis=0) * alignment.hop
    strongest = [
        f"“{alignment.words[i]}” {by_word[i]:.2f}, strongest at {peaks[i]:.1f} s"
        for i in np.argsort(-by_word, kind="stable")[:3]
    ]
    return (
        f"Log-mel of {len(alignment.log_mel) * alignment.log_mel_hop:.1f} s, above the similarity of its frames with "
        f"{counted(len(by_word), 'word')}. Highest: {'; '.join(strongest)}."
    )

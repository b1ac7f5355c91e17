"""Word scores as a page holds them: whole levels between each word's lowest and highest score, as text."""

from typing import NamedTuple

import numpy as np

BASE, DIGITS = 93, 3  # a level is three characters from "!" to "~", all but "<", which HTML would read
TOP = BASE**DIGITS - 1  # the highest level; 16 bits would have 65,535: too few to tell near scores apart


class Packed(NamedTuple):
    """Word scores: low + step * level, within half a step of what they were; those of a word that are equal stay so."""

    low: list[float]  # V
    step: list[float]  # V
    levels: str  # V x C levels, the first digit first


def packed(scores: np.ndarray) -> Packed:
    """Pack scores (V, C) float32."""
    low, high = scores.min(axis=1, keepdims=True), scores.max(axis=1, keepdims=True)
    step = (high - low) / np.float32(TOP)  # (V, 1)
    levels = np.rint((scores - low) / np.where(step > 0, step, 1)).clip(0, TOP).astype(np.int32)
    digits = np.stack([levels // BASE**2, levels // BASE % BASE, levels % BASE], axis=-1).astype(np.uint8)
    characters = digits + np.uint8(ord("!"))
    characters += characters >= ord("<")
    return Packed(_short(low), _short(step), characters.tobytes().decode("ascii"))


def _short(values: np.ndarray) -> list[float]:
    """float32 as the decimal numbers of nine digits that stand for them."""
    return [float(f"{value:.9g}") for value in values.ravel()]

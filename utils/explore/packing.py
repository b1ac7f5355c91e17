"""Word scores as text for a page: integer levels between each word's lowest and highest score."""

import numpy as np

BASE, DIGITS = 93, 3  # three characters a level, from "!" to "~" without "<", which HTML would parse
TOP = BASE**DIGITS - 1  # the highest level; the 65,535 of 16 bits would merge near scores


def packed(scores: np.ndarray) -> tuple[list[float], list[float], str]:
    """Pack scores (V, C) float32 as low + step * level: off by at most half a step; equal scores of a word stay equal.

    Returns low (V), step (V), and V x C levels as text, the first digit first.
    """
    low, high = scores.min(axis=1, keepdims=True), scores.max(axis=1, keepdims=True)
    step = (high - low) / np.float32(TOP)  # (V, 1)
    levels = np.rint((scores - low) / np.where(step > 0, step, 1)).clip(0, TOP).astype(np.int32)
    digits = np.stack([levels // BASE**2, levels // BASE % BASE, levels % BASE], axis=-1).astype(np.uint8)
    characters = digits + np.uint8(ord("!"))
    characters += characters >= ord("<")
    return _decimals(low), _decimals(step), characters.tobytes().decode("ascii")


def _decimals(values: np.ndarray) -> list[float]:
    """Round float32 to the nine digits that identify them."""
    return [float(f"{value:.9g}") for value in values.ravel()]

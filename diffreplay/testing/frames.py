"""Frames as games show them, and frames that are hard on a codec."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KINDS = ("noise", "constant", "black", "gradient", "moving")
SHAPES = ((1, 1, 1), (1, 7, 1), (3, 5, 1), (3, 5, 3), (12, 12, 4), (84, 84, 1), (84, 84, 3), (256, 256, 3))


def frames_of(kind: str, shape: tuple[int, ...], count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Frames (count, H, W, C) of a kind of `KINDS`; the same for the same arguments."""
    rng = np.random.default_rng([seed, *shape])
    if kind == "noise":
        return rng.integers(0, 256, (count, *shape), np.uint8)
    if kind == "constant":
        return np.broadcast_to(rng.integers(0, 256, (count, 1, 1, 1), np.uint8), (count, *shape)).copy()
    if kind == "black":
        return np.zeros((count, *shape), np.uint8)
    if kind == "gradient":
        ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1]))[..., None] + np.arange(shape[2])
        return (ramp + np.arange(count).reshape(-1, 1, 1, 1)).astype(np.uint8)
    frames = np.repeat(rng.integers(0, 256, (1, *shape), np.uint8), count, axis=0)
    for frame in frames:  # a box moves over a noisy background
        y, x = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        frame[y : y + 9, x : x + 9] = rng.integers(0, 256)
    return frames

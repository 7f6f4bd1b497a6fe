"""What the agent sees: conversion to grayscale and the black floor.

Both are the picture's simplifications that "Differentially Encoded Observation Spaces for Perceptive
Reinforcement Learning" (Grossman and Plancher, ICRA 2024) makes for its DeepMind Control runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# ITU-R BT.601 luma weights 0.299, 0.587, 0.114 in units of 2**-15, rounded so that they add up to 2**15.
_LUMA_SHIFT = 15
_RED, _GREEN, _BLUE = 9798, 19235, 3735
_HALF = 1 << (_LUMA_SHIFT - 1)


def to_grayscale(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """ITU-R BT.601 luma of RGB pixels, in integers: ``(9798 R + 19235 G + 3735 B + 2**14) >> 15``.

    The result is 0.299 R + 0.587 G + 0.114 B rounded to the nearest integer, to the accuracy of the 15-bit
    weights; OpenCV 5's ``COLOR_RGB2GRAY`` gives the same value for every one of the 2**24 colours.

    Args:
        pixels: (..., 3) uint8, red first.

    Returns:
        A new (...) uint8 array.
    """
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    luma = red * _RED + green * _GREEN + blue * _BLUE + _HALF
    return (luma >> _LUMA_SHIFT).astype(np.uint8)


def paint_planes_black(physics: Any) -> int:
    """Take the material off every plane geom of a model and colour it black; return how many there were.

    Floors are planes in all of dm_control's tasks, and so are the walls of some. Without its material a plane has
    no texture and mirrors nothing, and on black no shadow shows. Under a strong light MuJoCo's default gloss stays
    as a faint shine of a few grey levels, as it does in the paper's pictures.

    Args:
        physics: a ``dm_control.mujoco.Physics``; its model is changed in place, for this compilation of it only.
    """
    # Imported here so that MUJOCO_GL is decided by drqv2.environment before MuJoCo reads it.
    import mujoco

    planes = np.flatnonzero(physics.model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE)
    physics.model.geom_matid[planes] = -1
    physics.model.geom_rgba[planes] = (0.0, 0.0, 0.0, 1.0)
    return len(planes)

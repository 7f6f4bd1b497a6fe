"""The columns that a buffer has of each step, besides its images."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffreplay.parts import Part
from diffreplay.store import Column


def columns_of(
    parts: tuple[Part, ...], action_dtype: np.dtype[Any], action_shape: tuple[int, ...], extras: tuple[Part, ...]
) -> tuple[tuple[Column, ...], int]:
    """The columns, and how many of them, the first ones, are part of an observation.

    Args:
        parts: of an observation.
        action_dtype, action_shape: of an action.
        extras: further values.
    """
    stacked = [Column(f"obs/{p.name}", p.stored_dtype.str, p.stored_shape) for p in parts if not p.is_image]
    columns = (
        *stacked,
        Column("action", action_dtype.str, action_shape),
        Column("reward", "<f4"),
        Column("discount", "<f4"),
        *(Column(f"extras/{p.name}", p.spec.dtype, p.shape) for p in extras),
    )
    return columns, len(stacked)

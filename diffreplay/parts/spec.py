"""ArraySpec: what one array of a step is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike

from diffreplay.errors import InputError

IMAGE_LAYOUTS = {"CHW": 3, "HWC": 3, "FCHW": 3, "FHWC": 3, "HW": 2, "FHW": 2}
"""Layouts of images, and the dimensions of one frame."""
LAYOUTS = (*IMAGE_LAYOUTS, "", "F")
IMAGE_DTYPES = ("uint8", "uint16")


@dataclass(frozen=True, init=False)
class ArraySpec:
    """What one array of a step is, and how the arrays of several steps lie in an observation.

    An image is an array of three dimensions, uint8 or uint16, or what has the layout of one. It is stored coded. All
    else is stored as it is, exact in its dtype. With a `frame_stack` of f, an observation holds f of them, the oldest
    first:

    | layout | `shape` | an observation | |
    |---|---|---|---|
    | "CHW" | (C, H, W) | (f * C, H, W) | images, unless said |
    | "HWC" | (H, W, C) | (H, W, f * C) | |
    | "FCHW" | (C, H, W) | (f, C, H, W) | |
    | "FHWC" | (H, W, C) | (f, H, W, C) | Gymnasium's `FrameStackObservation` of colours |
    | "FHW" | (H, W) | (f, H, W) | the same of gray |
    | "HW" | (H, W) | (H, W) | f = 1 alone |
    | "" | (n, ...) | (f * n, ...) | all that is no image, unless said |
    | "" | () | () for f = 1, else (f,) | |
    | "F" | any | (f, *shape) | Gymnasium's `FrameStackObservation` of the rest |

    Attributes:
        shape: of the array of one step.
        dtype: as `numpy.dtype.str` writes it, little-endian: a dtype of numbers that PyTorch has.
        layout: one of the above.

    Raises:
        InputError: an argument makes no sense, or does not go with another.

    Examples:
        >>> diffreplay.ArraySpec((64, 64, 3), layout="HWC")
        ArraySpec(shape=(64, 64, 3), dtype='|u1', layout='HWC')
    """

    shape: tuple[int, ...]
    dtype: str
    layout: str

    def __init__(self, shape: Iterable[int], dtype: DTypeLike = "uint8", layout: str | None = None) -> None:
        sides, numbers = sides_of("shape", shape), _dtype(dtype)
        if layout is None:
            layout = "CHW" if len(sides) == 3 and numbers in IMAGE_DTYPES else ""
        _check_layout(sides, numbers, layout)
        object.__setattr__(self, "shape", sides)
        object.__setattr__(self, "dtype", numbers.str)
        object.__setattr__(self, "layout", layout)

    @property
    def is_image(self) -> bool:
        """Whether it is stored coded."""
        return self.layout in IMAGE_LAYOUTS

    def stacked(self, frame_stack: int) -> tuple[int, ...]:
        """The shape of an observation of so many steps."""
        if "F" in self.layout:
            return (frame_stack, *self.shape)
        if self.layout == "HW" or frame_stack == 1:
            return self.shape
        sides = list(self.shape or (1,))
        sides[2 if self.layout == "HWC" else 0] *= frame_stack
        return tuple(sides)

    def to_json(self) -> list[Any]:
        """What `from_json` takes, as JSON holds it: [shape, dtype, layout]."""
        return [list(self.shape), self.dtype, self.layout]

    @classmethod
    def from_json(cls, value: Any) -> ArraySpec:
        """What `to_json` gave.

        Raises:
            InputError: it did not give this.
        """
        if not isinstance(value, list) or [type(item) for item in value] != [list, str, str]:
            raise InputError(f"ArraySpec: expected [shape, dtype, layout], got {value!r}")
        return cls(*value)


def sides_of(name: str, value: Any) -> tuple[int, ...]:
    """A tuple of positive integers."""
    if not isinstance(value, Iterable) or isinstance(value, str | bytes):
        raise InputError(f"{name}: expected a tuple of positive integers, got {value!r}")
    sides = tuple(value)
    for side in sides:
        if isinstance(side, bool) or not isinstance(side, int | np.integer) or side < 1:
            raise InputError(f"{name}: expected a positive integer for each side, got {side!r} in {sides!r}")
    return tuple(map(int, sides))


def _dtype(value: DTypeLike) -> np.dtype[Any]:
    """A dtype of numbers that batches can be of, little-endian."""
    expected = "dtype: expected a dtype of numbers that PyTorch has, got"
    try:
        dtype = np.dtype(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{expected} {value!r} ({error})") from None
    if dtype.kind not in "biuf" or value is None:
        raise InputError(f"{expected} {dtype if value is not None else None}")
    dtype = dtype.newbyteorder("<")
    try:
        torch.from_numpy(np.zeros(1, dtype))
    except (TypeError, ValueError) as error:
        raise InputError(f"{expected} {dtype} ({error})") from None
    return dtype


def _check_layout(shape: tuple[int, ...], dtype: np.dtype[Any], layout: Any) -> None:
    if layout not in LAYOUTS:
        raise InputError(f"layout: expected None or one of {', '.join(map(repr, LAYOUTS))}, got {layout!r}")
    if layout not in IMAGE_LAYOUTS:
        return
    if len(shape) != IMAGE_LAYOUTS[layout]:
        sides = IMAGE_LAYOUTS[layout]
        raise InputError(f"shape: expected {sides} sides, those of one frame, with layout {layout!r}, got {shape}")
    if dtype not in IMAGE_DTYPES:
        raise InputError(
            f"dtype: expected uint8 or uint16 with layout {layout!r}, as images are, got {dtype}; without a layout, "
            "arrays of any dtype of numbers are stored as they are"
        )

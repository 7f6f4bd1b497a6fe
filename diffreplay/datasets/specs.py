"""What an array of observations, actions or other values of a dataset is."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from diffreplay.errors import CorruptDataError, InputError
from diffreplay.parts import ArraySpec

FEW_CHANNELS = 4
NUMBERS = re.compile(r"[<>|=]?(b1|[iu][1248]|f(2|4|8|16))|bool|u?int(8|16|32|64)|float(16|32|64)")


def observation_spec(where: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ArraySpec:
    """The spec of one step's observation: an image where that is uint8 or uint16 with few channels last, or else first.

    Args:
        where: it comes from, for messages.
        shape, dtype: of one step's array.

    Raises:
        CorruptDataError: there is no such spec.
    """
    layout = ""
    if len(shape) == 3 and dtype in (np.uint8, np.uint16):
        layout = "HWC" if shape[2] <= FEW_CHANNELS else "CHW" if shape[0] <= FEW_CHANNELS else ""
    return spec_of(where, shape, dtype, layout)


def value_spec(where: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ArraySpec:
    """The spec of one step's values that are no image.

    Raises:
        CorruptDataError: there is no such spec.
    """
    return spec_of(where, shape, dtype, "")


def spec_of(where: str, shape: tuple[int, ...], dtype: np.dtype[Any], layout: str | None) -> ArraySpec:
    """The spec of one step's array.

    Args:
        where, shape, dtype: as of `observation_spec`.
        layout: as of `ArraySpec`.

    Raises:
        CorruptDataError: there is no such spec.
    """
    try:
        spec = ArraySpec(shape, dtype, layout)
    except InputError as error:
        raise CorruptDataError(f"{where}: {error}") from None
    if np.dtype(spec.dtype) != dtype:
        raise CorruptDataError(f"{where}: expected {spec.dtype}, as little-endian numbers are, got {dtype.str}")
    return spec


def dtype_of(name: Any) -> np.dtype[Any]:
    """The dtype of numbers that a file names, such as "<f4" or "float32"; NumPy alone parses whatever stands there.

    Raises:
        ValueError: it is the name of none.
    """
    if not isinstance(name, str) or not NUMBERS.fullmatch(name):
        raise ValueError(f"dtype: expected the name of one of numbers, such as '<f4', got {name!r:.60}")
    return np.dtype(name)

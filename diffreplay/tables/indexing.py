"""NumPy's indices of an array whose first axes are a table of observations, and whose other axes are their pixels.

Most indices take whole observations. Those are answered by indexing the table alone.
"""

from __future__ import annotations

from types import EllipsisType, NoneType
from typing import Any

import numpy as np

WHOLE = slice(None)
BASIC = (int, np.integer, slice, NoneType, EllipsisType)


def table_key(key: Any, axes: int, shape: tuple[int, ...]) -> tuple[Any, ...] | None:
    """What an index takes from the table, if it takes observations whole; else None.

    Args:
        key: an index of an array of `shape`. One that makes no sense gives None, as it is for NumPy to refuse.
        axes: of the table, the first ones of `shape`.
        shape: of the array.

    Returns:
        an index of the table that gives the observations in the order and shape of the result.
    """
    given = key if isinstance(key, tuple) else (key,)
    if _is_lookup(given, axes):
        return given[:axes]
    parts = [_as_part(part) for part in given]
    used = sum(_axes_used(part) for part in parts)
    if not all(map(_is_usual, parts)) or used > len(shape) or sum(part is Ellipsis for part in parts) > 1:
        return None
    place = next((k for k, part in enumerate(parts) if part is Ellipsis), len(parts))
    parts[place : place + 1] = [WHOLE] * (len(shape) - used)
    taken: list[Any] = []
    axis = 0
    for part in parts:
        after = axis + _axes_used(part)
        if part is None and axis <= axes:
            taken.append(None)
        elif axis >= axes:  # of the pixels
            if not (isinstance(part, slice) and part == WHOLE):
                return None
        elif isinstance(part, np.ndarray) and part.dtype == bool:
            if after > axes or part.shape != shape[axis:after]:
                return None
            taken += part.nonzero()
        else:
            taken.append(part)
        axis = after
    return tuple(taken)


def _is_lookup(parts: tuple[Any, ...], axes: int) -> bool:
    """Whether an index is what Stable-Baselines3's buffers use, which is to be told in no time."""
    if len(parts) > axes + 1 or (len(parts) == axes + 1 and not (type(parts[axes]) is slice and parts[axes] == WHOLE)):
        return False
    return len(parts) >= axes and all(type(part) is np.ndarray and part.dtype == np.int64 for part in parts[:axes])


def is_basic(key: Any) -> bool:
    """Whether NumPy gives a view: no part of the index is an array, a list or a mask."""
    parts = key if isinstance(key, tuple) else (key,)
    return all(isinstance(part, BASIC) and not isinstance(part, bool) for part in parts)


def _as_part(part: Any) -> Any:
    """A part of an index, with an array for whatever NumPy takes for one."""
    if isinstance(part, (*BASIC, np.bool_, np.ndarray)):
        return part
    if isinstance(part, list | tuple) and len(part) == 0:
        return np.zeros(0, np.intp)
    try:
        return np.asarray(part)
    except ValueError:  # lists of different lengths
        return np.asarray(part, object)


def _is_usual(part: Any) -> bool:
    if isinstance(part, np.ndarray):
        return part.dtype.kind in "iu" or (part.dtype == bool and part.ndim > 0)
    return not isinstance(part, bool | np.bool_)


def _axes_used(part: Any) -> int:
    """How many axes of the array a part of an index selects from."""
    if isinstance(part, np.ndarray) and part.dtype == bool:
        return part.ndim
    return 0 if part is None or part is Ellipsis else 1

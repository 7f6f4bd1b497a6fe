"""Where TorchRL's indices of a storage write to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffreplay.errors import IndexingError


def entries_at(cursor: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The numbers of a storage's entries at an index of its first axis, or with a tuple of several.

    Raises:
        IndexingError: there are no such entries.
    """
    rest = int(np.prod(shape[1:]))
    given = tuple(map(_array, cursor)) if isinstance(cursor, tuple) else _array(cursor)
    try:
        if isinstance(given, tuple) or given is None or given is Ellipsis:
            return np.asarray(np.arange(shape[0] * rest).reshape(shape)[given])
        steps = np.arange(shape[0])[given] if _selects(given) else np.asarray(given, np.int64)
    except IndexError as error:
        raise IndexingError(f"cursor: expected items below {shape[0]}, got {cursor!r} ({error})") from None
    if np.any((steps < -shape[0]) | (steps >= shape[0])):
        raise IndexingError(f"cursor: expected items below {shape[0]}, got {cursor!r}")
    steps = steps % shape[0]
    return steps.reshape((*steps.shape, *[1] * (len(shape) - 1))) * rest + np.arange(rest).reshape(shape[1:])


def _selects(part: Any) -> bool:
    """Whether an index has to be resolved: a slice, or a mask."""
    return isinstance(part, slice) or np.asarray(part).dtype == bool


def _array(part: Any) -> Any:
    if isinstance(part, torch.Tensor):
        return part.detach().cpu().numpy()
    return np.asarray(part, np.int64) if isinstance(part, range) else part

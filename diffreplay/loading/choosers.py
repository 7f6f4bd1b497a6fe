"""What chooses the steps of a loader's batches: priorities, or a function of the user's own."""

from __future__ import annotations

from functools import partial, wraps
from typing import Any

import numpy as np

from diffreplay.errors import EmptyBufferError, InputError
from diffreplay.loading.batches import Batches
from diffreplay.loading.priorities import Priorities
from diffreplay.loading.requests import Chooser
from diffreplay.loading.windows import WindowFinder


def choosers(batches: Batches, priorities: Any, indices: Any) -> list[Chooser | None]:
    """What chooses the steps of each buffer, from the arguments of `make_replay_loader`.

    Raises:
        InputError: they make no sense.
    """
    if priorities is not None and indices is not None:
        raise InputError("priorities, indices: expected one of them, got both")
    name, given = ("indices", indices) if priorities is None else ("priorities", priorities)
    count = len(batches.readers)
    found = list(given) if isinstance(given, list | tuple) else [given] * (count if given is None else 1)
    if len(found) != count:
        raise InputError(f"{name}: expected a list of {count}, one for each buffer, got {given!r:.200}")
    for k, (reader, one) in enumerate(zip(batches.readers, found, strict=True)):
        if one is None:
            continue
        finder = reader.samples(batches.spec.steps).starts
        if priorities is not None:
            if not isinstance(one, Priorities) or one.reader.frames is not reader.frames:
                raise InputError(f"priorities: expected Priorities of the very buffer or reader, got {one!r:.200}")
            one.bind(finder)
            found[k] = partial(one.draw, finder=finder)
        elif not callable(one):
            raise InputError(f"indices: expected a function (count, rng), got {one!r:.200}")
        else:
            found[k] = _once_filled(one, finder)
    return found


def _once_filled(chooser: Chooser, finder: WindowFinder) -> Chooser:
    """The same, asked only while there is something to choose."""

    @wraps(chooser)
    def choose(count: int, rng: np.random.Generator) -> Any:
        if not finder.any():
            raise EmptyBufferError("expected a buffer with a complete window to choose steps of, got one without any")
        return chooser(count, rng)

    return choose

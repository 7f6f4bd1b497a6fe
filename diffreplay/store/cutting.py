"""Takes rows out of their episodes, where a frame or a step that they need is not there and will not come."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffreplay.store.index import NO_ROW
from diffreplay.store.layout import Flag
from diffreplay.store.reader import FrameReader


def cut_out(store: FrameReader, first: int, gone: NDArray[np.bool_]) -> None:
    """Make rows as if they had never been, so that no window needs or bridges them.

    The rows after them that miss a frame of their stack become context for later ones, and a step that misses the
    step before it becomes the first of an episode. STARTS is not changed.

    Args:
        store: the rows, of which none that is not looked at needs one that is gone.
        first: the first row that is looked at.
        gone: (N,) which of the rows from there on are to go.
    """
    rows = np.arange(first, first + len(gone))
    flags, older = store.column("flags", rows), store.layout.frame_stack - 1
    restart = (flags & (Flag.RESTART | Flag.LOST)) == Flag.RESTART
    step_before = store.previous_steps(rows) - first
    follows = (flags & (Flag.FIRST | Flag.RESTART)) != Flag.FIRST
    oldest = np.flatnonzero(restart) - older
    follows[oldest[oldest >= 0]] = False  # the oldest frame of a stack that was stored anew follows no other
    before = np.where(follows, rows - store.column("link", rows) - first, NO_ROW)
    broken = gone.copy()  # rows that cannot be steps, as they miss a frame of their stack
    for _ in range(older):  # after as many frames, a stack is whole again
        broken |= (before >= 0) & broken[np.maximum(before, 0)]
    context = (flags & Flag.CONTEXT) != 0
    orphan = (step_before >= 0) & broken[np.maximum(step_before, 0)] & ~broken & ~context
    # The oldest frames of stacks that were stored anew follow no step.
    store.index.put("link", rows[orphan & restart] - older, 0)
    owned = np.zeros(len(rows), bool)
    for k in range(1, older + 1):
        places = np.flatnonzero(restart & ~broken) - k
        owned[places[places >= 0]] = True
    flags[context & ~owned] |= Flag.LOST
    kept = (flags & Flag.LAST) | np.where(restart, 0, Flag.LOST)
    flags[orphan] = (Flag.FIRST | Flag.RESTART | kept)[orphan]
    flags[broken] = Flag.CONTEXT | Flag.LOST
    store.index.put("flags", rows, flags)

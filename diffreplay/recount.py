"""What follows from the rows of a store, counted anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffreplay.layout import BLOCK_ROWS, Counter, Flag

if TYPE_CHECKING:
    from diffreplay.frames import FrameStore


def recount(store: FrameStore) -> None:
    """Set the counters of transitions and bytes to what the rows say."""
    count_transitions(store)
    payload = store.lengths(np.arange(store.tail, store.head)).sum()
    store.memory.counters[Counter.PAYLOAD_BYTES] = payload
    store.memory.counters[Counter.REFERENCE_BYTES] = store.live_set_bytes()


def count_transitions(store: FrameStore) -> None:
    """Mark the steps at which transitions start, and count them."""
    rows = np.arange(store.tail, store.head)
    flags = store.column("flags", rows) & np.uint8(~Flag.STARTS & 255)
    starts = store.previous_steps(rows[(flags & Flag.CONTEXT) == 0])
    starts = starts[starts >= store.tail]
    flags[starts - store.tail] |= Flag.STARTS
    set_flags(store, rows, flags)
    store.memory.counters[Counter.TRANSITIONS] = len(starts)


def set_flags(store: FrameStore, rows: NDArray[np.int64], flags: NDArray[np.uint8]) -> None:
    """Write the flags of live rows."""
    store.memory.columns["flags"][rows // BLOCK_ROWS % store.layout.blocks, rows % BLOCK_ROWS] = flags

"""What follows from the rows of a store, counted anew."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffreplay.store.layout import BLOCK_ROWS, SET_SLOTS, Counter, Flag
from diffreplay.store.reader import FrameReader, Rows


def recount(store: FrameReader) -> None:
    """Set the counters of transitions and bytes to what the rows say."""
    count_transitions(store)
    store.memory.counters[Counter.PAYLOAD_BYTES] = int(store.locate(np.arange(*store.bounds()))[1].sum())
    count_reference_bytes(store)


def count_transitions(store: FrameReader) -> None:
    """Mark the steps at which transitions start, and count them."""
    tail, head = store.bounds()
    rows = np.arange(tail, head)
    flags = store.column("flags", rows) & np.uint8(~Flag.STARTS & 255)
    starts = store.previous_steps(rows[(flags & Flag.CONTEXT) == 0])
    starts = starts[starts >= tail]
    flags[starts - tail] |= Flag.STARTS
    set_flags(store, rows, flags)
    store.memory.counters[Counter.TRANSITIONS] = len(starts)


def count_reference_bytes(store: FrameReader) -> None:
    """Set the bytes of all reference sets that still have rows."""
    numbers = np.arange(store.counter(Counter.SET_TAIL), store.counter(Counter.SET_HEAD))
    store.memory.counters[Counter.REFERENCE_BYTES] = int(store.memory.set_table["nbytes"][numbers % SET_SLOTS].sum())


def mark_ends(store: FrameReader, going_on: list[int]) -> None:
    """Mark the last step of each episode that ended: none follows it, and it is not among those that are `going_on`."""
    tail, head = store.bounds()
    rows = np.arange(tail, head)
    flags = store.column("flags", rows) & np.uint8(~Flag.LAST & 255)
    ends = ((flags & (Flag.CONTEXT | Flag.STARTS)) == 0) & ~np.isin(rows, going_on)
    flags[ends] |= Flag.LAST
    set_flags(store, rows, flags)


def set_flags(store: FrameReader, rows: Rows, flags: NDArray[np.uint8]) -> None:
    """Write the flags of live rows."""
    store.memory.columns["flags"][rows // BLOCK_ROWS % store.layout.blocks, rows % BLOCK_ROWS] = flags

"""What follows from the rows of a store, counted anew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffreplay.store.layout import Counter, Flag
from diffreplay.store.reader import FrameReader
from diffreplay.store.sets import SetWriter


def recount(store: FrameReader, sets: Sequence[SetWriter]) -> None:
    """Set the counters of transitions and bytes to what the rows say."""
    count_transitions(store)
    store.memory.counters[Counter.PAYLOAD_BYTES] = int(store.lengths(np.arange(*store.bounds())).sum())
    for each in sets:
        each.count_bytes()


def count_transitions(store: FrameReader) -> None:
    """Mark the steps at which transitions start, and count them."""
    tail, head = store.bounds()
    rows = np.arange(tail, head)
    flags = store.column("flags", rows) & np.uint8(~Flag.STARTS & 255)
    starts = store.previous_steps(rows[(flags & Flag.CONTEXT) == 0])
    starts = starts[starts >= tail]
    flags[starts - tail] |= Flag.STARTS
    store.index.put("flags", rows, flags)
    store.memory.counters[Counter.TRANSITIONS] = len(starts)


def mark_ends(store: FrameReader, going_on: list[int]) -> None:
    """Mark the last step of each episode that ended: none follows it, and it is not among those that are `going_on`."""
    tail, head = store.bounds()
    rows = np.arange(tail, head)
    flags = store.column("flags", rows) & np.uint8(~Flag.LAST & 255)
    ends = ((flags & (Flag.CONTEXT | Flag.STARTS)) == 0) & ~np.isin(rows, going_on)
    flags[ends] |= Flag.LAST
    store.index.put("flags", rows, flags)

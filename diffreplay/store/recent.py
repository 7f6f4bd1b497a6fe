"""Finds the newest observations of a stream again: where transitions do not follow one another.

So do those of several environments in one stream, and those that span several steps: `obs` was the `next_obs` of a
transition some way back. What is found is compared byte by byte before it is used.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from diffreplay.store.coding import MAX_LINK
from diffreplay.store.index import NO_ROW
from diffreplay.store.layout import Flag
from diffreplay.store.observations import NEWER, OLDER
from diffreplay.store.streams import Stack, same, steps
from diffreplay.store.writer import FrameStore

KEPT = 64  # observations that are remembered: environments in turns, or steps that a transition spans, at most


class Recent:
    """Rows of the newest observations of one stream, by their checksums."""

    def __init__(self, store: FrameStore, stream: Any) -> None:
        self._store, self._stream = store, stream
        self.idle = 0  # transitions since one was found, for who uses this
        self._whole: dict[int, int] = {}  # of observations after which an episode goes on
        self._newer: dict[int, int] = {}  # of all but their oldest frame

    def note(self, stack: Stack, row: int, goes_on: bool) -> None:
        """Remember an observation that was stored at `row`."""
        if goes_on:
            _put(self._whole, stack, row)
        if len(stack[0]) > 1:
            _put(self._newer, steps(stack, NEWER), row)

    def step(self, stack: Stack) -> int:
        """The row of that observation, if no step follows it yet; else NO_ROW."""
        row = self._whole.get(_checksum(stack), NO_ROW)
        others = (state.row for name, state in self._store.streams.items() if name != self._stream)
        if row in others or not self._holds(row, stack, Flag.CONTEXT | Flag.STARTS):
            return NO_ROW
        return row

    def older_at(self, stack: Stack, after: int = NO_ROW) -> int:
        """A row whose newest frames are the older ones of `stack`; NO_ROW where there is none.

        Where a row `after` is given, which is to be the step before, it needs no frame that leaves before those of
        `after` do: readers rely on that.
        """
        older = steps(stack, OLDER)
        row = self._newer.get(_checksum(older), NO_ROW) if len(older[0]) else NO_ROW
        if not self._holds(row, older, Flag.CONTEXT):
            return NO_ROW
        if after != NO_ROW:
            needed, before = (self._store.stacks(np.array([r]))[0] for r in (row, after))
            needed, before = needed[1:], before[before != NO_ROW]
            if np.any((needed != NO_ROW) & (needed < before.min(initial=after))):
                return NO_ROW
        return row

    def _holds(self, row: int, frames: Stack, without: int) -> bool:
        """Whether a row is a published step without these flags whose newest frames are `frames`."""
        store = self._store
        if not store.tail <= row < store.head or store.rows.next - row > MAX_LINK // 2:
            return False
        if store.index.value("flags", row) & without:
            return False
        stack = store.readable_stack(row)
        return stack is not None and same(steps(stack, slice(-len(frames[0]), None)), frames)


def _checksum(stack: Stack) -> int:
    checksum = 0
    for values in stack:
        checksum = zlib.crc32(values.tobytes(), checksum)
    return checksum


def _put(table: dict[int, int], stack: Stack, row: int) -> None:
    key = _checksum(stack)
    table.pop(key, None)  # so that the newest are the last
    table[key] = row
    if len(table) > KEPT:
        del table[next(iter(table))]

"""Eviction: the oldest rows leave, first in, first out, and what nothing needs any more is given back."""

from __future__ import annotations

from collections.abc import Sequence

from diffreplay.store.arena import fence
from diffreplay.store.budget import Budget
from diffreplay.store.coding import Coding
from diffreplay.store.layout import BLOCK_ROWS, LOG_EXTENT_BYTES, Counter, Layout, Memory
from diffreplay.store.rows import RowWriter
from diffreplay.store.sets import SetWriter


class Eviction:
    """Makes room in index, log and byte cap."""

    def __init__(
        self,
        layout: Layout,
        memory: Memory,
        rows: RowWriter,
        sets: Sequence[SetWriter],
        coding: type[Coding],
        budget: Budget,
    ) -> None:
        self._layout, self._counters = layout, memory.counters
        self._rows, self._sets, self._coding, self._budget = rows, sets, coding, budget

    def evict(self) -> None:
        """Drop the oldest row, and those that cannot be decoded without it."""
        self._rows.drop_oldest()
        self.finish()

    def evict_before(self, row: int) -> None:
        """Drop all rows before `row`, and those that cannot be decoded without them."""
        while self._rows.tail < row:
            self.evict()

    def finish(self) -> None:
        """Drop the oldest rows as long as what they are coded against is gone, and give back what nothing needs."""
        rows = self._rows
        while rows.tail < rows.head and self._coding.needs_evicted(rows.index, rows.tail):
            rows.drop_oldest()
        self._release()

    def make_room(self, more: int) -> None:
        """Evict rows until `more` bytes may be taken besides."""
        while self._rows.tail < self._rows.head and not self._budget.allows(more):
            self.evict()

    def leave_room(self, more: int, capacity: int) -> None:
        """Evict until `more` transitions may be held besides, of `capacity` at most."""
        while self._counters[Counter.TRANSITIONS] + more > capacity:
            self.evict()

    def reserve(self, nbytes: int, count: int = 1) -> int:
        """Make room for `count` rows of `nbytes` coded bytes in all; return where in the log they go.

        Evicts rows until index, log and byte cap allow it, before any memory is taken.
        """
        rows, blocks, log = self._rows, self._rows.blocks, self._rows.log
        start = log.place(rows.log_end(), nbytes)
        block_end, log_end = (rows.next + count - 1) // BLOCK_ROWS + 1, -(-(start + nbytes) // LOG_EXTENT_BYTES)
        while rows.tail < rows.head:
            more = max(block_end - blocks.end, 0) * blocks.extent_bytes
            more += max(log_end - log.ring.end, 0) * LOG_EXTENT_BYTES
            fits = rows.next + count - rows.tail <= self._layout.max_rows and not log.reaches_round(start + nbytes)
            if fits and self._budget.allows(more):
                break
            self.evict()
        if block_end > blocks.end or log_end > log.ring.end:
            blocks.end, log.ring.end = max(block_end, blocks.end), max(log_end, log.ring.end)
            self._budget.publish()
        return start

    def _release(self) -> None:
        """Give back what lies wholly before the oldest row."""
        rows = self._rows
        tail, oldest_sets = rows.tail, [sets.oldest_serving(rows.tail) for sets in self._sets]
        block, extent = tail // BLOCK_ROWS, rows.log.tail // LOG_EXTENT_BYTES
        gone = any(oldest > sets.ring.first for sets, oldest in zip(self._sets, oldest_sets, strict=True))
        if block <= rows.blocks.first and extent <= rows.log.ring.first and not gone:
            return
        self._counters[Counter.FREED] = tail
        for sets, oldest in zip(self._sets, oldest_sets, strict=True):
            sets.drop_before(oldest)
        fence()  # a reader that sees any of the memory reused sees that it was freed
        rings = (sets.ring for sets in self._sets)
        for ring, first in zip((rows.blocks, rows.log.ring, *rings), (block, extent, *oldest_sets), strict=True):
            ring.release(first)
        self._budget.publish()

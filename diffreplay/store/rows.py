"""Rows: appended at one end, dropped at the other. Index and log in step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Buffer
from diffreplay.store.arena import Arena, Ring
from diffreplay.store.index import Index
from diffreplay.store.layout import BLOCK_ROWS, NO_SET, Counter, Flag, Layout, Memory
from diffreplay.store.log import Log


class RowWriter:
    """Writes rows of index and log.

    Attributes:
        next: the row that is written next: HEAD, and the rows that are written and not published yet.
        touched: whether the present change has changed anything yet.
        slots: of the reference sets that the next row's frames are coded against, an entry for each image.
        blocks: the memory of the index, in row blocks.
        log: where the coded frames go.
    """

    def __init__(self, layout: Layout, memory: Memory, index: Index, arena: Arena) -> None:
        self.index, self.log = index, Log(layout, memory, arena)
        self.blocks = Ring(arena, layout.blocks_offset, layout.block_bytes, layout.blocks)
        self.next, self.touched = 0, False
        self.slots = [NO_SET] * len(layout.images)
        self._counters = memory.counters
        self._in_force: list[int] | None = None  # what the index says of the row before; None where that is not known

    @property
    def head(self) -> int:
        """Rows that are published."""
        return self._counters[Counter.HEAD]

    @property
    def tail(self) -> int:
        """The oldest row that still counts."""
        return self._counters[Counter.TAIL]

    def log_end(self) -> int:
        """Where the newest row's coded frames end in the log."""
        row = self.next - 1
        return self.log.tail if row < self.tail else self.index.end(row)

    def write(
        self, start: int, blobs: Sequence[Buffer], link: int, flags: int, back: int, values: tuple[Any, ...]
    ) -> None:
        """Write coded bytes of each image and index of the next row; from `start` on in the log there is room."""
        row, ends = self.next, []
        end = start
        for blob in blobs:
            self.log.write(end, blob)
            end += len(blob)
            ends.append(end)
        place = row % BLOCK_ROWS
        if not place or self._in_force != self.slots:
            self._begin_ranges(row)
        self.index.write(row, 0 if place else self.log_end(), ends or (end,), link, flags, back, values)
        self._counters[Counter.LOG_HEAD] = end
        self._counters[Counter.PAYLOAD_BYTES] += end - start
        self.next = row + 1

    def _begin_ranges(self, row: int) -> None:
        """Have the index tell of the sets that frames are coded against from a row on."""
        self._in_force = None
        for image, slot in enumerate(self.slots):
            self.index.begin_range(row, image, slot)
        self._in_force = [*self.slots]

    def write_many(self, blobs: Sequence[Sequence[Buffer]], columns: dict[str, Any]) -> None:
        """Write coded bytes of each image and index of the next rows, in one block, for which there is room.

        Args:
            blobs: of each row, of each image.
            columns: values of the index's columns, and of the others.
        """
        first, begin, count = self.next, self.log_end(), len(blobs)
        lengths = np.array([[len(blob) for blob in row] for row in blobs])
        self.log.write(begin, b"".join([blob for row in blobs for blob in row]))
        ends = begin + np.cumsum(lengths).reshape(lengths.shape)
        if not first % BLOCK_ROWS or self._in_force != self.slots:
            self._begin_ranges(first)
        self.index.fill(first, begin, ends, None, columns)
        self._counters[Counter.LOG_HEAD] = int(ends[-1, -1])
        self._counters[Counter.PAYLOAD_BYTES] += int(ends[-1, -1]) - begin
        self.next = first + count

    def write_coded(
        self,
        start: int,
        coded: Buffer,
        lengths: NDArray[np.int64],
        slots: NDArray[np.int64],
        columns: dict[str, NDArray[Any]],
    ) -> None:
        """Write the next rows, for which there is room in the log from `start` on and in the index.

        Args:
            start: where their coded frames go, end to end.
            coded: all of these.
            lengths: (N, images) bytes of each.
            slots: (N, images) of the reference sets that they are coded against.
            columns: values of the index's columns, and of the others.
        """
        so_far = (
            np.cumsum(lengths).reshape(lengths.shape) if lengths.shape[1] else np.zeros((len(lengths), 1), np.int64)
        )
        # Where the log goes round, rows without bytes that come first end where the row before does.
        ends = np.where(so_far[:, -1:] == 0, self.log_end(), start + so_far)
        self.log.write(start, coded)
        self._in_force = None
        self.index.fill(self.next, self.log_end(), ends, slots, columns)
        self._counters[Counter.LOG_HEAD] = start + len(coded)
        self._counters[Counter.PAYLOAD_BYTES] += len(coded)
        self.next += len(lengths)

    def start_transition(self, row: int) -> None:
        """Note that a transition starts at a row."""
        self.index.add_flag(row, Flag.STARTS)
        self._counters[Counter.TRANSITIONS] += 1

    def start_transitions(self, rows: Sequence[int] | NDArray[np.int64]) -> None:
        """Note that a transition starts at each of several rows."""
        self.index.add_flags(np.array(rows), Flag.STARTS)
        self._counters[Counter.TRANSITIONS] += len(rows)

    def drop_oldest(self) -> None:
        """Have the oldest row count no more; its memory stays until `Eviction` gives it back."""
        self.touched = True
        row = self.tail
        end = self.index.end(row)
        self._counters[Counter.PAYLOAD_BYTES] += self.log.start(end) - end
        if self.index.value("flags", row) & Flag.STARTS:
            self._counters[Counter.TRANSITIONS] -= 1
        self._counters[Counter.TAIL] = row + 1
        self.log.tail = end  # after TAIL, from which `forget_unpublished` makes up for it

    def forget_unpublished(self) -> None:
        """Go back to the published rows, after a change that was cut short anywhere."""
        self.next, self._in_force = self.head, None
        self.log.tail = self._oldest_log_byte()

    def _oldest_log_byte(self) -> int:
        """Where in the log the coded frames of the oldest row begin, or the next one will, by the rows alone."""
        tail = self.tail
        row = tail - 1 if tail % BLOCK_ROWS or tail == self.head else tail
        if row // BLOCK_ROWS < self.blocks.first:
            return self.log.tail  # the block went after this was counted
        begin = self.index.end(row) if row < tail else self.index.block_begin(row)
        return max(begin, self.log.tail)  # 0 in a block that is being given back

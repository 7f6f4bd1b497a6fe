"""The index: what is stored of each row beside its pixels, and the one place that turns a row's number into a place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffreplay.errors import CorruptDataError
from diffreplay.store import lookup
from diffreplay.store.layout import BLOCK_ROWS, NO_PLACE, NO_SET, RANGES, Flag, Layout, Memory

Rows = NDArray[np.int64]
NO_ROW = -1  # a frame of zeros before an episode's start, or a step that does not exist


class OverrunError(Exception):
    """The writer reused memory that was being read; the caller draws anew. Never leaves the package."""


class Index:
    """Columns of the rows, by the rows' numbers."""

    def __init__(self, layout: Layout, memory: Memory) -> None:
        self._base, self._columns, self._blocks = memory.base, memory.columns, layout.blocks
        self._log_bytes, self._ranges = layout.log_bytes, memory.ranges
        self._scalars = [memory.columns[column.name] for column in layout.scalars]
        self._ends = [memory.columns[name] for name in layout.ends]
        self._frame_bytes = [image.frame_bytes for image in layout.images]

    def get(self, name: str, rows: Rows, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Copy of a column's values at `rows`, in a new array or in `out`, C-contiguous."""
        column = self._columns[name]
        if out is None:
            out = np.empty(rows.shape + column.shape[2:], column.dtype)
        lookup.take(column, np.ascontiguousarray(rows), out)
        return out

    def stacks(self, rows: Rows, frame_stack: int) -> Rows:
        """Rows of the frames of each observation, (N,) to (N, frame_stack), oldest first; NO_ROW is zeros."""
        out, columns = np.empty((len(rows), frame_stack), np.int64), self._columns
        # A row with both flags begins an episode, and links to itself; in a RESTART's stack that is no reason.
        padding, rows = Flag.FIRST | Flag.ZEROS, np.ascontiguousarray(rows)
        lookup.stacks(columns["flags"], columns["link"], rows, out, padding, Flag.RESTART)
        return out

    def put(self, name: str, rows: Rows, values: ArrayLike) -> None:
        """Write a column's values at `rows`."""
        block, place = np.divmod(rows, BLOCK_ROWS)
        self._columns[name][block % self._blocks, place] = values

    def run(self, name: str, first: int, end: int) -> NDArray[Any]:
        """Copy of a column's values at rows [first, end), as `get`, and faster."""
        blocks = np.arange(first // BLOCK_ROWS, -(-end // BLOCK_ROWS))
        values = self._columns[name][blocks % self._blocks]
        return values.reshape(-1, *values.shape[2:])[first % BLOCK_ROWS :][: end - first]

    def value(self, name: str, row: int) -> int:
        """A column's value at one row."""
        return int(self._columns[name][row // BLOCK_ROWS % self._blocks, row % BLOCK_ROWS])

    def add_flag(self, row: int, flag: int) -> None:
        """Raise a flag of one row."""
        self._columns["flags"][row // BLOCK_ROWS % self._blocks, row % BLOCK_ROWS] |= flag

    def add_flags(self, rows: Rows, flag: int) -> None:
        """Raise a flag of several rows."""
        block, place = np.divmod(rows, BLOCK_ROWS)
        self._columns["flags"][block % self._blocks, place] |= flag

    def block_begin(self, row: int) -> int:
        """Where in the log the block of a row begins, numbered for ever."""
        return int(self._base[row // BLOCK_ROWS % self._blocks])

    def end(self, row: int) -> int:
        """Where in the log a row's last coded frame ends, numbered for ever."""
        block = row // BLOCK_ROWS % self._blocks
        return int(self._base[block]) + int(self._ends[-1][block, row % BLOCK_ROWS])

    def spans(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where in the log the coded frames of `rows` begin and end, numbered for ever."""
        return self._spans(rows, self._ends[-1], self._ends[-1], 1)

    def _spans(
        self, rows: Rows, before: NDArray[Any], ends: NDArray[Any], back: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        start, end = np.empty_like(rows), np.empty_like(rows)
        rows = np.ascontiguousarray(rows)
        lookup.spans(self._base[:, None], before, ends, rows, start, end, self._log_bytes, back)
        return start, end

    def locate(self, rows: Rows, image: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Place in the log's ring and length of an image's coded frames.

        Raises:
            OverrunError: the index makes no sense, as it was being overwritten.
        """
        start, end = self._spans(rows, self._ends[image - 1], self._ends[image], int(image == 0))
        length = np.subtract(end, start, out=end)
        if len(length) and (length.min() < 0 or length.max() > self._frame_bytes[image]):
            raise OverrunError
        return start % self._log_bytes, length

    def slots(self, rows: Rows, image: int) -> NDArray[np.int64]:
        """The slots of the reference sets that an image's frames are coded against, NO_SET for none."""
        out = np.empty_like(rows)
        lookup.ranges(self._ranges[image], np.ascontiguousarray(rows), out, BLOCK_ROWS, NO_SET)
        return out

    def write(
        self,
        row: int,
        log_end: int,
        ends: Sequence[int],
        link: int,
        flags: int,
        back: int,
        values: tuple[Any, ...],
    ) -> None:
        """Write one row.

        Args:
            row: its number.
            log_end: where the coded frames of the row before end.
            ends: where its own do, an entry for each image; without images, `log_end` again.
            link: rows back to the one before it, see LINK.
            flags: see Flag.
            back: rows back to the one that it is coded against, where the index has a column for that.
            values: one for each of the caller's columns.
        """
        block, place = row // BLOCK_ROWS % self._blocks, row % BLOCK_ROWS
        columns = self._columns
        if not place:
            self._base[block] = log_end
        base = int(self._base[block])
        for column, end in zip(self._ends, ends, strict=True):
            column[block, place] = end - base
        columns["link"][block, place] = link
        columns["flags"][block, place] = flags
        if "reference" in columns:
            columns["reference"][block, place] = back
        for column, value in zip(self._scalars, values, strict=True):
            column[block, place] = value

    def begin_range(self, row: int, image: int, slot: int) -> None:
        """Have an image's frames be coded against the set in `slot` from `row` on; what its block said of them goes.

        Raises:
            CorruptDataError: its block has as many ranges as it can hold.
        """
        entries, place = self._ranges[image][row // BLOCK_ROWS % self._blocks], row % BLOCK_ROWS
        used = 0 if not place else int(np.count_nonzero(entries["place"] < place))
        entries[used:] = (NO_PLACE, NO_SET)
        if used and entries["slot"][used - 1] == slot:
            return
        if used == RANGES:
            raise CorruptDataError(f"expected at most {RANGES} reference sets for the rows of a block, got more")
        entries[used] = (place, slot)

    def has_range(self, row: int) -> bool:
        """Whether the block of a row that is to be written has room for another range of each image."""
        return all(self.ranges_left(row, image) > 0 for image in range(len(self._ranges)))

    def ranges_left(self, row: int, image: int) -> int:
        """For how many more ranges of an image the block of a row that is to be written has room."""
        if not row % BLOCK_ROWS:
            return RANGES
        entries = self._ranges[image][row // BLOCK_ROWS % self._blocks]
        return RANGES - int(np.count_nonzero(entries["place"] < row % BLOCK_ROWS))

    def fill(
        self,
        first: int,
        log_end: int,
        ends: NDArray[np.int64],
        slots: NDArray[np.int64] | None,
        columns: dict[str, Any],
    ) -> None:
        """Write the rows from `first` on, as `write` and `begin_range` would.

        Args:
            first: number of the first row.
            log_end: where the coded frames of the row before end.
            ends: (N, images) where theirs do, (N, 1) without images.
            slots: (N, images) of their reference sets; None where the index tells of these already.
            columns: values of the other columns, (N, ...) each.

        Raises:
            CorruptDataError: a block has more ranges than it can hold.
        """
        start, count = 0, len(ends)
        while start < count:
            row = first + start
            stop = min(start + BLOCK_ROWS - row % BLOCK_ROWS, count)
            part = slice(start, stop)
            its = {name: values[part] for name, values in columns.items()}
            self._fill_block(row, log_end, ends[part], None if slots is None else slots[part], its)
            log_end, start = int(ends[stop - 1, -1]), stop

    def _fill_block(
        self,
        first: int,
        log_end: int,
        ends: NDArray[np.int64],
        slots: NDArray[np.int64] | None,
        columns: dict[str, Any],
    ) -> None:
        """`fill` for rows of one block, which lie side by side."""
        block, place = first // BLOCK_ROWS % self._blocks, first % BLOCK_ROWS
        where = slice(place, place + len(ends))
        if not place:
            self._base[block] = log_end
        base = int(self._base[block])
        for column, its in zip(self._ends, ends.T, strict=True):
            column[block, where] = its - base
        for image, its in enumerate(() if slots is None else slots.T):
            for begin in (0, *(np.flatnonzero(its[1:] != its[:-1]) + 1).tolist()):
                self.begin_range(first + begin, image, int(its[begin]))
        for name, values in columns.items():
            self._columns[name][block, where] = values

    def ranges_before(self, row: int, image: int) -> list[tuple[int, int]]:
        """The ranges of an image in the block of a row that begin before it: place and slot."""
        entries = self._ranges[image][row // BLOCK_ROWS % self._blocks]
        return [entry for entry in entries.tolist() if entry[0] < row % BLOCK_ROWS]

    def begin_block(self, row: int, log_end: int, ranges: Sequence[Sequence[tuple[int, int]]]) -> None:
        """Have the block of `row` begin at a place in the log, as if the rows before it there took no bytes.

        Args:
            row: which is not the first of it.
            log_end: where in the log.
            ranges: of each image, what `ranges_before` told.
        """
        first = row - row % BLOCK_ROWS
        self._base[row // BLOCK_ROWS % self._blocks] = log_end
        for image, entries in enumerate(ranges):
            self.begin_range(first, image, NO_SET)
            for place, slot in entries:
                self.begin_range(first + place, image, slot)

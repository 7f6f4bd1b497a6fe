"""The index: what is stored of each row beside its pixels, and the one place that turns a row's number into a place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffreplay.store import lookup
from diffreplay.store.layout import BLOCK_ROWS, Flag, Layout, Memory

Rows = NDArray[np.int64]
NO_ROW = -1  # a frame of zeros before an episode's start, or a step that does not exist


class OverrunError(Exception):
    """The writer reused memory that was being read; the caller draws anew. Never leaves the package."""


class Index:
    """Columns of the rows, by the rows' numbers."""

    def __init__(self, layout: Layout, memory: Memory) -> None:
        self._base, self._columns, self._blocks = memory.base, memory.columns, layout.blocks
        self._log_bytes, self._frame_bytes = layout.log_bytes, layout.frame_bytes
        self._scalars = [memory.columns[column.name] for column in layout.scalars]

    def get(self, name: str, rows: Rows) -> NDArray[Any]:
        """Copy of a column's values at `rows`."""
        column = self._columns[name]
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

    def block_begin(self, row: int) -> int:
        """Where in the log the block of a row begins, numbered for ever."""
        return int(self._base[row // BLOCK_ROWS % self._blocks])

    def end(self, row: int) -> int:
        """Where in the log a row's coded frame ends, numbered for ever."""
        block = row // BLOCK_ROWS % self._blocks
        return int(self._base[block]) + int(self._columns["end"][block, row % BLOCK_ROWS])

    def spans(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where in the log the coded frames of `rows` begin and end, numbered for ever."""
        start, end = np.empty_like(rows), np.empty_like(rows)
        lookup.spans(self._base[:, None], self._columns["end"], np.ascontiguousarray(rows), start, end, self._log_bytes)
        return start, end

    def locate(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Place in the log's ring and length of coded frames.

        Raises:
            OverrunError: the index makes no sense, as it was being overwritten.
        """
        start, end = self.spans(rows)
        length = np.subtract(end, start, out=end)
        if len(length) and (length.min() < 0 or length.max() > self._frame_bytes):
            raise OverrunError
        return start % self._log_bytes, length

    def write(
        self, row: int, log_end: int, end: int, link: int, flags: int, back: int, values: tuple[Any, ...]
    ) -> None:
        """Write one row.

        Args:
            row: its number.
            log_end: where the coded frame of the row before ends.
            end: where its own does.
            link: rows back to the frame before it, see LINK.
            flags: see Flag.
            back: rows back to the frame that it is coded against, where the index has a column for that.
            values: one for each of the caller's columns.
        """
        block, place = row // BLOCK_ROWS % self._blocks, row % BLOCK_ROWS
        columns = self._columns
        if not place:
            self._base[block] = log_end
        columns["end"][block, place] = end - int(self._base[block])
        columns["link"][block, place] = link
        columns["flags"][block, place] = flags
        if "reference" in columns:
            columns["reference"][block, place] = back
        for column, value in zip(self._scalars, values, strict=True):
            column[block, place] = value

    def fill(self, first: int, log_end: int, ends: NDArray[np.int64], columns: dict[str, NDArray[Any]]) -> None:
        """Write the rows from `first` on, as `write` would; `ends` and `columns` have an entry for each."""
        rows = np.arange(first, first + len(ends))
        block, place = rows // BLOCK_ROWS % self._blocks, rows % BLOCK_ROWS
        fresh = place == 0
        self._base[block[fresh]] = np.concatenate([[log_end], ends[:-1]])[fresh]
        self._columns["end"][block, place] = ends - self._base[block].astype(np.int64)
        for name, values in columns.items():
            self._columns[name][block, place] = values

    def begin_block(self, row: int, log_end: int) -> None:
        """Have the block of `row` begin at a place in the log, as if the rows before it there took no bytes."""
        self._base[row // BLOCK_ROWS % self._blocks] = log_end

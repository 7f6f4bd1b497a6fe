"""The index of a snapshot that is read in place: filled with the rows of a file when one of them is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.store import Column, Index, Layout, Memory, Rows

BEGIN = "begin"  # column of where a row's first coded frame begins, as the row before may lie in another file


def slot_column(image: int) -> str:
    """Name of the column of the slots of an image's reference sets."""
    return f"slot{image}"


@dataclass(frozen=True)
class MappedLayout(Layout):
    """The layout of a snapshot that is mapped.

    Args:
        mapped_bytes: of the files of rows, which are the log.
        segments: how many these are.
    """

    mapped_bytes: int = 0
    segments: int = 0

    @property
    def log_bytes(self) -> int:
        """Size of the log; not 0, as places in it are counted modulo this."""
        return max(self.mapped_bytes, 1)

    @property
    def nbytes(self) -> int:
        """Memory besides the files: in place of the log, a byte for each file of rows, 1 once the index has these."""
        return self.log_offset + self.segments


def mapped_layout(plain: Layout, rows: int, mapped_bytes: int, segments: int, block_bytes: int) -> MappedLayout:
    """The layout of a snapshot that is mapped.

    Args:
        plain: of what was saved.
        rows: how many there are.
        mapped_bytes, segments: as of `MappedLayout`.
        block_bytes: of the log, from where a block of rows begins to where its last row ends, at most.
    """
    wide = block_bytes >= 1 << 31
    ends = [replace(column, dtype="<u8") if wide else column for column in plain.index[: len(plain.ends)]]
    begin = Column(BEGIN, "<u8" if wide else ends[0].dtype)
    slots = [Column(slot_column(image), "<u2") for image in range(len(plain.images))]
    return MappedLayout(
        plain.images,
        plain.frame_stack,
        rows,
        (*ends, *plain.index[len(ends) :], begin, *slots),
        plain.scalars,
        stacked=plain.stacked,
        mapped_bytes=mapped_bytes,
        segments=segments,
    )


class FilledIndex(Index):
    """An index that has its rows filled in before it tells of them.

    Args:
        layout, memory: as of `Index`.
        fill: makes sure that the index has some rows; tells whether it had to do anything.
    """

    def __init__(self, layout: Layout, memory: Memory, fill: Callable[[Rows], bool]) -> None:
        super().__init__(layout, memory)
        self._fill, self._begins = fill, memory.columns[BEGIN]

    def get(self, name: str, rows: Rows, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Copy of a column's values at `rows`."""
        self._fill(rows)
        return super().get(name, rows, out)

    def stacks(self, rows: Rows, frame_stack: int) -> Rows:
        """Rows of the frames of each observation; they may lead from file to file."""
        self._fill(rows)
        found = super().stacks(rows, frame_stack)
        while True:
            # What was found before its files were in the index, maybe by another process, means nothing.
            self._fill(found)
            again = super().stacks(rows, frame_stack)
            if np.array_equal(again, found):
                return found
            found = again

    def run(self, name: str, first: int, end: int) -> NDArray[Any]:
        """Copy of a column's values at rows [first, end)."""
        self._fill(np.arange(first, end))
        return super().run(name, first, end)

    def spans(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where in the log the coded frames of `rows` begin and end."""
        self._fill(rows)
        return self._spans(rows, self._begins, self._ends[-1], 0)

    def locate(self, rows: Rows, image: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Place in the log and length of an image's coded frames."""
        self._fill(rows)
        start, end = self._spans(rows, self._ends[image - 1] if image else self._begins, self._ends[image], 0)
        return start, np.subtract(end, start, out=end)

    def slots(self, rows: Rows, image: int) -> NDArray[np.int64]:
        """The slots of the reference sets that an image's frames are coded against, NO_SET for none."""
        return self.get(slot_column(image), rows).astype(np.int64)

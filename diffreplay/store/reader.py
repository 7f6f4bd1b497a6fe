"""Reads stored frames from shared memory, in any process, while the writer goes on.

Reading takes no lock. A reader copies what it needs, then asks whether the writer may have reused any of it
meanwhile; only after that is anything decoded or believed. docs/concurrency.md argues why no torn or evicted frame gets
through.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Codec
from diffreplay.store.against import coding_of
from diffreplay.store.arena import Arena, fence, refuse_copy
from diffreplay.store.coding import Coding
from diffreplay.store.index import NO_ROW, Index, Rows
from diffreplay.store.layout import Column, Counter, Flag, Layout, Memory
from diffreplay.store.sets import ReferenceSets


class FrameReader:
    """Random access to the rows of one arena, and the frames of their images.

    Attributes:
        codec: what codes the frames.
        codings: of each image.
    """

    def __init__(self, layout: Layout, arena: Arena, codec: Codec) -> None:
        self.layout, self.arena, self.codec = layout, arena, codec
        self.memory = self._make_memory()
        self.index = self._make_index()
        self._coding = coding_of(codec) if layout.images else Coding
        self.codings = tuple(
            self._coding(codec, layout, self.memory, self.index, self._make_sets(image), image)
            for image in range(len(layout.images))
        )

    def _make_memory(self) -> Memory:
        return Memory(self.layout, self.arena)

    def _make_index(self) -> Index:
        return Index(self.layout, self.memory)

    def _make_sets(self, image: int) -> ReferenceSets:
        return ReferenceSets(self.layout, self.memory, self.index, image)

    __copy__ = refuse_copy

    def __reduce__(self) -> tuple[Any, ...]:
        return FrameReader, (self.layout, self.arena, self.codec)

    @property
    def index_columns(self) -> tuple[Column, ...]:
        """What is stored of each row to find its frames."""
        return self.layout.index

    def bounds(self) -> tuple[int, int]:
        """The rows [tail, head) that count now, all of them complete."""
        head = self.counter(Counter.HEAD)
        fence()
        return min(self.counter(Counter.TAIL), head), head

    def counter(self, which: int) -> int:
        """A counter of the header."""
        return self.memory.counters[which]

    def intact(self, oldest_row: int) -> bool:
        """Whether everything copied so far, from `oldest_row` on, was still in place when it was copied."""
        fence()
        return oldest_row >= self.counter(Counter.FREED)

    def column(self, name: str, rows: Rows, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Copy of a column's values at `rows`, in a new array or in `out`, C-contiguous."""
        return self.index.get(name, rows, out)

    def frames_elsewhere(self, tail: int, head: int) -> int:
        """How many of the rows [tail, head) hold no frame, as another row has it already."""
        flags = self.index.run("flags", tail, head)
        kind = flags & (Flag.FIRST | Flag.CONTEXT | Flag.RESTART | Flag.LOST)
        steps = np.flatnonzero(kind == Flag.RESTART | Flag.LOST)
        return int(np.minimum(steps, self.layout.frame_stack - 1).sum())

    def stacks(self, rows: Rows) -> Rows:
        """Rows of the frames of each observation, (N,) to (N, frame_stack), oldest first; NO_ROW is zeros."""
        return self.index.stacks(rows, self.layout.frame_stack)

    def previous_steps(self, rows: Rows) -> Rows:
        """The step before each step `rows` in its episode, or NO_ROW at its start."""
        flags = self.column("flags", rows)
        restart = (flags & Flag.RESTART) != 0
        oldest = rows - np.where(restart, self.layout.frame_stack - 1, 0)
        previous = oldest - self.column("link", oldest)
        previous[(flags & Flag.FIRST) != 0] = NO_ROW
        previous[rows < 0] = NO_ROW
        return previous

    def oldest_needed(self, rows: Rows) -> Rows:
        """For each of `rows`, the oldest row without which it cannot be decoded."""
        return self._coding.oldest_needed(self.index, rows)

    def locate(self, rows: Rows, image: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Place in the log's ring and length of an image's coded frames.

        Raises:
            OverrunError: the index makes no sense, as it was being overwritten.
        """
        return self.index.locate(rows, image)

    def read_into(self, rows: Rows, oldest_row: int, out: NDArray[np.uint8], image: int = 0) -> bool:
        """Decode frames of an image; False, and anything in `out`, when some of them were evicted meanwhile.

        Args:
            rows: (N,) rows; NO_ROW gives a frame of zeros.
            oldest_row: the oldest of `rows` and of what they need.
            out: (N, H, W, C) uint8, C-contiguous.
            image: which one.

        Raises:
            OverrunError: the index makes no sense, as it was being overwritten.
            CorruptDataError: coded bytes are damaged.
        """
        return self.codings[image].read(rows, out, lambda: self.intact(oldest_row))

    def read_windows(self, rows: Rows, oldest_row: int, out: NDArray[np.uint8], image: int = 0) -> bool:
        """Decode windows of frames with their channels first; False, and anything in `out`, as of `read_into`.

        Args:
            rows: (N, L) rows.
            oldest_row: as of `read_into`.
            out: (N, L, C, H, W) uint8, C-contiguous.
            image: which one.
        """
        return self.codings[image].read_windows(rows, out, lambda: self.intact(oldest_row))

    def read(self, rows: NDArray[np.int64], image: int = 0) -> NDArray[np.uint8]:
        """Frames of live rows, for the writer itself, as nothing is evicted meanwhile: a new array (N, H, W, C)."""
        out = np.empty((len(rows), *self.layout.images[image].frame_shape), np.uint8)
        self.codings[image].read(rows, out, lambda: True)
        return out

    def stacked(self, column: Column, rows: Rows) -> NDArray[Any]:
        """Copy of what a stacked column holds at `rows`; zeros at NO_ROW."""
        values = self.index.get(column.name, rows)
        values[rows < 0] = 0
        return values

    def lengths(self, rows: NDArray[np.int64], image: int | None = None) -> NDArray[np.int64]:
        """Coded bytes of live rows, (N,): of one image, or of all."""
        if image is not None:
            return self.locate(rows, image)[1]
        start, end = self.index.spans(rows)
        return end - start

    def present(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the live rows `rows` that hold a frame."""
        empty = Flag.LOST | Flag.CONTEXT
        return rows[(self.column("flags", rows) & empty) != empty]

    def needed_rows(self, row: int) -> tuple[int, ...]:
        """Rows without which the observation at a row cannot be read."""
        needed = self.oldest_needed(self.stacks(np.array([row]))[0])
        return tuple(needed[needed != NO_ROW].tolist())

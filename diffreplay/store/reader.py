"""Reads stored frames from shared memory, in any process, while the writer goes on.

Reading takes no lock. A reader copies what it needs, then asks with `intact` whether the writer may have
reused any of it meanwhile; only after that is anything decoded or believed. docs/format.md argues why no torn
or evicted frame gets through.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Buffer, Codec
from diffreplay.store.arena import Arena, fence, refuse_copy
from diffreplay.store.layout import BLOCK_ROWS, SET_SLOTS, Counter, Flag, Layout, Memory

Rows = NDArray[np.int64]
PIECE_FRAMES = 128  # decoded at once where frames are then put in their places: they are still in a core's cache
NO_ROW = -1  # a frame of zeros before an episode's start, or a step that does not exist


class OverrunError(Exception):
    """The writer reused memory that was being read; the caller draws anew. Never leaves the package."""


class Coded(NamedTuple):
    """A private copy of coded frames that share a reference set, and where they go."""

    reference: Any  # the open reference set, for codecs that have one
    places: NDArray[np.intp]
    data: Buffer
    lengths: NDArray[np.intp]


class FrameReader:
    """Random access to the frames of one arena."""

    def __init__(self, layout: Layout, arena: Arena, codec: Codec) -> None:
        self.layout, self.arena, self.codec = layout, arena, codec
        self.memory = Memory(layout, arena)
        self._open_sets: dict[int, Any] = {}
        self._local = threading.local()

    __copy__ = refuse_copy

    def __reduce__(self) -> tuple[Any, ...]:
        return FrameReader, (self.layout, self.arena, self.codec)

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

    def column(self, name: str, rows: Rows) -> NDArray[Any]:
        """Copy of a column's values at `rows`."""
        block, row = np.divmod(rows, BLOCK_ROWS)
        return self.memory.columns[name][block % self.layout.blocks, row]

    def stand_ins(self, tail: int, head: int) -> int:
        """How many of the rows [tail, head) are there in place of frames that are stored elsewhere."""
        column = self.memory.columns["flags"]
        blocks = np.arange(tail // BLOCK_ROWS, -(-head // BLOCK_ROWS))
        flags = column[blocks % self.layout.blocks].reshape(-1)[tail % BLOCK_ROWS :][: head - tail]
        kind = flags & (Flag.FIRST | Flag.CONTEXT | Flag.RESTART | Flag.LOST)
        steps = np.flatnonzero(kind == Flag.RESTART | Flag.LOST)
        return int(np.minimum(steps, self.layout.frame_stack - 1).sum())

    def stacks(self, rows: Rows) -> Rows:
        """Rows of the frames of each observation, (N,) to (N, frame_stack), oldest first; NO_ROW is zeros."""
        stacks = np.empty((len(rows), self.layout.frame_stack), np.int64)
        stacks[:, -1] = rows
        for k in range(self.layout.frame_stack - 2, -1, -1):
            stacks[:, k] = self._older_frame(stacks[:, k + 1])
        return stacks

    def _older_frame(self, rows: Rows) -> Rows:
        flags = self.column("flags", rows)
        older = rows - self.column("link", rows)  # a FIRST row links to itself: its padding
        padding = Flag.FIRST | Flag.ZEROS
        older[(flags & (padding | Flag.RESTART)) == padding] = NO_ROW
        older[rows < 0] = NO_ROW
        return older

    def previous_steps(self, rows: Rows) -> Rows:
        """The step before each step `rows` in its episode, or NO_ROW at its start."""
        flags = self.column("flags", rows)
        restart = (flags & Flag.RESTART) != 0
        oldest = rows - np.where(restart, self.layout.frame_stack - 1, 0)
        previous = oldest - self.column("link", oldest)
        previous[(flags & Flag.FIRST) != 0] = NO_ROW
        previous[rows < 0] = NO_ROW
        return previous

    def fetch(self, rows: Rows, out: NDArray[np.uint8]) -> list[Coded]:
        """Copy the stored bytes of frames: raw ones (and references) straight to `out`, coded ones for `decode`.

        Args:
            rows: (N,) rows; NO_ROW gives a frame of zeros.
            out: (N, H, W, C) uint8, C-contiguous.

        Raises:
            OverrunError: the index makes no sense, as it was being overwritten.
        """
        zeros, raw_bytes = rows < 0, self.layout.frame_bytes
        out[zeros] = 0
        if zeros.all():
            return []
        start, length = self.locate(np.where(zeros, rows.max(), rows))
        length[zeros] = -1
        self._copy_raw(start, out, np.flatnonzero(length == raw_bytes))
        coded = np.flatnonzero((length >= 0) & (length < raw_bytes))
        if not len(coded):
            return []
        if self.codec.reference == "frame":
            references = rows[coded] - self.column("reference", rows[coded])
            place, size = self.locate(references)
            if np.any(size != raw_bytes):
                raise OverrunError
            self._copy_raw(place, out, coded)
            part = self._gather(-1, coded, start, length)
            # All of `out` holds references now; a frame that is raw is one that adds nothing to its own.
            every = np.zeros(len(rows), length.dtype)
            every[coded] = part.lengths
            return [part._replace(places=np.arange(len(rows)), lengths=every)]
        groups = self._by_set(rows, coded)
        if len(groups) == 1 and len(coded) == len(rows):  # decoded in one go, straight to their places
            return [self._gather(groups[0][0], coded, start, length)]
        pieces = (
            (number, part[first : first + PIECE_FRAMES])
            for number, part in groups
            for first in range(0, len(part), PIECE_FRAMES)
        )
        return [self._gather(number, part, start, length) for number, part in pieces]

    def decode(self, fetched: list[Coded], out: NDArray[np.uint8]) -> None:
        """Decode what `fetch` copied into the same `out`, after `intact` said that it is whole."""
        for part in fetched:
            if len(part.places) == len(out):
                self.codec.decode(part.data, part.lengths, part.reference, out)
                continue
            few = self.scratch("few", len(part.places))
            self.codec.decode(part.data, part.lengths, part.reference, few)
            out[part.places] = few

    def scratch(self, name: str, count: int) -> NDArray[np.uint8]:
        """This thread's own array of `count` frames (H, W, C), kept for the next use of that name."""
        frames = getattr(self._local, name, None)
        if frames is None or len(frames) < count:
            frames = np.empty((count, *self.layout.frame_shape), np.uint8)
            setattr(self._local, name, frames)
        return frames[:count]

    def oldest_needed(self, rows: Rows) -> Rows:
        """For each of `rows`, the oldest row without which it cannot be decoded."""
        if self.codec.reference != "frame":
            return rows
        needed = rows - self.column("reference", rows)
        needed[rows < 0] = NO_ROW
        return needed

    def locate(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Place in the log's ring and length of coded frames."""
        block, row = np.divmod(rows, BLOCK_ROWS)
        block %= self.layout.blocks
        ends = self.memory.columns["end"]
        base = self.memory.base[block].astype(np.int64)
        end = base + ends[block, row]
        start = base + np.where(row > 0, ends[block, row - 1], 0)
        # A frame never straddles the ring's end: it starts there anew.
        ring = self.layout.log_bytes
        np.maximum(start, (end - 1) // ring * ring, out=start)
        length = end - start
        if len(length) and (length.min() < 0 or length.max() > self.layout.frame_bytes):
            raise OverrunError
        return start % ring, length

    def _copy_raw(self, start: NDArray[np.int64], out: NDArray[np.uint8], places: NDArray[np.intp]) -> None:
        """Copy raw frames to `out[places]`; `start` has an entry for each place, or for each row of `out`."""
        if not len(places):
            return
        if len(start) != len(places):
            start = start[places]
        log, size = self.memory.log, self.layout.frame_bytes
        target = out.reshape(-1).data
        for place, begin in zip((places * size).tolist(), start.tolist(), strict=True):
            target[place : place + size] = log[begin : begin + size]

    def _gather(
        self, number: int, part: NDArray[np.intp], start: NDArray[np.int64], length: NDArray[np.int64]
    ) -> Coded:
        reference = None
        if self.codec.reference == "set":
            reference = self._open_sets.get(number)
            if reference is None:
                reference = self._open_sets[number] = self._read_set(number)
        log, lengths = self.memory.log, length[part]
        first = start[part]
        blobs = [log[a:b] for a, b in zip(first.tolist(), (first + lengths).tolist(), strict=True)]
        return Coded(reference, part, self.codec.gather(blobs, self.layout.frame_bytes), lengths)

    def _read_set(self, number: int) -> Any:
        """Open a reference set from a checked copy; forget the sets that no row needs any more."""
        if number < 0:
            return self.codec.open_set(b"", self.layout.frame_shape)
        slot = number % SET_SLOTS
        begin, nbytes = slot * self.layout.set_slot, int(self.memory.set_table["nbytes"][slot])
        data = bytes(self.memory.sets[begin : begin + min(nbytes, self.layout.set_slot)])
        fence()
        oldest = self.counter(Counter.SET_TAIL)
        if number < oldest:
            raise OverrunError
        for old in [k for k in list(self._open_sets) if k < oldest]:
            self._open_sets.pop(old, None)
        return self.codec.open_set(data, self.layout.frame_shape)

    def _by_set(self, rows: Rows, coded: NDArray[np.intp]) -> list[tuple[int, NDArray[np.intp]]]:
        """Split places by the reference set of their rows, and order them by row: near ones use the same references."""
        tail, head = self.counter(Counter.SET_TAIL), self.counter(Counter.SET_HEAD)
        numbers = np.arange(tail, head)
        first_rows = self.memory.set_table["first_row"][numbers % SET_SLOTS].astype(np.int64)
        fence()
        if self.counter(Counter.SET_TAIL) != tail:
            raise OverrunError  # an entry may have been reused, and the table no longer be in order
        coded = coded[np.argsort(rows[coded])]
        parts = np.split(coded, np.searchsorted(rows[coded], first_rows))
        return [(number, part) for number, part in zip((-1, *numbers.tolist()), parts, strict=True) if len(part)]

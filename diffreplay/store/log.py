"""The log: a ring of bytes that holds the coded frames, one after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Buffer
from diffreplay.store.arena import Arena, Ring, round_up
from diffreplay.store.layout import LOG_EXTENT_BYTES, Layout, Memory


class Log:
    """The writer's account of the log. Bytes are numbered for ever; a frame never straddles the ring's end.

    Attributes:
        ring: the memory that it takes, in extents.
        tail: where the coded frames of the oldest row begin.
    """

    def __init__(self, layout: Layout, memory: Memory, arena: Arena) -> None:
        self.ring = Ring(arena, layout.log_offset, LOG_EXTENT_BYTES, layout.log_bytes // LOG_EXTENT_BYTES)
        self.tail = 0
        self._bytes, self._size = memory.log, layout.log_bytes

    def place(self, end: int, nbytes: int) -> int:
        """Where a frame of `nbytes` begins after one that ends at `end`."""
        return end if end % self._size + nbytes <= self._size else round_up(end, self._size)

    def start(self, end: int) -> int:
        """Where the oldest frame begins, which ends at `end`."""
        return max(self.tail, (end - 1) // self._size * self._size)

    def reaches_round(self, end: int) -> bool:
        """Whether frames up to `end` would share an extent with the oldest one, on the ring's other side."""
        return end - self.tail > self._size - LOG_EXTENT_BYTES

    def write(self, start: int, coded: Buffer) -> None:
        """Write a coded frame at a place that `place` gave."""
        begin = start % self._size
        self._bytes[begin : begin + len(coded)] = coded

    def place_many(self, end: int, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each of many frames ends that follow one that ends at `end`; they go round the ring once at most."""
        ends = end + np.cumsum(lengths)
        around = round_up(end + 1, self._size)
        past = np.flatnonzero(ends > around)  # from the first frame that would straddle the ring's end
        if len(past):
            ends[past[0] :] += around - (ends[past[0]] - lengths[past[0]])
        return ends

    def write_many(self, end: int, ends: NDArray[np.int64], lengths: NDArray[np.int64], coded: memoryview) -> None:
        """Write frames, end to end in `coded`, where `place_many` put them."""
        fitting = int(lengths[ends <= round_up(end + 1, self._size)].sum())
        begin = end % self._size
        self._bytes[begin : begin + fitting] = coded[:fitting]
        self._bytes[: len(coded) - fitting] = coded[fitting:]

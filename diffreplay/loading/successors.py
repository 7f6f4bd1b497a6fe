"""Which step follows which: the index links each step to the one before it alone."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from diffreplay.store import NO_ROW, Flag, FrameReader, OverrunError, Rows, Turns, follow

AT_ONCE = 1 << 16  # rows looked at


class Successors:
    """The step that follows each step of one store, for one process: 2 bytes a row.

    It is what looking at all rows anew would give: extended by those that are new since the last time, and looked at
    only where someone asks.

    Args:
        frames: the store.
    """

    def __init__(self, frames: FrameReader) -> None:
        self._frames = frames
        self._forget()

    def _forget(self) -> None:
        self._turns = Turns(Successors.follow.__code__)
        # Of row r at r modulo the size: how many rows further its successor is, 0 where there is none.
        self._further: NDArray[np.uint16] = np.zeros(1, np.uint16)
        self._head = 0  # rows before this one are looked at
        self._process = os.getpid()

    def follow(self, starts: Rows, count: int) -> Rows:
        """Rows (N, count + 1) of steps and the `count` that follow each; NO_ROW where its episode has no more.

        Args:
            starts: (N,) rows of steps.
            count: how many more.

        Raises:
            OverrunError: rows were evicted meanwhile.
            ReplayError: this very thread is at it already, as where a signal handler samples.
        """
        if self._process != os.getpid():
            self._forget()  # forked, perhaps while another thread was at it
        self._turns.take()  # interrupted at any moment, it may be given to this thread again
        try:
            out = self._follow(starts, count)
            self._turns.claim = {}; return out  # noqa: E702  # fmt: skip  # no call in between
        except BaseException:
            self._turns.claim = {}
            raise

    def _follow(self, starts: Rows, count: int) -> Rows:
        tail, head = self._frames.bounds()
        out = np.empty((len(starts), count + 1), np.int64)
        self._look(tail, head)
        if len(starts):
            there = np.where((starts >= tail) & (starts < self._head), starts, NO_ROW)
            follow(self._further[None], there, out)
        return out

    def _look(self, tail: int, head: int) -> None:
        """Look at the rows up to `head`."""
        self._grow(head - tail)
        for first in range(max(self._head, tail), head, AT_ONCE):
            end = min(first + AT_ONCE, head)
            rows = np.arange(first, end)
            # The first of the rows that a restart takes links to the step before, and is none itself.
            steps = rows[(self._frames.column("flags", rows) & Flag.CONTEXT) == 0]
            before = self._frames.previous_steps(steps)
            if not self._frames.intact(max(tail, first - self._frames.layout.frame_stack)):
                raise OverrunError
            size, held = len(self._further), before >= tail
            self._further[rows % size] = 0
            self._further[before[held] % size] = steps[held] - before[held]
            self._head = end
        self._head = max(self._head, head)

    def _grow(self, rows: int) -> None:
        """Have places for so many rows."""
        before, old = self._further, len(self._further)
        if rows <= old:
            return
        size = max(rows + rows // 4, 1024)
        further = np.zeros(size, np.uint16)  # as wide as the index's links
        if old:
            held = np.arange(max(0, self._head - old), self._head)
            further[held % size] = before[held % old]
        self._further = further

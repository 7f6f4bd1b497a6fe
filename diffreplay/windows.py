"""Complete n-step windows: which ones a buffer holds, and uniform draws from them.

Drawing rows until enough of them end a window costs the same whatever the buffer's size. Only where few rows do, all
windows are listed, once in each process: the list is then extended by new rows and loses those that left. It always is
what looking at all rows anew would give, as a window never changes, and none appears among rows that are there. So it
does not matter which process draws, nor what it drew before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffreplay.errors import EmptyBufferError
from diffreplay.layout import Counter, Flag
from diffreplay.reader import NO_ROW, FrameReader, OverrunError, Rows

SPARSE = 64  # rows to look at for each window found, beyond which the windows are listed
LOOK_STEPS = 1 << 20  # followed at once
NEWEST_ROWS = 64  # among which a window most likely ends if any does


class Windows(NamedTuple):
    """Complete n-step windows: their steps, and the frames of their two observations."""

    steps: Rows  # (B, n + 1) rows of the steps t, t + 1, ..., t + n
    frames: Rows  # (B, W) rows of the frames of both observations; NO_ROW is a frame of zeros
    oldest: int  # the oldest row that any of it needs


class Look(NamedTuple):
    """The windows that end at some rows."""

    steps: Rows  # (N, n + 1), as in `Windows`; less than `tail` where an episode does not go so far back
    places: NDArray[np.intp]  # of the complete windows among them, ascending
    oldest: Rows  # the oldest row that each of those windows needs


class Listed(NamedTuple):
    """All complete windows that end before row `head`."""

    head: int
    last: Rows  # (L,) rows of their last steps, ascending
    oldest: Rows  # (L,) the oldest row that each needs
    runs: Rows  # (n + 1,): [k] the newest step that n - k steps of its episode follow, or NO_ROW


class WindowFinder:
    """Finds windows of `nstep` steps in one store, in any process and thread.

    A window is named by the row of its last step.
    """

    def __init__(self, frames: FrameReader, nstep: int) -> None:
        self.frames, self.nstep = frames, nstep
        nothing = np.empty(0, np.int64)
        self._listed = Listed(0, nothing, nothing, np.full(nstep + 1, NO_ROW))
        self._at_once = max(1, LOOK_STEPS // (nstep + 1))
        self._empty = False  # as the last draw found

    def any(self) -> bool:
        """Whether there is a complete window. While there is none, no row is looked at twice, but for the newest."""
        tail, head = self.frames.bounds()
        newest = np.arange(max(tail, head - NEWEST_ROWS), head)
        return len(self._look(newest, tail).places) > 0 or len(self._list(tail, head).last) > 0

    def draw(self, count: int, rng: np.random.Generator) -> Windows:
        """`count` windows, drawn uniformly from all complete ones.

        Raises:
            EmptyBufferError: there is none.
            OverrunError: rows were evicted meanwhile.
        """
        if self._empty:
            self._empty = not self.any()
        tail, head = self.frames.bounds()
        kept, missing, drawn, found, more = [], count, 0, 0, count + count // 8 + 8
        while head > tail and not self._empty and drawn <= SPARSE * (found + 16):
            steps = self._steps(rng.integers(tail, head, more), tail)
            kept.append(steps[:missing])
            missing -= len(kept[-1])
            if not missing:
                return self._windows(np.concatenate(kept), tail)
            drawn, found = drawn + more, found + len(steps)
            more = min(missing * drawn // max(found, 1) * 9 // 8 + 8, 4 * drawn, self._at_once)
            if more > head - tail:
                break
        last = self._list(tail, head).last
        self._empty = not len(last)
        if self._empty:
            if not self.frames.intact(tail):
                raise OverrunError
            raise EmptyBufferError(self._what_is_missing(tail, head))
        kept.append(self._steps(last[rng.integers(0, len(last), missing)], tail))
        if len(kept[-1]) < missing:
            raise OverrunError
        return self._windows(np.concatenate(kept), tail)

    def _steps(self, last: Rows, tail: int) -> Rows:
        """Steps (N', n + 1) of the windows that end at rows `last`, leaving out the incomplete ones."""
        look = self._look(last, tail)
        return look.steps[look.places]

    def _look(self, last: Rows, tail: int) -> Look:
        """Follow the steps back from rows `last`, each as far as it goes."""
        frames = self.frames
        steps = np.full((len(last), self.nstep + 1), NO_ROW)
        places = np.flatnonzero((frames.column("flags", last) & Flag.CONTEXT) == 0)
        step = steps[:, -1][places] = last[places]
        for k in range(self.nstep - 1, -1, -1):
            step = steps[:, k][places] = frames.previous_steps(step)
            held = step >= tail
            places, step = places[held], step[held]
        stacks = frames.stacks(step)
        needed = frames.oldest_needed(stacks.reshape(-1)).reshape(stacks.shape)
        oldest = np.where(stacks == NO_ROW, stacks[:, -1:], needed).min(axis=1)
        whole = oldest >= tail
        return Look(steps, places[whole], oldest[whole])

    def _windows(self, steps: Rows, tail: int) -> Windows:
        obs, next_obs = self.frames.stacks(steps[:, 0]), self.frames.stacks(steps[:, -1])
        shared = max(obs.shape[1] - self.nstep, 0)
        if shared and not np.array_equal(obs[:, -shared:], next_obs[:, :shared]):
            shared = 0  # a stack in between was stored anew
        window = np.concatenate([obs, next_obs[:, shared:]], axis=1)
        oldest = self.frames.oldest_needed(window.reshape(-1))
        oldest = oldest[oldest >= 0]
        return Windows(steps, window, int(oldest.min()) if len(oldest) else tail)

    def _list(self, tail: int, head: int) -> Listed:
        """All complete windows in rows [tail, head)."""
        before = self._listed
        held = before.oldest >= tail
        last, oldest, runs = [before.last[held]], [before.oldest[held]], before.runs
        for first in range(max(before.head, tail), head, self._at_once):
            rows = np.arange(first, min(first + self._at_once, head))
            look = self._look(rows, tail)
            last.append(rows[look.places])
            oldest.append(look.oldest)
            runs = np.maximum(runs, look.steps.max(axis=0))
        # Replaced as a whole: where two threads are at it, either one's is right.
        self._listed = Listed(max(before.head, head), np.concatenate(last), np.concatenate(oldest), runs)
        return self._listed

    def _what_is_missing(self, tail: int, head: int) -> str:
        expected = f"expected at least one complete window of {self.nstep + 1} steps of one episode to sample from"
        transitions, longest = self.frames.counter(Counter.TRANSITIONS), int((self._listed.runs >= tail).sum())
        found = f"{expected}, got {head - tail} frames without any"
        if not longest:
            return f"{found}; add steps first"
        found += f": {transitions} transitions, of one episode at most {longest} steps"
        if longest > self.nstep:
            return f"{found}, whose oldest frames have left; raise capacity or max_bytes"
        return f"{found}; add longer episodes or lower nstep, which is {self.nstep}"

"""Complete n-step windows: which ones a buffer holds, and uniform draws from them.

Drawing rows until enough of them end a window costs the same whatever the buffer's size. Only where few rows do, all
windows are listed, once in each process: the list is then extended by new rows and loses those that left. It always is
what looking at all rows anew would give, as a window never changes, and none ends at a row that is there already unless
an episode is found to have ended there. So it does not matter which process draws, nor what it drew before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffreplay.errors import EmptyBufferError
from diffreplay.loading.successors import Successors
from diffreplay.store import NO_ROW, Counter, Flag, FrameReader, OverrunError, Rows

SPARSE = 64  # rows to look at for each window found, beyond which the windows are listed
LOOK_STEPS = 1 << 18  # followed at once
NEWEST_ROWS = 64  # among which a window most likely ends if any does


class Windows(NamedTuple):
    """Complete n-step windows: their steps, and the frames of their two observations."""

    steps: Rows  # (B, n + 1) rows of the steps t, t + 1, ..., t + n; the last one again where a window is shorter
    frames: Rows  # (B, W) rows of the frames of both observations; NO_ROW is a frame of zeros
    oldest: int  # the oldest row that any of it needs


class Look(NamedTuple):
    """What was found about some windows, those apart that nothing speaks for."""

    numbers: Rows  # (N,)
    steps: Rows  # (N, n + 1): the last step and the n before it; less than `tail` where an episode begins later
    places: NDArray[np.intp]  # (C,) of the complete ones among them, ascending
    starts: Rows  # (C,) the step at which each of these begins
    oldest: Rows  # (C,) the oldest row that each of these needs


class Seen(NamedTuple):
    """How far the rows have been looked through for complete windows."""

    head: int = 0  # the row after the last one
    # (n + 1,), or (1,) of NO_ROW: [k] the newest step that n - k steps of its episode follow, or NO_ROW
    runs: Rows = np.full(1, NO_ROW)
    # Steps that none follows and that are not known to end an episode, ascending; told apart where windows may be
    # shorter at its end.
    unfinished: Rows = np.empty(0, np.int64)


class Listed(NamedTuple):
    """All complete windows in the rows that were seen."""

    seen: Seen
    numbers: Rows  # (L,), ascending
    oldest: Rows  # (L,) the oldest row that each needs


class WindowFinder:
    """Finds windows of `nstep` steps in one store, in any process and thread.

    A window is named by a number: the row of its last step, times the kinds of windows that may end at a row, plus by
    how many steps it is shorter than `nstep`. Only at an episode's end it may be.

    Args:
        frames: the store.
        nstep: steps that a window spans.
        shorter_at_end: or fewer, where it ends with its episode.
        successors: of the store, where they are shared with other finders.
    """

    def __init__(
        self, frames: FrameReader, nstep: int, shorter_at_end: bool = False, successors: Successors | None = None
    ) -> None:
        self.frames, self.nstep, self.successors = frames, nstep, successors or Successors(frames)
        self._kinds = nstep if shorter_at_end else 1
        self._at_once = max(1, LOOK_STEPS // (nstep + 1))
        self._listed = Listed(Seen(), np.empty(0, np.int64), np.empty(0, np.int64))
        self._empty = False  # whether the last draw found no window

    @property
    def kind(self) -> tuple[int, int]:
        """What windows it finds; equal for all finders of such."""
        return self.nstep, self._kinds

    def any(self) -> bool:
        """Whether there is a complete window. While there is none, no row is looked at twice, but for the newest."""
        tail, head = self.frames.bounds()
        newest = np.arange(max(tail, head - NEWEST_ROWS) * self._kinds, head * self._kinds)
        return len(self._look(newest, tail).places) > 0 or len(self.listed(tail, head).numbers) > 0

    def draw(self, count: int, rng: np.random.Generator) -> Windows:
        """`count` windows, drawn uniformly from all complete ones.

        Raises:
            EmptyBufferError: there is none.
            OverrunError: rows were evicted meanwhile.
        """
        return self._windows(*self.draw_steps(count, rng))

    def draw_steps(self, count: int, rng: np.random.Generator) -> tuple[Rows, int]:
        """The steps (count, n + 1) of such windows, as in `Windows`, and the oldest row that counted then."""
        if self._empty:
            self._empty = not self.any()
        tail, head = self.frames.bounds()
        kinds, at_once = self._kinds, self._at_once * min(self._kinds, 16)
        kept, missing, drawn, found, more = [], count, 0, 0, count + count // 8 + 8
        more = min(more * kinds, max(more, at_once))
        while head > tail and not self._empty and drawn <= SPARSE * kinds * (found + 16):
            steps = self.steps(rng.integers(tail * kinds, head * kinds, more), tail)
            kept.append(steps[:missing])
            missing -= len(kept[-1])
            if not missing:
                return np.concatenate(kept), tail
            drawn, found = drawn + more, found + len(steps)
            more = min(missing * drawn // max(found, 1) * 9 // 8 + 8 * kinds, 4 * drawn, at_once)
            if more > (head - tail) * kinds:
                break
        numbers = self.listed(tail, head).numbers
        self._empty = not len(numbers)
        if self._empty:
            if not self.frames.intact(tail):
                raise OverrunError
            raise EmptyBufferError(self.what_is_missing(tail, head, self._listed.seen))
        kept.append(self.steps(numbers[rng.integers(0, len(numbers), missing)], tail))
        if len(kept[-1]) < missing:
            raise OverrunError
        return np.concatenate(kept), tail

    def at(self, starts: Rows) -> tuple[Windows, NDArray[np.intp]]:
        """The complete windows that begin at the steps `starts` (N,), and the places of their steps in it.

        Raises:
            OverrunError: rows were evicted meanwhile.
        """
        tail, _ = self.frames.bounds()
        steps = self.successors.follow(starts, self.nstep)
        after = np.count_nonzero(steps >= 0, axis=1) - 1
        complete = after == self.nstep
        if self._kinds > 1:
            last = steps[np.arange(len(steps)), after]
            complete |= (after > 0) & ((self.frames.column("flags", last) & Flag.LAST) != 0)
        places = np.flatnonzero(complete)
        places = places[self._oldest(starts[places]) >= tail]
        # Rows ascend: where a window is shorter, the last one stands again.
        return self._windows(np.maximum.accumulate(steps[places], axis=1), tail), places

    def beginnings(self, newest: int | None) -> Rows:
        """The steps at which all complete windows begin, or those that end among so many of the newest rows."""
        while True:
            tail, head = self.frames.bounds()
            first = tail if newest is None else max(tail, head - newest)
            found = [np.empty(0, np.int64)]
            for begin in range(first * self._kinds, head * self._kinds, self._at_once):
                numbers = np.arange(begin, min(begin + self._at_once, head * self._kinds))
                found.append(self.steps(numbers, tail)[:, 0])
            if self.frames.intact(tail):
                return np.concatenate(found)

    def steps(self, numbers: Rows, tail: int) -> Rows:
        """Steps (N', n + 1) of windows, as in `Windows`, leaving out the incomplete ones."""
        look = self._look(numbers, tail)
        steps = look.steps[look.places]
        if self._kinds == 1:
            return steps
        shorter = look.numbers[look.places] % self._kinds
        return np.take_along_axis(steps, np.minimum(np.arange(self.nstep + 1) + shorter[:, None], self.nstep), axis=1)

    def listed(self, tail: int, head: int) -> Listed:
        """All complete windows in rows [tail, head)."""
        before = self._listed
        held = before.oldest >= tail
        numbers, oldest = [before.numbers[held]], [before.oldest[held]]

        def note(look: Look) -> None:
            numbers.append(look.numbers[look.places])
            oldest.append(look.oldest)

        seen = self.look_on(before.seen, tail, head, note)
        every = np.concatenate(numbers)
        order = np.argsort(every, kind="stable")  # which takes little where most are in order already
        # Replaced as a whole: where two threads are at it, either one's is right.
        self._listed = Listed(seen, every[order], np.concatenate(oldest)[order])
        return self._listed

    def look_on(self, seen: Seen, tail: int, head: int, note: Callable[[Look], None]) -> Seen:
        """Find the windows in rows [tail, head) that have become complete since `seen`.

        The cost is in proportion to the rows that are new. That an episode has ended may become known long after its
        last step: windows that this makes complete are found then.

        Args:
            seen: `Seen()` at first, later what the last call returned.
            tail, head: the rows that count now.
            note: told of them, a look at a time.

        Returns:
            How far all is seen now.
        """
        kinds, runs, unfinished = self._kinds, seen.runs, seen.unfinished[seen.unfinished >= tail]
        for first in range(max(seen.head, tail), head, self._at_once):
            look = self._look(np.arange(first, min(first + self._at_once, head)) * kinds, tail)
            note(look)
            runs = np.maximum(runs, look.steps.max(axis=0, initial=NO_ROW))
            if kinds > 1:
                unfinished = np.setdiff1d(np.append(unfinished, look.steps[:, -1]), look.steps[:, -2])
        ended = (self.frames.column("flags", unfinished) & Flag.LAST) != 0
        shorter = np.add.outer(unfinished[ended] * kinds, np.arange(1, kinds)).reshape(-1)
        for first in range(0, len(shorter), self._at_once):
            note(self._look(shorter[first : first + self._at_once], tail))
        return Seen(max(seen.head, head), runs, unfinished[~ended])

    def _look(self, numbers: Rows, tail: int) -> Look:
        """Follow the steps back from the last ones, as far as they go."""
        frames, kinds = self.frames, self._kinds
        last = numbers if kinds == 1 else numbers // kinds
        flags = frames.column("flags", last)
        possible = (flags & Flag.CONTEXT) == 0
        if kinds > 1:
            possible &= (numbers % kinds == 0) | ((flags & Flag.LAST) != 0)
        numbers, step = numbers[possible], last[possible]
        steps, places = np.full((len(numbers), self.nstep + 1), NO_ROW), np.arange(len(numbers))
        steps[:, -1] = step
        for k in range(self.nstep - 1, -1, -1):
            step = steps[:, k][places] = frames.previous_steps(step)
            held = step >= tail
            places, step = places[held], step[held]
        if kinds > 1:
            step = steps[np.arange(len(numbers)), numbers % kinds]
            places = np.flatnonzero(step >= tail)
            step = step[places]
        oldest = self._oldest(step)
        whole = oldest >= tail
        return Look(numbers, steps, places[whole], step[whole], oldest[whole])

    def _oldest(self, steps: Rows) -> Rows:
        """The oldest row that the observation of each step needs."""
        stacks = self.frames.stacks(steps)
        needed = self.frames.oldest_needed(stacks.reshape(-1)).reshape(stacks.shape)
        return np.where(stacks == NO_ROW, stacks[:, -1:], needed).min(axis=1)

    def _windows(self, steps: Rows, tail: int) -> Windows:
        obs, next_obs = self.frames.stacks(steps[:, 0]), self.frames.stacks(steps[:, -1])
        shared = max(obs.shape[1] - self.nstep, 0)
        if shared and not np.array_equal(obs[:, -shared:], next_obs[:, :shared]):
            shared = 0  # a stack in between was stored anew
        window = np.concatenate([obs, next_obs[:, shared:]], axis=1)
        oldest = self.frames.oldest_needed(window.reshape(-1))
        oldest = oldest[oldest >= 0]
        return Windows(steps, window, int(oldest.min()) if len(oldest) else tail)

    def what_is_missing(self, tail: int, head: int, seen: Seen) -> str:
        """Why there is no complete window in rows [tail, head), which were all seen, and what to do."""
        wanted = f"one complete window of {self.nstep + 1} steps of one episode"
        if self._kinds > 1:
            wanted += ", or of fewer up to an episode's end,"
        expected = f"expected at least {wanted} to sample from"
        transitions, longest = self.frames.counter(Counter.TRANSITIONS), int((seen.runs >= tail).sum())
        found = f"{expected}, got {head - tail} frames without any"
        if not longest:
            return f"{found}; add steps first"
        found += f": {transitions} transitions, of one episode at most {longest} steps"
        if longest > self.nstep:
            return f"{found}, whose oldest frames have left; raise capacity or max_bytes"
        if self._kinds > 1:
            return f"{found}; add steps until the episode ends"
        return f"{found}; add longer episodes, lower nstep, which is {self.nstep}, or set shorter_at_end=True"

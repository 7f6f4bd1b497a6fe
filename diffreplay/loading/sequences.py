"""Sequences: consecutive steps of one episode, and uniform draws of where they begin."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffreplay.loading.windows import WindowFinder, Windows
from diffreplay.store import OverrunError, Rows


class SequenceFinder:
    """Finds sequences of `length` steps in one store, in any process and thread.

    One begins at every step that another one follows, that is at which a window of one step begins. It has the steps
    from there on, as far as there are any that another one follows.

    Args:
        starts: finds windows of one step.
        length: steps.
    """

    def __init__(self, starts: WindowFinder, length: int) -> None:
        self.starts, self.length = starts, length

    def draw(self, count: int, rng: np.random.Generator) -> Windows:
        """`count` sequences, of which the first steps are drawn uniformly; see `at`.

        Raises:
            EmptyBufferError: there is none.
            OverrunError: rows were evicted meanwhile.
        """
        tail, head = self.starts.frames.bounds()
        # Where most rows begin a sequence, as nearly always, a few more rows than are needed hold enough that do.
        rows = rng.integers(tail, max(head, tail + 1), count + count // 8 + 8)
        steps = self.starts.successors.follow(rows, self.length)
        windows, places = self._read(steps[steps[:, 1] >= 0][:count])
        if len(places) < count:
            windows, places = self.at(self.starts.draw_steps(count, rng)[0][:, 0])
        if len(places) < count:
            raise OverrunError
        return windows

    def at(self, starts: Rows) -> tuple[Windows, NDArray[np.intp]]:
        """The sequences that begin at the steps `starts` (N,), and the places of their first steps in it.

        Returns:
            Windows with steps (N', length + 1), of which the last one only ends the one before; NO_ROW past the end.
            Their frames are those of the first observation and one for each that follows, or those of each observation
            one after the other, where not every stack continues the one before. Observations past the end are zeros,
            but for the first of them.

        Raises:
            OverrunError: rows were evicted meanwhile.
        """
        steps = self.starts.successors.follow(starts, self.length)
        places = np.flatnonzero(steps[:, 1] >= 0)
        windows, whole = self._read(steps[places])
        return windows, places[whole]

    def _read(self, steps: Rows) -> tuple[Windows, NDArray[np.intp]]:
        """Windows of steps (N, length + 1), those apart of which rows have left, and the places of the others."""
        frames, (count, length) = self.starts.frames, (len(steps), self.length)
        tail, head = frames.bounds()
        flat = frames.stacks(steps[:, :-1].reshape(-1))
        needed, stack = frames.oldest_needed(flat.reshape(-1)), flat.shape[1]
        if flat.min(initial=0) < 0:  # of zeros, which are no row, none is needed
            needed = np.where(flat.reshape(-1) < 0, np.repeat(steps[:, 0], length * stack), needed)
        oldest = needed.reshape(count, length * stack).min(axis=1)
        stacks, whole = flat.reshape(count, length, stack), np.flatnonzero(oldest >= tail)
        if len(whole) < count:
            stacks, steps, oldest = stacks[whole], steps[whole], oldest[whole]
        shared = stack == 1 or np.array_equal(stacks[:, 1:, :-1], stacks[:, :-1, 1:])
        if not shared:  # but for stacks past the end
            shared = np.all((stacks[:, 1:, :-1] == stacks[:, :-1, 1:]) | (steps[:, 1:-1, None] < 0))
        if shared:
            window = np.concatenate([stacks[:, 0], stacks[:, 1:, -1]], axis=1)
        else:
            window = stacks.reshape(len(whole), length * stack)
        return Windows(steps, window, int(oldest.min(initial=head))), whole

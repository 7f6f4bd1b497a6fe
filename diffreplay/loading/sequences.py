"""Sequences: consecutive steps of one episode, and uniform draws of where they begin."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffreplay.loading.windows import WindowFinder, Windows
from diffreplay.store import NO_ROW, OverrunError, Rows


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

    def any(self) -> bool:
        """Whether there is a sequence."""
        return self.starts.any()

    def draw(self, count: int, rng: np.random.Generator) -> Windows:
        """`count` sequences, of which the first steps are drawn uniformly; see `at`.

        Raises:
            EmptyBufferError: there is none.
            OverrunError: rows were evicted meanwhile.
        """
        tail, head = self.starts.frames.bounds()
        # Where most rows begin a sequence, as nearly always, a few more rows than are needed hold enough that do.
        rows = rng.integers(tail, max(head, tail + 1), count + count // 8 + 8)
        rows = rows[self.starts.successors.follow(rows, 1)[:, 1] >= 0][:count]
        windows, places = self.at(rows)
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
        frames, length = self.starts.frames, self.length
        tail, head = frames.bounds()
        steps = self.starts.successors.follow(starts, length)
        places = np.flatnonzero(steps[:, 1] >= 0)
        flat = frames.stacks(steps[places, :-1].reshape(-1))
        count, stack = len(places), flat.shape[1]
        needed = frames.oldest_needed(flat.reshape(-1)).reshape(count, length * stack)
        # Of zeros before an episode's start no row is needed.
        oldest = np.where(flat.reshape(needed.shape) == NO_ROW, starts[places][:, None], needed).min(axis=1)
        whole = oldest >= tail
        stacks = flat.reshape(count, length, stack)[whole]
        places, steps = places[whole], steps[places[whole]]
        past = steps[:, 1:-1, None] < 0  # of the second observation on
        if np.all((stacks[:, 1:, :-1] == stacks[:, :-1, 1:]) | past):
            window = np.concatenate([stacks[:, 0], stacks[:, 1:, -1]], axis=1)
        else:
            window = stacks.reshape(len(places), length * stack)
        return Windows(steps, window, int(oldest[whole].min(initial=head))), places

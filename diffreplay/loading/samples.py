"""What a sample is: an n-step transition, or a sequence of steps; its values are read here, its frames in `drawing`."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from diffreplay.loading.sequences import SequenceFinder
from diffreplay.loading.windows import WindowFinder, Windows
from diffreplay.store import Column, Flag, FrameReader, Rows

Values = dict[str, NDArray[Any]]
COMMON = Column("index", "<i8"), Column("weight", "<f4"), Column("source", "<i8")  # that all samples have


class Samples(Protocol):
    """Samples of one kind, from one store."""

    frames: FrameReader

    @property
    def steps(self) -> int | None:
        """Steps of a sequence; None of transitions."""

    @property
    def longest(self) -> int:
        """Frames that a sample has at most."""

    @property
    def starts(self) -> WindowFinder:
        """Finds the steps at which samples begin."""

    def draw(self, count: int, rng: np.random.Generator) -> Windows:
        """`count` samples, drawn uniformly.

        Raises:
            EmptyBufferError: there is none.
            OverrunError: rows were evicted meanwhile.
        """

    def at(self, starts: Rows) -> tuple[Windows, NDArray[np.intp]]:
        """The samples that begin at steps, and the places of these in `starts`.

        Raises:
            OverrunError: rows were evicted meanwhile.
        """

    def apart(self, windows: Windows) -> Windows:
        """The same, with `longest` frames each, none of them for two observations."""

    def fill(self, windows: Windows, values: Values) -> None:
        """Read all but frames to arrays (B, *shape) of the columns, by name."""

    def columns(self) -> tuple[Column, ...]:
        """What samples hold besides frames."""


class Transitions:
    """n-step transitions.

    Args:
        frames: the stored rows.
        finder: of their windows.
        discount: gamma.
        shorter_at_end: as of `ReplayBuffer`.
    """

    steps = None

    def __init__(self, frames: FrameReader, finder: WindowFinder, discount: float, shorter_at_end: bool) -> None:
        self.frames, self.starts, self._discount, self._shorter_at_end = frames, finder, discount, shorter_at_end
        self.draw, self.at = finder.draw, finder.at

    @property
    def longest(self) -> int:
        """Frames of both observations, where they share none."""
        return 2 * self.frames.layout.frame_stack

    def columns(self) -> tuple[Column, ...]:
        """What a transition holds besides frames."""
        return *_stored(self.frames), *COMMON

    def apart(self, windows: Windows) -> Windows:
        """The same, with `longest` frames each."""
        stack, rows = self.frames.layout.frame_stack, windows.frames
        return windows._replace(frames=np.concatenate([rows[:, :stack], rows[:, -stack:]], axis=1))

    def fill(self, windows: Windows, values: Values) -> None:
        """Read all but frames."""
        values["reward"][:], values["discount"][:] = self._returns(windows.steps)
        values["index"][:] = windows.steps[:, 0]
        for column in _stored(self.frames):
            if column.name not in ("reward", "discount"):
                values[column.name][:] = self.frames.column(column.name, windows.steps[:, 1])

    def _returns(self, steps: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """n-step reward and discount of windows with steps (B, n + 1), (B,) each.

        reward = sum over k of (product over j < k of gamma * d_j) * r_k, discount = product of all gamma * d_j; both
        over the steps after the first observation, as many as the window spans.
        """
        after = steps[:, 1:]
        reward = self.frames.column("reward", after).astype(np.float64)
        factor = self.frames.column("discount", after).astype(np.float64) * self._discount
        if self._shorter_at_end:
            past = after == steps[:, :-1]
            reward[past], factor[past] = 0, 1
        product = np.cumprod(factor, axis=1)
        reward[:, 1:] *= product[:, :-1]
        return reward.sum(axis=1).astype(np.float32), product[:, -1].astype(np.float32)


class Sequences:
    """Sequences of steps.

    Args:
        frames: the stored rows.
        finder: of sequences.
    """

    def __init__(self, frames: FrameReader, finder: SequenceFinder) -> None:
        self.frames, self.steps, self.starts = frames, finder.length, finder.starts
        self.draw, self.at = finder.draw, finder.at

    @property
    def longest(self) -> int:
        """Frames of all observations, where they share none."""
        return self.steps * self.frames.layout.frame_stack

    def columns(self) -> tuple[Column, ...]:
        """What a sequence holds besides frames."""
        stored = (Column(column.name, column.dtype, (self.steps, *column.shape)) for column in _stored(self.frames))
        flags = (Column(name, "?", (self.steps,)) for name in ("terminated", "is_first", "mask"))
        return *stored, *flags, *COMMON

    def apart(self, windows: Windows) -> Windows:
        """The same, with `longest` frames each."""
        rows = windows.frames
        if rows.shape[1] < self.longest:
            rows = sliding_window_view(rows, self.frames.layout.frame_stack, axis=1).reshape(len(rows), -1)
        return windows._replace(frames=rows)

    def fill(self, windows: Windows, values: Values) -> None:
        """Read all but frames. What a step's action led to stands in the row of the step that follows."""
        steps, after = windows.steps[:, :-1], windows.steps[:, 1:]
        there = np.greater_equal(after, 0, out=values["mask"])
        past = None if there.all() else ~there
        for column in _stored(self.frames):
            self.frames.column(column.name, after, values[column.name])
            if past is not None:
                values[column.name][past] = 0
        values["index"][:] = steps[:, 0]
        np.logical_and(values["discount"] == 0, there, out=values["terminated"])
        np.logical_and(self.frames.column("flags", steps) & Flag.FIRST, there, out=values["is_first"])


def _stored(frames: FrameReader) -> tuple[Column, ...]:
    """What is stored of each step and is not part of an observation."""
    return frames.layout.scalars[frames.layout.stacked :]

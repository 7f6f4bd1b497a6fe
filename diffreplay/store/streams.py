"""Streams: sequences of observations that run side by side, and where each goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.store.index import NO_ROW
from diffreplay.store.lookup import equal

Stack = tuple[NDArray[Any], ...]
"""An observation as the steps that it shows, oldest first.

Of each image (frame_stack, H, W, C) uint8, or where `planar` of the store says so (frame_stack, C, H, W); then of each
of the stacked columns (frame_stack, *shape), in its dtype: of integers or bool, which are equal where the bits are.
"""


def same(one: Stack, other: Stack) -> bool:
    """Whether steps are the same, bit for bit, for shapes that fit."""
    for a, b in zip(one, other):  # noqa: B905  # what is nicer shows in `add`
        try:
            if not equal(a, b):
                return False
        except ValueError:  # not C-contiguous
            if not (a == b).all():
                return False
    return True


def continues(stack: Stack, before: Stack) -> bool:
    """Whether the older steps of an observation are the newer ones of another, bit for bit."""
    for new, old in zip(stack, before):  # noqa: B905
        try:
            if not equal(new[:-1], old[1:]):
                return False
        except ValueError:
            if not (new[:-1] == old[1:]).all():
                return False
    return True


def steps(stack: Stack, part: slice) -> Stack:
    """Some of the steps of an observation: views."""
    return tuple([values[part] for values in stack])


@dataclass
class Stream:
    """What the writer remembers of one sequence of observations."""

    stack: Stack  # the newest observation, in arrays of its own
    row: int = NO_ROW  # its row; NO_ROW where there is none to go on from
    reference_row: int = NO_ROW  # for codecs with reference frames: the raw row of the present group
    references: Sequence[NDArray[np.uint8]] = ()  # and its frames, of each image
    group_size: int = 0
    is_open: bool = False  # whether its episode goes on
    needed: tuple[int, ...] = ()  # rows without which its newest observation cannot be read

    def keep(self, stack: Stack) -> None:
        """Have another newest observation, which is copied."""
        if not self.stack:
            self.stack = tuple([values.copy() for values in stack])
            return
        for mine, values in zip(self.stack, stack, strict=True):
            np.copyto(mine, values)

    def mark(self) -> tuple[Any, ...]:
        """All but the observation, for `go_back`."""
        return self.row, self.reference_row, self.references, self.group_size, self.is_open, self.needed

    def go_back(self, mark: tuple[Any, ...]) -> None:
        """Be as when `mark` was called."""
        self.row, self.reference_row, self.references, self.group_size, self.is_open, self.needed = mark


class Streams(dict[Any, Stream]):
    """The streams of a store by name."""

    def is_open(self, name: Any) -> bool:
        """Whether an episode of a stream goes on."""
        return name in self and self[name].is_open

    def open_rows(self) -> list[int]:
        """The newest rows of the streams whose episode goes on."""
        return [stream.row for stream in self.values() if stream.is_open]

    def mark(self, name: Any) -> tuple[Any, ...] | None:
        """Where a stream is, for `go_back`; None where there is no such stream."""
        stream = self.get(name)
        return None if stream is None else stream.mark()

    def go_back(self, name: Any, mark: tuple[Any, ...] | None) -> Stream | None:
        """Have a stream be as when `mark` was called, all but its observation."""
        if mark is None:
            self.pop(name, None)
            return None
        self[name].go_back(mark)
        return self[name]

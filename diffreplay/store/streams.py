"""Streams: sequences of observations that run side by side, and where each goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.store.index import NO_ROW


@dataclass
class Stream:
    """What the writer remembers of one sequence of observations."""

    stack: NDArray[np.uint8]  # the newest observation, (frame_stack, C, H, W)
    row: int = NO_ROW  # its row; NO_ROW where there is none to go on from
    reference_row: int = NO_ROW  # for codecs with reference frames: the raw one of the present group
    reference: NDArray[np.uint8] | None = None
    group_size: int = 0
    is_open: bool = False  # whether its episode goes on
    needed: tuple[int, ...] = ()  # rows without which its newest observation cannot be read

    def mark(self) -> tuple[Any, ...]:
        """All but the pixels, for `go_back`."""
        return self.row, self.reference_row, self.reference, self.group_size, self.is_open, self.needed

    def go_back(self, mark: tuple[Any, ...]) -> None:
        """Be as when `mark` was called."""
        self.row, self.reference_row, self.reference, self.group_size, self.is_open, self.needed = mark


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
        """Have a stream be as when `mark` was called, all but the pixels of its observation."""
        if mark is None:
            self.pop(name, None)
            return None
        self[name].go_back(mark)
        return self[name]

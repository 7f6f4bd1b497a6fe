"""What codecs have in common whose reference sets a `PayingPlanner` chooses."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs.base import Codec
from diffreplay.codecs.set_planner import SHARE, PayingPlanner, set_sizes


class PlannedCodec(Codec):
    """Codes against sets that leave most of a cap to frames.

    Args:
        level: as the codec understands it.
        set_frames: frames in a reference set, at most.
        refresh_interval: frames after which a new set is considered, at most.
    """

    reference = "set"
    max_set_bytes: ClassVar[int]  # of a set of several frames
    share: ClassVar[float] = SHARE  # of the frames that a set is chosen from, at most
    _max_bytes: int | None = None

    def __init__(self, level: int | None, set_frames: int, refresh_interval: int) -> None:
        self._level, self._set_frames, self._refresh_interval = level, set_frames, refresh_interval

    def within(self, max_bytes: int | None) -> Self:
        """The codec for a buffer with this cap or none."""
        codec = copy.copy(self)
        codec._max_bytes = max_bytes
        return codec

    def with_sets_of(self, most: int) -> Self:
        """The codec with at most so many frames in a set, where a buffer holds few."""
        codec = copy.copy(self)
        codec._set_frames = min(self._set_frames, most)
        return codec

    def options(self) -> dict[str, Any]:
        """Arguments that make this codec again."""
        return {"level": self._level, "set_frames": self._set_frames, "refresh_interval": self._refresh_interval}

    def set_frames(self, frame_bytes: int) -> int:
        """How many frames of that size a set has at most."""
        return min(self._set_frames, max(1, self.max_set_bytes // frame_bytes))

    def planner(self, frame_shape: tuple[int, int, int]) -> PayingPlanner:
        """Decides when to build a set, and of which frames."""
        frame_bytes = math.prod(frame_shape)

        def trial(pieces: Iterable[NDArray[np.uint8]], references: NDArray[np.uint8]) -> int:
            opened = self.open_set(references.reshape(-1).data, frame_shape)
            return sum(
                frame.size if (blob := self.encode(frame, opened)) is None else len(blob)
                for frames in pieces
                for frame in frames
            )

        def cost(size: int) -> int:
            return self._cost(size, frame_shape)

        sizes = set_sizes(self.set_frames(frame_bytes), cost, self._max_bytes)
        return PayingPlanner(sizes, cost, self._refresh_interval, trial, frame_bytes, self._max_bytes, self.share)

    @abstractmethod
    def _cost(self, size: int, frame_shape: tuple[int, int, int]) -> int:
        """Bytes that a set of so many frames takes, and coding against it."""

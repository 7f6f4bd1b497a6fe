"""Tells from the first observations how many channels a frame of their stacks has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class FrameWatch:
    """Watches how observations follow each other: in a stack, all frames but the oldest come again, one place earlier.

    A gray stack of three has the channels of one RGB image. It differs in that the channels of each observation, but
    for the newest, are those of the one before, which an image in motion never shows.

    Args:
        channels: of an observation.
    """

    ENOUGH = 16  # observations that differ from the one before
    SHARE = 1 / 4  # of them at least must continue it; the others may begin an episode

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.seen = 0
        self.shifted = {step: 0 for step in range(1, channels) if channels % step == 0}

    def see(self, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> None:
        """Take account of two observations in a row, each (channels, H, W)."""
        if np.array_equal(before, after):
            return
        self.seen += 1
        for step in self.shifted:
            self.shifted[step] += np.array_equal(after[:-step], before[step:])

    def frame_channels(self) -> int | None:
        """Channels of a frame, by which most observations were shifted; all where few were; None while not known."""
        if self.seen < self.ENOUGH or not self.shifted:
            return None
        step = max(self.shifted, key=self.shifted.__getitem__)
        return step if self.shifted[step] >= self.SHARE * self.seen else self.channels

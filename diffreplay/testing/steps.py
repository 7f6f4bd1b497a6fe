"""A step that needs no environment."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class TimeStep(NamedTuple):
    """A dm_env style step with the action that led to it, as `ReplayBuffer.add` takes it.

    Attributes:
        observation: (frame_stack * C, H, W) uint8, oldest frame first.
        action: what led here; the first step of an episode needs none.
        reward: received on arriving here.
        discount: 0 where the episode ended for good.
        is_first: whether it begins an episode.
        is_last: whether it ends an episode.

    Examples:
        >>> buffer = diffreplay.ReplayBuffer(1000, (3, 84, 84), (1,))
        >>> for t in range(50):
        ...     stack = np.full((3, 84, 84), t, np.uint8)
        ...     buffer.add(diffreplay.testing.TimeStep(stack, [0.5], reward=1.0, is_first=t == 0, is_last=t == 49))
    """

    observation: NDArray[np.uint8]
    action: Any = None
    reward: float = 0.0
    discount: float = 1.0
    is_first: bool = False
    is_last: bool = False

    def first(self) -> bool:
        """Whether it begins an episode."""
        return self.is_first

    def last(self) -> bool:
        """Whether it ends an episode."""
        return self.is_last

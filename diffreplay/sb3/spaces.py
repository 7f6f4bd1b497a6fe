"""Which observation spaces can be stored, and how their observations are cut into frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import is_image_space_channels_first

from diffreplay.errors import InputError

NO_PIXELS = spaces.Box(0, 255, (0,), np.uint8)  # stands in for an image where SB3 allocates arrays


@dataclass(frozen=True)
class FrameCut:
    """How one observation is a stack of frames.

    Attributes:
        shape: of an observation.
        frame_stack: frames in it.
        frame_shape: (H, W, C) of one frame.
        channels_first: whether channels, frame after frame, are the observation's first axis or its last.
    """

    shape: tuple[int, ...]
    frame_stack: int
    frame_shape: tuple[int, int, int]
    channels_first: bool

    def stacks(self, observations: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Observations (N, *shape) as (N, frame_stack, C, H, W), C-contiguous; a view where it can be one."""
        height, width, channels = self.frame_shape
        if not self.channels_first:
            images = observations.reshape(-1, height, width, self.frame_stack * channels)
            observations = images.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(observations).reshape(-1, self.frame_stack, channels, height, width)

    def observations(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Frames (N, frame_stack, H, W, C) as observations (N, *shape), C-contiguous; a view where it can be one."""
        axes = (0, 1, 4, 2, 3) if self.channels_first else (0, 2, 3, 1, 4)
        return np.ascontiguousarray(frames.transpose(axes)).reshape(-1, *self.shape)


def check_image_space(space: spaces.Space[Any], name: str = "observation_space") -> spaces.Box:
    """The space, if its observations can be stored losslessly.

    Raises:
        InputError: it is not a Box of uint8 with at least one axis.
    """
    if isinstance(space, spaces.Dict):
        raise InputError(
            f"{name}: expected a Box of uint8, got a Dict; use CompressedDictReplayBuffer or "
            "CompressedDictRolloutBuffer"
        )
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or not space.shape or 0 in space.shape:
        raise InputError(
            f"{name}: expected a Box of uint8, as images have, got {space}; use Stable-Baselines3's own buffer"
        )
    return space


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether an entry of a Dict space is compressed: a Box of uint8 with three axes."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3 and 0 not in space.shape


def cut_frames(space: spaces.Box, frame_stack: int | None = None) -> FrameCut:
    """Find the frames in the observations of a space.

    Images have their channels first or last, as Stable-Baselines3 decides it. The frames of a stack lie one
    after the other along that axis: with a multiple of 3 channels they are taken for RGB frames, else for gray
    ones, unless `frame_stack` says otherwise. A wrong guess costs compression, never exactness. Observations
    without three axes are one frame.

    Args:
        space: a Box of uint8.
        frame_stack: frames in an observation, or None to guess it.

    Raises:
        InputError: `frame_stack` does not divide the channels.
    """
    shape = tuple(int(side) for side in space.shape)
    if len(shape) != 3:
        if frame_stack not in (None, 1):
            raise InputError(f"frame_stack: expected 1 or None for observations of shape {shape}, got {frame_stack}")
        return FrameCut(shape, 1, (shape[0], int(np.prod(shape[1:], dtype=int)), 1), channels_first=False)
    channels_first = is_image_space_channels_first(space)
    channels = shape[0] if channels_first else shape[2]
    if frame_stack is None:
        frame_stack = channels // 3 if channels % 3 == 0 else channels
    if isinstance(frame_stack, bool) or not isinstance(frame_stack, int | np.integer) or frame_stack < 1:
        raise InputError(f"frame_stack: expected a positive integer or None, got {frame_stack!r}")
    if channels % frame_stack:
        raise InputError(f"frame_stack: expected a divisor of the {channels} channels, got {frame_stack}")
    height, width = shape[1:] if channels_first else shape[:2]
    return FrameCut(shape, int(frame_stack), (height, width, channels // int(frame_stack)), channels_first)

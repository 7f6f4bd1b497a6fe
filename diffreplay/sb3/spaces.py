"""Which observation spaces can be stored, and how their observations are cut into frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeGuard

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
        guessed: whether `frame_stack` was not given, so that observations may show it to be another.
    """

    shape: tuple[int, ...]
    frame_stack: int
    frame_shape: tuple[int, int, int]
    channels_first: bool
    guessed: bool = False

    @property
    def channels(self) -> int:
        """Channels of an observation."""
        return self.frame_stack * self.frame_shape[2]

    def with_frame_channels(self, channels: int) -> FrameCut:
        """The same observations as frames of so many channels."""
        frame_shape = (*self.frame_shape[:2], channels)
        return replace(self, frame_stack=self.channels // channels, frame_shape=frame_shape, guessed=False)

    @property
    def planar(self) -> bool:
        """Whether the frames of `stacks` have their channels first."""
        return self.channels_first and self.frame_shape[2] > 1

    def stacks(self, observations: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Observations (N, *shape) as (N, frame_stack, H, W, C), or if `planar` (N, frame_stack, C, H, W).

        C-contiguous; a view where it can be one.
        """
        height, width, channels = self.frame_shape
        if self.planar:
            return np.ascontiguousarray(observations).reshape(-1, self.frame_stack, channels, height, width)
        if not self.channels_first:
            images = observations.reshape(-1, height, width, self.frame_stack, channels)
            observations = images.transpose(0, 3, 1, 2, 4)
        return np.ascontiguousarray(observations).reshape(-1, self.frame_stack, height, width, channels)

    def observations(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Frames (N, frame_stack, H, W, C) as observations (N, *shape), C-contiguous; a view where it can be one."""
        axes = (0, 1, 4, 2, 3) if self.channels_first else (0, 2, 3, 1, 4)
        return np.ascontiguousarray(frames.transpose(axes)).reshape(-1, *self.shape)


def split_images(space: spaces.Space[Any], frame_stack: int | None) -> tuple[spaces.Space[Any], dict[str, FrameCut]]:
    """A space without its images, for which arrays would be allocated, and how each image is a stack of frames.

    Args:
        space: of observations. In a Dict, a Box of uint8 with three or more axes is an image; else any Box of uint8.
        frame_stack: frames in an image, or None to guess it.

    Returns:
        the space with empty images, and a cut for each key of the Dict, or for the key "".

    Raises:
        InputError: `frame_stack` does not divide the channels.
    """
    if not isinstance(space, spaces.Dict):
        return (NO_PIXELS, {"": cut_frames(space, frame_stack)}) if _is_pixels(space) else (space, {})
    cuts = {
        key: cut_frames(part, frame_stack)
        for key, part in space.spaces.items()
        if _is_pixels(part) and len(part.shape) >= 3
    }
    return spaces.Dict({key: NO_PIXELS if key in cuts else part for key, part in space.spaces.items()}), cuts


def _is_pixels(space: spaces.Space[Any]) -> TypeGuard[spaces.Box]:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and bool(space.shape) and 0 not in space.shape


def cut_frames(space: spaces.Box, frame_stack: int | None = None) -> FrameCut:
    """Find the frames in the observations of a space.

    Images have their channels first or last, as Stable-Baselines3 decides it. The frames of a stack lie one
    after the other along that axis: with a multiple of 3 channels they are taken for RGB frames, else for gray
    ones, unless `frame_stack` says otherwise; the first observations show whether that is so (see `FrameWatch`).
    A wrong guess costs compression, never exactness. With more than three axes the frames of a stack lie along the
    first one. Observations of one or two axes are one frame.

    Args:
        space: a Box of uint8.
        frame_stack: frames in an observation, or None to guess it.

    Raises:
        InputError: `frame_stack` does not divide the channels.
    """
    shape = tuple(int(side) for side in space.shape)
    if len(shape) < 3:
        if frame_stack not in (None, 1):
            raise InputError(f"frame_stack: expected 1 or None for observations of shape {shape}, got {frame_stack}")
        return FrameCut(shape, 1, (shape[0], int(np.prod(shape[1:], dtype=int)), 1), channels_first=False)
    channels_first = len(shape) > 3 or is_image_space_channels_first(space)
    channels = shape[0] if channels_first else shape[2]
    guessed = frame_stack is None
    if frame_stack is None:
        frame_stack = channels // 3 if channels % 3 == 0 and len(shape) == 3 else channels
    if isinstance(frame_stack, bool) or not isinstance(frame_stack, int | np.integer) or frame_stack < 1:
        raise InputError(f"frame_stack: expected a positive integer or None, got {frame_stack!r}")
    if channels % frame_stack:
        raise InputError(f"frame_stack: expected a divisor of the {channels} channels, got {frame_stack}")
    height, width = (shape[1], int(np.prod(shape[2:], dtype=int))) if channels_first else shape[:2]
    return FrameCut(shape, int(frame_stack), (height, width, channels // int(frame_stack)), channels_first, guessed)

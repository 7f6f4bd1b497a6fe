"""Which observation spaces can be stored, and which frames their images are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space_channels_first

from diffreplay.parts import ArraySpec, Part
from diffreplay.store import MAX_IMAGES
from diffreplay.tables import image_of

NO_PIXELS = spaces.Box(0, 255, (0,), np.uint8)  # stands in for an image where SB3 allocates arrays
GOAL = "desired_goal"  # Gymnasium's name for it


def split_images(space: spaces.Space[Any], frame_stack: int | None) -> tuple[spaces.Space[Any], dict[str, Part]]:
    """A space without its images, for which arrays would be allocated, and each image as a stack of frames.

    Args:
        space: of observations. In a Dict, a Box of uint8 with three or more axes is an image; else any Box of uint8.
        frame_stack: frames in an image, or None to guess it.

    Returns:
        the space with empty images, and a part for each key of the Dict, or for the key "".

    Raises:
        InputError: `frame_stack` does not divide the channels.
    """
    if not isinstance(space, spaces.Dict):
        return (NO_PIXELS, {"": image_part("", space, frame_stack)}) if _is_pixels(space) else (space, {})
    parts = {
        key: image_part(key, box, frame_stack)
        for key, box in space.spaces.items()
        if _is_pixels(box) and len(box.shape) >= 3
    }
    return spaces.Dict({key: NO_PIXELS if key in parts else box for key, box in space.spaces.items()}), parts


def _is_pixels(space: spaces.Space[Any]) -> TypeGuard[spaces.Box]:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and bool(space.shape) and 0 not in space.shape


def image_part(name: str, space: spaces.Box, frame_stack: int | None = None) -> Part:
    """Find the frames in the observations of a space.

    Images have their channels first or last, as Stable-Baselines3 decides it; the rest is told by `image_of`.

    Args:
        name: of the part.
        space: a Box of uint8.
        frame_stack: frames in an observation, or None to guess it.

    Returns:
        a part, whose observations are those of the space with another shape where they do not have three axes.

    Raises:
        InputError: `frame_stack` does not divide the channels.
    """
    shape = tuple(int(side) for side in space.shape)
    channels_first = len(shape) != 3 or is_image_space_channels_first(space)
    return image_of(name, shape, np.uint8, frame_stack, channels_first=channels_first)


def grouped(parts: Iterable[Part]) -> list[list[Part]]:
    """Images that share a store, whose rows hold a frame of each.

    They have equally many frames in an observation, as nearly all images of one observation do. With a stack of four
    and a single frame, say, rows for both would have to repeat frames where the stack begins anew.

    A goal has a store of its own: it stays the same for an episode, and would be stored with every step. With frames
    of walker for all of observation, achieved_goal and desired_goal that took 49 % more bytes.
    """
    groups: dict[tuple[int, bool], list[list[Part]]] = {}
    for part in parts:
        alike = groups.setdefault((part.frame_stack, part.name == GOAL), [])
        if not alike or len(alike[-1]) == MAX_IMAGES:
            alike.append([])
        alike[-1].append(part)
    return [group for alike in groups.values() for group in alike]


@dataclass(frozen=True)
class FrameCut:
    """What is a part today, as pickles of earlier versions have it.

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

    def __iter__(self) -> Iterator[Part]:
        """The one part that it is, as stores take parts today, without a name."""
        yield self._part()

    def _part(self) -> Part:
        height, width, channels = self.frame_shape
        if len(self.shape) < 3:
            return Part("", ArraySpec((height, width), np.uint8, "HW"), 1)
        sides, layout = ((channels, height, width), "CHW") if self.channels_first else (self.frame_shape, "HWC")
        return Part("", ArraySpec(sides, np.uint8, layout), self.frame_stack)

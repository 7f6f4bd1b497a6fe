"""One part of an observation: its frames as they are stored, and as batches hold them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffreplay.parts.spec import ArraySpec

AXES = {"CHW": "FCHW", "HWC": "HWFC", "FCHW": "FCHW", "FHWC": "FHWC", "HW": "FHWC", "FHW": "FHWC"}
"""The axes of an observation once frames and channels are apart; what a layout does not name is 1."""


@dataclass(frozen=True)
class Part:
    """One part of the observations of a buffer.

    A stored frame of an image is uint8. One of uint16 is its low bytes, then its high bytes, each in the order of the
    pixels that are sampled. Depth of MuJoCo in millimetres, 64x64, codec delta, raw bytes over coded ones, as it is and
    with noise of +-2 mm: walker 11.6 and 2.6, where the two bytes of a pixel lie side by side 10.9 and 2.1; reacher 82
    and 3.0, 72 and 2.2; finger 13.0 and 2.7, 12.2 and 1.8; manipulator, of 45 depths in all, 37 and 2.9, 51 and 2.2.

    Args:
        name: "" for an observation that is no mapping.
        spec: of the array of one step.
        frame_stack: frames in an observation.
        channels_first: images are sampled as (f * C, H, W), whatever their layout.
    """

    name: str
    spec: ArraySpec
    frame_stack: int
    channels_first: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        return Part, (self.name, self.spec, self.frame_stack, self.channels_first)

    @cached_property
    def is_image(self) -> bool:
        """Whether it is stored coded."""
        return self.spec.is_image

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Of what is added and sampled."""
        return np.dtype(self.spec.dtype)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of an observation as it is added."""
        return self.spec.stacked(self.frame_stack)

    @cached_property
    def sampled_shape(self) -> tuple[int, ...]:
        """Of an observation as it is sampled."""
        return self._sampled.stacked(self.frame_stack)

    @cached_property
    def stored_shape(self) -> tuple[int, ...]:
        """Of a stored frame: (h, w, c), uint8, where it is an image."""
        if not self.is_image:
            return self.spec.shape
        channels, height, width = self._sides["C"], self._sides["H"], self._sides["W"]
        if not self._is_wide:
            return height, width, channels
        # In the order in which they are sampled, nothing has to be transposed for a batch.
        return (2 * channels * height, width, 1) if self._is_channels_first else (2 * height, width, channels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of a stored frame of an image: (h, w, c)."""
        height, width, channels = self.stored_shape
        return height, width, channels

    @cached_property
    def stored_dtype(self) -> np.dtype[Any]:
        """Of what is stored: of floats their bits, which are equal only where they are the same."""
        if self.is_image:
            return np.dtype(np.uint8)
        return np.dtype(f"<u{self.dtype.itemsize}") if self.dtype.kind == "f" else self.dtype

    @cached_property
    def frame_bytes(self) -> int:
        """Raw bytes of one frame."""
        return math.prod(self.spec.shape) * self.dtype.itemsize

    @cached_property
    def planar(self) -> bool:
        """Whether the frames of batches have their channels first where stored ones have them last."""
        return self._is_channels_first and not self._is_wide and self._sides["C"] > 1

    def stack(self, observation: NDArray[Any]) -> NDArray[Any]:
        """The frames of an observation, oldest first; a view, but of uint16 images and of stacks in the last axis.

        A frame is as it is stored, but that its channels come first where `planar_stack` says so.

        Args:
            observation: of `shape` and `dtype`, with any strides.

        Returns:
            (frame_stack, *stored_shape), or (frame_stack, c, h, w), of `stored_dtype`.
        """
        if self._as_it_lies is not None:
            frames = observation.reshape(self._as_it_lies)
            return frames if self.is_image else frames.view(self.stored_dtype)
        return self._stored(observation.reshape(self._split).transpose(self._order))

    def stacks(self, observations: NDArray[Any]) -> NDArray[Any]:
        """What `stack` gives for each of several observations (N, *shape): (N, frame_stack, ...)."""
        count = len(observations)
        if self._as_it_lies is not None:
            frames = observations.reshape(count, *self._as_it_lies)
            return frames if self.is_image else frames.view(self.stored_dtype)
        split = observations.reshape(count, *self._split)
        return self._stored(split.transpose(0, *(axis + 1 for axis in self._order)))

    def _stored(self, frames: NDArray[Any]) -> NDArray[Any]:
        """Frames in the order in which they are stored as they are stored, a new array; several have leading axes."""
        if not self._is_wide:
            return np.ascontiguousarray(frames)
        halves = np.empty((*frames.shape[:-3], 2, *frames.shape[-3:]), np.uint8)
        np.copyto(halves[..., 0, :, :, :], frames, casting="unsafe")
        np.copyto(halves[..., 1, :, :, :], frames >> 8, casting="unsafe")
        return halves.reshape(*frames.shape[:-3], *self.stored_shape)

    def stored(self, stack: NDArray[Any]) -> NDArray[Any]:
        """What `stack` gave as frames that are stored, (frame_stack, *stored_shape); a view."""
        return stack.transpose(0, 2, 3, 1) if self.planar_stack else stack

    def observation(self, stack: NDArray[Any]) -> NDArray[Any]:
        """What `stack` gave as the observation that was added; a view where that is possible, else a new array."""
        if self._is_wide:
            axes = [self._split[axis] for axis in self._order]
            pixels = np.empty(axes, np.uint16)
            self._join(stack.reshape(axes[0], 2, *axes[1:]), pixels)
            stack = pixels
        elif not self.is_image:
            stack = stack.view(self.dtype)
        return stack.transpose(np.argsort(self._order)).reshape(self.shape)

    def window_shape(self, count: int, length: int) -> tuple[int, ...]:
        """Of the array of `dtype`, C-contiguous, that `count` windows of `length` frames are read into.

        A frame in it is (C, H, W), (H, W, C) or (H, W), as images are sampled, or what one step has.
        """
        return (count, length, *self._sampled.shape)

    def first(self, window: torch.Tensor) -> torch.Tensor:
        """The observations at which windows begin, (count, *sampled_shape).

        A view of a tensor of `window_shape`; a copy with layout "HWC" and several frames a stack.
        """
        return self._merged(window[:, : self.frame_stack])

    def last(self, window: torch.Tensor) -> torch.Tensor:
        """The observations at which windows end, as `first` gives those at which they begin."""
        return self._merged(window[:, -self.frame_stack :])

    def sequence(self, window: torch.Tensor, length: int) -> torch.Tensor:
        """The observations of sequences of `length` steps, (count, length, *sampled_shape).

        Args:
            window: of `window_shape`, with length + frame_stack - 1 frames, of which the observations are overlapping
                views, or with the frames of every observation one after the other.
            length: steps.

        Returns:
            A view; a copy with layout "HWC" and several frames a stack.
        """
        stack = self.frame_stack
        if window.shape[1] == length * stack:
            return self._merged(window.unflatten(1, (length, stack)), 2)
        return self._merged(window.unfold(1, stack, 1).movedim(-1, 2), 2)

    def decoded(self, frames: NDArray[np.uint8], out: NDArray[np.uint16]) -> None:
        """Join the halves of uint16 images.

        Args:
            frames: (N, *stored_shape).
            out: (N, ...), the rest as of a frame of `window_shape`.
        """
        self._join(frames.reshape(len(frames), 2, *self._sampled.shape), out)

    @staticmethod
    def _join(halves: NDArray[np.uint8], out: NDArray[np.uint16]) -> None:
        np.left_shift(halves[:, 1], 8, out=out, dtype=np.uint16)
        np.bitwise_or(halves[:, 0], out, out=out)

    def _merged(self, frames: torch.Tensor, axis: int = 1) -> torch.Tensor:
        """Frames (..., frame_stack, ...) as observations; `axis` is which one has the frames of a stack."""
        layout, shape = self._sampled.layout, self._sampled.shape
        if "F" in layout or (self.frame_stack > 1 and not shape):
            return frames
        if self.frame_stack == 1:
            return frames.select(axis, 0)
        if layout == "HWC":
            return frames.movedim(axis, axis + 2).flatten(axis + 2)
        return frames.flatten(axis, axis + 1)

    @cached_property
    def _sampled(self) -> ArraySpec:
        """Of the array of one step as it is sampled."""
        if not (self.is_image and self.channels_first):
            return self.spec
        return ArraySpec([self._sides[axis] for axis in "CHW"], self.dtype, "CHW")

    @cached_property
    def _is_wide(self) -> bool:
        return self.is_image and self.dtype.itemsize == 2

    @cached_property
    def planar_stack(self) -> bool:
        """Whether the frames of `stack` have their channels first, where stored ones have them last."""
        return self.spec.layout in ("CHW", "FCHW") and not self._is_wide and self._sides["C"] > 1

    @cached_property
    def _as_it_lies(self) -> tuple[int, ...] | None:
        """Of a stack that an observation is by another shape; None where its pixels have to be moved."""
        if self._is_wide or (self.spec.layout == "HWC" and self.frame_stack > 1):
            return None
        height, width, channels = self.stored_shape if self.is_image else (0, 0, 0)
        frame = (channels, height, width) if self.planar_stack else self.stored_shape
        return (self.frame_stack, *frame)

    @cached_property
    def _is_channels_first(self) -> bool:
        return self._sampled.layout in ("CHW", "FCHW")

    @cached_property
    def _sides(self) -> dict[str, int]:
        """Sides of the axes of an image."""
        return {"F": self.frame_stack, "C": 1} | dict(
            zip(self.spec.layout.removeprefix("F"), self.spec.shape, strict=True)
        )

    @cached_property
    def _split(self) -> tuple[int, ...]:
        """Of an observation whose frames and channels are apart."""
        if not self.is_image:
            return (self.frame_stack, *self.spec.shape)
        return tuple(self._sides[axis] for axis in AXES[self.spec.layout])

    @cached_property
    def _order(self) -> tuple[int, ...]:
        """Which axis of `_split` is which one of a stack."""
        if not self.is_image:
            return tuple(range(len(self._split)))
        wanted = "FCHW" if self.planar_stack or (self._is_wide and self._is_channels_first) else "FHWC"
        return tuple(map(AXES[self.spec.layout].index, wanted))

"""Observations of several frames, from single ones and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.parts import ArraySpec


class Stacking:
    """Puts the single frames of an episode together to observations of `frame_stack` frames.

    Of an episode that comes in pieces, the frames before a piece are those at the end of the one before.

    Args:
        spec: of a single frame.
        frame_stack: frames in an observation.
    """

    def __init__(self, spec: ArraySpec, frame_stack: int) -> None:
        self._spec, self._frame_stack = spec, frame_stack
        self._frames = np.empty((0, *spec.shape), spec.dtype)
        self._before = self._frames

    def take(self, frames: NDArray[Any], begins: bool) -> None:
        """Have the frames of an episode, or of its next piece, be those that `observation` tells of."""
        if self._frame_stack > 1:
            before = np.repeat(frames[:1], self._frame_stack - 1, axis=0) if begins else self._before
            frames = np.concatenate([before, frames])
            self._before = frames[len(frames) - self._frame_stack + 1 :].copy()
        self._frames = frames

    def observation(self, step: int) -> NDArray[Any]:
        """The observation at a step of what was taken last; a view where that is possible."""
        if self._frame_stack == 1:
            return self._frames[step]
        return stacked(self._frames[step : step + self._frame_stack], self._spec)


def stacked(frames: NDArray[Any], spec: ArraySpec) -> NDArray[Any]:
    """Frames (f, ...) as one observation: a view where that is possible."""
    shape = spec.stacked(len(frames))
    if spec.layout == "HWC":
        return np.moveaxis(frames, 0, 2).reshape(shape)
    return frames.reshape(shape)


def newest(stacks: NDArray[Any], spec: ArraySpec, frame_stack: int) -> NDArray[Any]:
    """The newest frame (T, ...) of each observation (T, ...) of several."""
    if spec.layout == "HWC":
        return stacks[..., -spec.shape[2] :]
    return stacks.reshape(len(stacks), frame_stack, *spec.shape)[:, -1]


def single(stacks: NDArray[Any], frame_stack: int) -> NDArray[Any] | None:
    """The single frames (T, C, H, W) or (T, n) of an episode's observations (T, f * C, ...), oldest frame first.

    Returns:
        None where that loses something: an observation does not hold what the one before it does, shifted by a frame,
        or the first one is not one frame repeated.
    """
    size = stacks.shape[1] // frame_stack
    newest = stacks[:, -size:]
    if not np.array_equal(stacks[1:, :-size], stacks[:-1, size:]):
        return None
    if not all(np.array_equal(stacks[0, k : k + size], newest[0]) for k in range(0, stacks.shape[1], size)):
        return None
    return newest

"""Observations of several frames, from single ones and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets.episode import Description, Episode
from diffreplay.parts import ArraySpec


class Observations:
    """The observations of an episode, or of its next piece, as a buffer takes them: of `frame_stack` frames each.

    Where a source has no final observation, the last frame stands there again.

    Args:
        description: of the source.
    """

    def __init__(self, description: Description) -> None:
        self._description = description
        self._before: dict[str, NDArray[Any]] = {}  # of each part, the newest frames of the piece before
        self._frames: dict[str, NDArray[Any]] = {}
        self._is_stacked, self._count = True, 0

    def take(self, episode: Episode) -> None:
        """Have these be those of an episode, or of its next piece."""
        older = self._description.frame_stack - 1
        self._count = len(episode.actions) + episode.ends
        self._is_stacked = episode.stacked or not older
        for key, frames in episode.parts.items():
            if len(frames) < self._count:
                frames = np.concatenate([frames, frames[-1:]])
            if not self._is_stacked:
                before = np.repeat(frames[:1], older, axis=0) if episode.begins else self._before[key]
                frames = np.concatenate([before, frames])
                self._before[key] = frames[len(frames) - older :].copy()
            self._frames[key] = frames

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, step: int) -> dict[str, NDArray[Any]]:
        """The parts of the observation at a step; views where that is possible."""
        if self._is_stacked:
            return {key: frames[step] for key, frames in self._frames.items()}
        specs, end = self._description.parts, step + self._description.frame_stack
        return {key: stacked(frames[step:end], specs[key]) for key, frames in self._frames.items()}


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

"""What observations are made of, worked out naively: steps put together and taken apart, for any buffer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffreplay import ArraySpec

Step = list[np.ndarray]  # one array of each part


def form_of(replay: Any) -> Form:
    """The form of the observations of a buffer."""
    return Form(replay.observation_shape, replay.store.layout.frame_stack, replay.channels_first)


class Form:
    """Observations of `frame_stack` steps.

    Args:
        observation_shape: as of `ReplayBuffer`.
        frame_stack: steps in an observation.
        channels_first: as of `ReplayBuffer`.
    """

    def __init__(self, observation_shape: Any, frame_stack: int, channels_first: bool = False) -> None:
        self.frame_stack, self.channels_first = frame_stack, channels_first
        if isinstance(observation_shape, tuple):
            channels, height, width = observation_shape
            observation_shape = ArraySpec((channels // frame_stack, height, width))
        self.is_plain = isinstance(observation_shape, ArraySpec)
        self.specs = {"": observation_shape} if self.is_plain else dict(observation_shape)

    def join(self, steps: list[Step]) -> Any:
        """An observation, as it is added: an array, or a dict of arrays."""
        parts = [_join(spec, [step[k] for step in steps]) for k, spec in enumerate(self.specs.values())]
        return parts[0] if self.is_plain else dict(zip(self.specs, parts, strict=True))

    def split(self, observation: Any) -> list[Step]:
        """The steps of an observation."""
        found = {"": observation} if self.is_plain else observation
        parts = [_split(spec, found[name], self.frame_stack) for name, spec in self.specs.items()]
        return [list(step) for step in zip(*parts, strict=True)]

    def bits(self, observation: Any) -> list[bytes]:
        """All that each step of an observation is, bit for bit."""
        return [b"".join(np.ascontiguousarray(part).tobytes() for part in step) for step in self.split(observation)]

    def sampled(self, observation: Any) -> dict[str, np.ndarray]:
        """What a batch should hold for an observation, by the parts' names."""
        steps, found = self.split(observation), {}
        for k, (name, spec) in enumerate(self.specs.items()):
            if self.channels_first and spec.is_image:
                found[name] = np.concatenate([_channels_first(spec, step[k]) for step in steps])
            else:
                found[name] = _join(spec, [step[k] for step in steps])
        return found

    def blank(self) -> Step:
        """A step of zeros."""
        return [np.zeros(spec.shape, spec.dtype) for spec in self.specs.values()]


def copied(observation: Any) -> Any:
    """A copy of an observation, bit for bit."""
    if isinstance(observation, Mapping):
        return {name: value.copy() for name, value in observation.items()}
    return observation.copy()


def random_array(spec: ArraySpec, rng: np.random.Generator) -> np.ndarray:
    """An array of one step, of random bits: floats may be NaN of any kind, infinite or -0."""
    if spec.dtype == "|b1":
        return rng.integers(0, 2, spec.shape).astype(bool)
    odd = np.array([np.nan, -0.0, 0.0, np.inf, -np.inf, 1.5])
    if np.dtype(spec.dtype).kind == "f" and rng.random() < 0.5:
        return rng.choice(odd, spec.shape).astype(spec.dtype)
    size = int(np.prod(spec.shape, dtype=int)) * np.dtype(spec.dtype).itemsize
    return np.frombuffer(rng.bytes(size), spec.dtype).reshape(spec.shape).copy()


def same_bits(one: Any, other: Any) -> bool:
    """Whether arrays have the same dtype, shape and bits."""
    one, other = np.ascontiguousarray(one), np.ascontiguousarray(other)
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _join(spec: ArraySpec, arrays: list[np.ndarray]) -> np.ndarray:
    if "F" in spec.layout or (not spec.shape and len(arrays) > 1):
        return np.stack(arrays)
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate(arrays, axis=2 if spec.layout == "HWC" else 0)


def _split(spec: ArraySpec, array: np.ndarray, frame_stack: int) -> list[np.ndarray]:
    if "F" in spec.layout or (not spec.shape and frame_stack > 1):
        return list(array)
    if frame_stack == 1:
        return [array]
    return np.split(array, frame_stack, axis=2 if spec.layout == "HWC" else 0)


def _channels_first(spec: ArraySpec, array: np.ndarray) -> np.ndarray:
    """A step of an image as (C, H, W)."""
    if spec.layout in ("HW", "FHW"):
        return array[None]
    return np.moveaxis(array, 2, 0) if spec.layout in ("HWC", "FHWC") else array

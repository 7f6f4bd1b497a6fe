"""What an observation is read from: a camera, or the task's own observation of its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import dm_env
import numpy as np
from dm_env import specs
from numpy.typing import NDArray

from drqv2.appearance import to_grayscale
from runs import interrupts
from runs.errors import OptionError


class Sensor(Protocol):
    """Gives one reading a step, always of one shape and dtype."""

    def spec(self, name: str, frame_stack: int) -> specs.Array:
        """Of `frame_stack` readings, stacked along their first axis."""

    def begin_episode(self, physics: Any) -> None:
        """Take up the simulation of a new episode."""

    def read(self, time_step: dm_env.TimeStep) -> NDArray[Any]:
        """A new array: the present reading, `time_step` being what the task itself gave."""


class Camera:
    """Renders square frames, (C, size, size) uint8.

    Args:
        camera: its number or name in the model.
        size: height and width of a frame in pixels.
        grayscale: one channel (BT.601 luma) a frame in place of RGB's three.
    """

    def __init__(self, camera: int | str, size: int, grayscale: bool) -> None:
        self._camera_id = camera
        self._size = size
        self._grayscale = grayscale
        self._camera: Any = None

    def spec(self, name: str, frame_stack: int) -> specs.BoundedArray:
        shape = (frame_stack * (1 if self._grayscale else 3), self._size, self._size)
        return specs.BoundedArray(shape, np.uint8, 0, 255, name)

    def begin_episode(self, physics: Any) -> None:
        # Manipulation tasks compile their model anew for every episode, so no camera can outlive one.
        from dm_control.mujoco import engine  # imported here for the reason given in drqv2.environment

        # physics.render() would set up a camera for every frame, which costs 5 % of the rendering on a CPU.
        with interrupts.held_back():  # the first one makes the graphics context
            self._camera = engine.Camera(physics, self._size, self._size, self._camera_id)

    def read(self, time_step: dm_env.TimeStep) -> NDArray[np.uint8]:
        pixels = self._camera.render()  # in the camera's own buffer, which its next picture overwrites
        if self._grayscale:
            return to_grayscale(pixels)[np.newaxis]
        return np.array(pixels.transpose(2, 0, 1), order="C")


class Proprioception:
    """The task's state vector, (n,) float32: all floats that the task observes itself, flattened, in its own order.

    Args:
        observed: what the task says of its observations.

    Raises:
        OptionError: there are no floats among them.
    """

    def __init__(self, observed: Mapping[str, specs.Array]) -> None:
        self._names = [name for name, spec in observed.items() if np.issubdtype(spec.dtype, np.floating)]
        if not self._names:
            got = ", ".join(f"{name} ({spec.dtype})" for name, spec in observed.items()) or "none"
            raise OptionError(
                f"proprioception=true: expected a task that observes floats, got {got}: use proprioception=false"
            )
        self._size = sum(int(np.prod(observed[name].shape)) for name in self._names)

    def spec(self, name: str, frame_stack: int) -> specs.Array:
        return specs.Array((frame_stack * self._size,), np.float32, name)

    def begin_episode(self, physics: Any) -> None:
        """Nothing to do: readings come with the time step."""

    def read(self, time_step: dm_env.TimeStep) -> NDArray[np.float32]:
        parts = [np.ravel(time_step.observation[name]) for name in self._names]
        return np.concatenate(parts, dtype=np.float32, casting="same_kind")

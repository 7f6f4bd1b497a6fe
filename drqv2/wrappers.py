"""dm_env wrappers that turn a dm_control environment into what DrQ-v2 trains on.

From the inside out: ``ActionRepeat``, ``ActionScale``, ``StackedPixels``. Observations come from rendering alone; what
the wrapped environment observes itself is dropped.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, NamedTuple

import dm_env
import numpy as np
from dm_env import StepType, specs
from numpy.typing import ArrayLike, NDArray

from drqv2.appearance import paint_planes_black, to_grayscale

logger = logging.getLogger(__name__)


class ExtendedTimeStep(NamedTuple):
    """A dm_env time step together with the action that led to it.

    On an episode's first step the action is a dummy of zeros, the reward 0 and the discount 1.
    """

    step_type: StepType
    reward: float
    discount: float
    observation: NDArray[np.uint8]  # (frame_stack * C, height, width), oldest frame first
    action: NDArray[np.float32]  # (action_dim,)

    def first(self) -> bool:
        return self.step_type == StepType.FIRST

    def mid(self) -> bool:
        return self.step_type == StepType.MID

    def last(self) -> bool:
        return self.step_type == StepType.LAST


class Wrapper(dm_env.Environment):
    """Passes everything on to the environment it wraps."""

    def __init__(self, env: Any) -> None:
        self._env = env

    @property
    def wrapped(self) -> Any:
        """The environment inside."""
        return self._env

    @property
    def physics(self) -> Any:
        """The simulation; some environments compile a new one for every episode, so do not hold on to it."""
        return self._env.physics

    def reset(self) -> Any:
        return self._env.reset()

    def step(self, action: Any) -> Any:
        return self._env.step(action)

    def observation_spec(self) -> Any:
        return self._env.observation_spec()

    def action_spec(self) -> Any:
        return self._env.action_spec()

    def close(self) -> None:
        self._env.close()


class ActionRepeat(Wrapper):
    """Applies each action ``num_repeats`` times, or until the episode ends.

    The reward is the sum of the repeats' rewards, each weighed by the product of the discounts before it; the discount
    is the product of all of them.
    """

    def __init__(self, env: Any, num_repeats: int) -> None:
        super().__init__(env)
        self._num_repeats = num_repeats

    def step(self, action: Any) -> dm_env.TimeStep:
        reward, discount = 0.0, 1.0
        for _ in range(self._num_repeats):
            time_step = self._env.step(action)
            if time_step.first():  # the episode was over, and dm_env answers a further step with a reset
                return time_step
            reward += time_step.reward * discount
            discount *= time_step.discount
            if time_step.last():
                break
        return time_step._replace(reward=reward, discount=discount)


class ActionScale(Wrapper):
    """Takes float32 actions in [-1, 1] and maps them linearly to the wrapped environment's bounds, in float64."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        spec = env.action_spec()
        self._low = np.broadcast_to(np.asarray(spec.minimum, np.float64), spec.shape)
        self._scale = (np.asarray(spec.maximum, np.float64) - self._low) / 2.0
        self._spec = specs.BoundedArray(spec.shape, np.float32, -1.0, 1.0, "action")

    def step(self, action: ArrayLike) -> dm_env.TimeStep:
        if np.shape(action) != self._low.shape:
            raise ValueError(f"expected an action of shape {self._low.shape}, got {np.shape(action)}")
        return self._env.step(self._low + (np.asarray(action, np.float64) + 1.0) * self._scale)

    def action_spec(self) -> specs.BoundedArray:
        return self._spec


class StackedPixels(Wrapper):
    """Observes the last ``frame_stack`` rendered frames, and returns ``ExtendedTimeStep``.

    Args:
        env: an environment with ``physics``, as dm_control's have.
        camera: number or name of the camera that frames are rendered from.
        frame_stack: how many frames an observation holds; at an episode's start its first frame is repeated.
        size: height and width of a frame in pixels.
        grayscale: one channel (BT.601 luma) a frame in place of RGB's three.
        black_floor: paint the model's planes black; where it has none, a warning says so, once.
    """

    def __init__(
        self, env: Any, camera: int | str, frame_stack: int, size: int, grayscale: bool, black_floor: bool
    ) -> None:
        super().__init__(env)
        self._camera_id = camera
        self._size = size
        self._grayscale = grayscale
        self._black_floor = black_floor
        self._frames: deque[NDArray[np.uint8]] = deque(maxlen=frame_stack)
        self._camera: Any = None
        shape = (frame_stack * (1 if grayscale else 3), size, size)
        self._observation_spec = specs.BoundedArray(shape, np.uint8, 0, 255, "observation")

    def reset(self) -> ExtendedTimeStep:
        return self._begin_episode(self._env.reset())

    def step(self, action: ArrayLike) -> ExtendedTimeStep:
        """One agent step. The action is copied; a step after an episode's last begins a new episode."""
        time_step = self._env.step(action)
        if time_step.first():
            return self._begin_episode(time_step)
        self._frames.append(self._render_frame())
        return self._extend(time_step, float(time_step.reward), float(time_step.discount), np.array(action, np.float32))

    def render(self, height: int = 256, width: int = 256) -> NDArray[np.uint8]:
        """The present view from the observations' camera as a new RGB picture, (height, width, 3) uint8.

        It shows the black floor if there is one, but stays in colour with ``grayscale``. Call it after ``reset``.
        """
        return np.array(self.physics.render(height=height, width=width, camera_id=self._camera_id))

    def observation_spec(self) -> specs.BoundedArray:
        return self._observation_spec

    def _begin_episode(self, time_step: dm_env.TimeStep) -> ExtendedTimeStep:
        # Manipulation tasks compile their model anew for every episode, so camera and paint cannot outlive one.
        from dm_control.mujoco import engine  # imported here for the reason given in drqv2.environment

        if self._black_floor and not paint_planes_black(self.physics):
            logger.warning("black_floor has no effect: this task's model has no plane geom to paint black")
            self._black_floor = False
        # physics.render() would set up a camera for every frame, which costs 5 % of the rendering on a CPU.
        self._camera = engine.Camera(self.physics, self._size, self._size, self._camera_id)
        self._frames.extend([self._render_frame()] * (self._frames.maxlen or 1))
        action_spec = self.action_spec()
        return self._extend(time_step, 0.0, 1.0, np.zeros(action_spec.shape, action_spec.dtype))

    def _render_frame(self) -> NDArray[np.uint8]:
        """A new (C, size, size) frame; the camera's own buffer is overwritten by its next picture."""
        pixels = self._camera.render()
        if self._grayscale:
            return to_grayscale(pixels)[np.newaxis]
        return np.array(pixels.transpose(2, 0, 1), order="C")

    def _extend(
        self, time_step: dm_env.TimeStep, reward: float, discount: float, action: NDArray[np.float32]
    ) -> ExtendedTimeStep:
        return ExtendedTimeStep(time_step.step_type, reward, discount, np.concatenate(self._frames), action)

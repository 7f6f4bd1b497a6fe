"""dm_env wrappers that turn a dm_control environment into what DrQ-v2 trains on.

From the inside out: ``ActionRepeat``, ``ActionScale``, then ``StackedPixels``, which observes what one camera sees and
drops what the wrapped environment observes itself, or ``StackedSensors``, which observes more.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import dm_env
import numpy as np
from dm_env import StepType, specs
from numpy.typing import ArrayLike, NDArray

from drqv2.appearance import paint_planes_black
from drqv2.observations import STATE
from drqv2.sensors import Camera, Proprioception, Sensor

logger = logging.getLogger(__name__)

_PIXELS = "observation"  # the one part of what `StackedPixels` observes


class ExtendedTimeStep(NamedTuple):
    """A dm_env time step together with the action that led to it.

    On an episode's first step the action is a dummy of zeros, the reward 0 and the discount 1.
    """

    step_type: StepType
    reward: float
    discount: float
    observation: Any  # uint8 (frame_stack * C, height, width), oldest frame first; or a mapping, see `StackedSensors`
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


class StackedSensors(Wrapper):
    """Observes the last ``frame_stack`` readings of cameras and of the task's state; returns ``ExtendedTimeStep``.

    An observation is a mapping: for each camera its frames, uint8 (frame_stack * C, size, size), and with
    ``proprioception`` the state vectors, float32 (frame_stack * n,), under the name "state". They are the readings of
    the same moments, the oldest first, each in a new array; at an episode's start the first reading is repeated.

    Args:
        env: an environment with ``physics`` and a mapping of observations, as dm_control's have.
        cameras: name in the observation -> number or name in the model. The first one is what ``render`` shows.
        proprioception: observe the task's state vector, see ``drqv2.sensors.Proprioception``.
        frame_stack: how many readings an observation holds.
        size: height and width of a frame in pixels.
        grayscale: one channel (BT.601 luma) a frame in place of RGB's three.
        black_floor: paint the model's planes black; where it has none, a warning says so, once.

    Raises:
        OptionError: ``proprioception`` of a task that observes no floats.
    """

    def __init__(
        self,
        env: Any,
        cameras: Mapping[str, int | str],
        proprioception: bool,
        frame_stack: int,
        size: int,
        grayscale: bool,
        black_floor: bool,
    ) -> None:
        super().__init__(env)
        self._first_camera = next(iter(cameras.values()))
        self._black_floor = black_floor
        self._sensors: dict[str, Sensor] = {name: Camera(camera, size, grayscale) for name, camera in cameras.items()}
        if proprioception:
            self._sensors[STATE] = Proprioception(env.observation_spec())
        self._stacks: dict[str, deque[NDArray[Any]]] = {name: deque(maxlen=frame_stack) for name in self._sensors}
        self._observation_spec = {name: sensor.spec(name, frame_stack) for name, sensor in self._sensors.items()}

    def reset(self) -> ExtendedTimeStep:
        return self._begin_episode(self._env.reset())

    def step(self, action: ArrayLike) -> ExtendedTimeStep:
        """One agent step. The action is copied; a step after an episode's last begins a new episode."""
        time_step = self._env.step(action)
        if time_step.first():
            return self._begin_episode(time_step)
        for name, sensor in self._sensors.items():
            self._stacks[name].append(sensor.read(time_step))
        return self._extend(time_step, float(time_step.reward), float(time_step.discount), np.array(action, np.float32))

    def render(self, height: int = 256, width: int = 256) -> NDArray[np.uint8]:
        """The present view from the observations' first camera as a new RGB picture, (height, width, 3) uint8.

        It shows the black floor if there is one, but stays in colour with ``grayscale``. Call it after ``reset``.
        """
        return np.array(self.physics.render(height=height, width=width, camera_id=self._first_camera))

    def observation_spec(self) -> Any:
        return self._observation_spec

    def _begin_episode(self, time_step: dm_env.TimeStep) -> ExtendedTimeStep:
        # Manipulation tasks compile their model anew for every episode, so paint cannot outlive one.
        if self._black_floor and not paint_planes_black(self.physics):
            logger.warning("black_floor has no effect: this task's model has no plane geom to paint black")
            self._black_floor = False
        for name, sensor in self._sensors.items():
            sensor.begin_episode(self.physics)
            stack = self._stacks[name]
            stack.extend([sensor.read(time_step)] * (stack.maxlen or 1))
        action_spec = self.action_spec()
        return self._extend(time_step, 0.0, 1.0, np.zeros(action_spec.shape, action_spec.dtype))

    def _extend(
        self, time_step: dm_env.TimeStep, reward: float, discount: float, action: NDArray[np.float32]
    ) -> ExtendedTimeStep:
        return ExtendedTimeStep(time_step.step_type, reward, discount, self._observation(), action)

    def _observation(self) -> Any:
        return {name: np.concatenate(stack) for name, stack in self._stacks.items()}


class StackedPixels(StackedSensors):
    """Observes the last ``frame_stack`` frames of one camera, as one array; all else is as ``StackedSensors`` has it.

    Args:
        env: an environment with ``physics``, as dm_control's have.
        camera: number or name of the camera that frames are rendered from.
        frame_stack, size, grayscale, black_floor: as of ``StackedSensors``.
    """

    def __init__(
        self, env: Any, camera: int | str, frame_stack: int, size: int, grayscale: bool, black_floor: bool
    ) -> None:
        super().__init__(env, {_PIXELS: camera}, False, frame_stack, size, grayscale, black_floor)

    def observation_spec(self) -> specs.BoundedArray:
        return self._observation_spec[_PIXELS]

    def _observation(self) -> NDArray[np.uint8]:
        return np.concatenate(self._stacks[_PIXELS])

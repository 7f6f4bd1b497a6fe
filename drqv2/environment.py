"""DrQ-v2's environments: dm_control's suite and manipulation tasks, seen through a camera or several.

    env = drqv2.environment.make("walker_walk", frame_stack=3, action_repeat=2, seed=1)
    time_step = env.reset()                        # an ExtendedTimeStep
    picture = env.render(height=256, width=256)    # (256, 256, 3) uint8, for videos

Observations, rewards and actions are those of the official implementation (github.com/facebookresearch/drqv2), apart
from three details. A terminal discount of 0 stays 0, where ``discount or 1.0`` makes it 1; none of DrQ-v2's tasks has
one. Actions are scaled to the actuators' bounds in float64 and not rounded after that. And manipulation tasks render
one frame an agent step, not one a repeat; the pictures are the same.

The official code rounds scaled actions to float32. With NumPy 2, whose arithmetic is float64 there, too, that changes
nothing where the bounds are -1 and 1: episodes are the same to the last bit, on ten tasks of eleven tried; only the
quadruped's actions differ, by up to 1.5e-7. With NumPy 1 the arithmetic is float32 as well: on all eleven tasks about
half of the actions differ, by up to 6e-8 (quadruped: four in five, 2.5e-7), and so does the state from the first step
on. Contacts make that grow: after 100 steps some of the walker's and the humanoid's state differs by more than 10.

MuJoCo chooses how to render when it is first imported. Importing this module makes that choice on a Linux machine
without a screen (EGL, unless MUJOCO_GL says otherwise), so import it before ``mujoco`` or ``dm_control``; it imports
them itself only when an environment is made, which spares a spawned loader worker their memory.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from drqv2.config import Config
from drqv2.observations import camera_name, check_cameras, check_model_has, is_mapping
from drqv2.wrappers import ActionRepeat, ActionScale, ExtendedTimeStep, StackedPixels, StackedSensors, Wrapper
from runs.errors import OptionError

__all__ = [
    "FRAME_SIZE",
    "ExtendedTimeStep",
    "RenderingError",
    "UnknownTaskError",
    "make",
    "maker",
    "random_state",
    "set_random_state",
    "task_names",
]

if sys.platform == "linux" and not os.environ.get("DISPLAY"):
    os.environ.setdefault("MUJOCO_GL", "egl")

FRAME_SIZE = 84  # pixels, height and width
_CAMERAS = {"quadruped": 2}  # camera 0 shows the quadruped from too far away; all other domains use camera 0
_SHORT_NAMES = {"ball_in_cup": "cup"}  # DrQ-v2's names of domains
_MANIPULATION_CAMERA = "front_close"


class UnknownTaskError(OptionError):
    """No task has this name; the message names those that come close."""


class RenderingError(OptionError):
    """MuJoCo cannot render on this machine with the back end that MUJOCO_GL names."""


def make(
    name: str,
    frame_stack: int,
    action_repeat: int,
    seed: int,
    *,
    grayscale: bool = False,
    black_floor: bool = False,
    cameras: Sequence[int] | None = None,
    proprioception: bool = False,
) -> StackedSensors:
    """A dm_control task with pixel observations, as DrQ-v2 trains on it.

    Observations are uint8 (frame_stack * C, 84, 84), C = 3 or 1 with ``grayscale``, oldest frame first and the first
    frame repeated at an episode's start; each is a new array. Actions are float32 in [-1, 1], each applied
    ``action_repeat`` times.

    With several ``cameras``, or with ``proprioception``, observations are mappings: "camera0", "camera1" and so on are
    such arrays, and "state" is float32 (frame_stack * n,), the task's state vectors of the same moments.

    Args:
        name: domain and task, such as "walker_walk", "cup_catch" or "reach_duplo"; ``task_names()`` lists them.
        frame_stack: frames an observation, at least 1.
        action_repeat: control steps an agent step, at least 1.
        seed: of the task's own randomness; the same seed and actions give the same episodes.
        grayscale: observe BT.601 luma in place of RGB.
        black_floor: paint every plane of the model black.
        cameras: numbers of the model's cameras to see it through; None for the one that DrQ-v2 uses.
        proprioception: observe the task's state vector, too: all floats that it observes itself, in its order.

    Raises:
        UnknownTaskError: no task has this name.
        RenderingError: MuJoCo cannot render here.
        OptionError: ``frame_stack`` or ``action_repeat`` is below 1, the model has not these cameras, or the task has
            no state vector.
    """
    for option, value in (("frame_stack", frame_stack), ("action_repeat", action_repeat)):
        if value < 1:
            raise OptionError(f"{option} must be at least 1, got {value}")
    if cameras is not None:
        check_cameras(cameras)
    env, camera = _load(name, seed)
    numbers = _camera_numbers(env, name, [camera] if cameras is None else cameras)
    env = ActionScale(ActionRepeat(env, action_repeat))
    look = (frame_stack, FRAME_SIZE, grayscale, black_floor)
    if not is_mapping(cameras, proprioception):
        return StackedPixels(env, numbers[0], *look)
    return StackedSensors(env, {camera_name(number): number for number in numbers}, proprioception, *look)


def maker(config: Config) -> Callable[[int], StackedSensors]:
    """What makes the environments of a run from their seeds, in this process or in another one."""
    return partial(
        make,
        config.task_name,
        config.frame_stack,
        config.action_repeat,
        grayscale=config.observe_in_gray,
        black_floor=config.paint_floor_black,
        cameras=config.cameras,
        proprioception=config.proprioception,
    )


def task_names() -> list[str]:
    """The names that ``make`` knows, sorted."""
    suite, manipulation = _import_dm_control()
    return sorted([*_suite_tasks(suite), *_manipulation_tasks(manipulation)])


def _load(name: str, seed: int) -> tuple[Any, int | str]:
    """The bare environment called ``name`` and the camera to see it through."""
    suite, manipulation = _import_dm_control()
    suite_tasks, manipulation_tasks = _suite_tasks(suite), _manipulation_tasks(manipulation)
    if name in suite_tasks:
        domain, task = suite_tasks[name]
        # The reward must not show in the picture, which visualize_reward would tint with it.
        env = suite.load(domain, task, task_kwargs={"random": seed}, visualize_reward=False)
        return env, _CAMERAS.get(domain, 0)
    if name in manipulation_tasks:
        return manipulation.load(manipulation_tasks[name], seed=seed), _MANIPULATION_CAMERA
    close = difflib.get_close_matches(name, [*suite_tasks, *manipulation_tasks])
    hint = f"did you mean {' or '.join(close)}?" if close else "expected a name such as walker_walk or reach_duplo"
    raise UnknownTaskError(f"there is no task {name!r}: {hint}")


def _camera_numbers(env: Any, name: str, cameras: Sequence[int | str]) -> list[int]:
    """The numbers of ``cameras``, numbers or names, in the model of the task called ``name``; OptionError at others."""
    model = env.physics.model
    numbers = [model.name2id(camera, "camera") if isinstance(camera, str) else camera for camera in cameras]
    check_model_has(numbers, [model.id2name(number, "camera") for number in range(model.ncam)], name)
    return numbers


def _suite_tasks(suite: ModuleType) -> dict[str, tuple[str, str]]:
    """Task name -> domain and task of dm_control's suite."""
    return {f"{_SHORT_NAMES.get(domain, domain)}_{task}": (domain, task) for domain, task in suite.ALL_TASKS}


def _manipulation_tasks(manipulation: ModuleType) -> dict[str, str]:
    """Task name -> dm_control's name of the manipulation task.

    Those that exist as a vision task count, but are loaded as the feature task of the same name: the two differ in what
    they observe themselves only, and the former would render a frame in every repeat.
    """
    names = (name.removesuffix("_vision") for name in manipulation.ALL if name.endswith("_vision"))
    return {name: f"{name}_features" for name in names}


def _import_dm_control() -> tuple[ModuleType, ModuleType]:
    """dm_control's suite and manipulation modules."""
    try:
        from dm_control import manipulation, suite
    except (ImportError, AttributeError, RuntimeError, OSError) as error:  # the GL back ends' ways to fail
        backend = os.environ.get("MUJOCO_GL", "")
        raise RenderingError(
            f"MuJoCo cannot render with MUJOCO_GL={backend!r} ({error}): install the graphics library (on Debian or "
            "Ubuntu: apt-get install libegl1 libgl1), or set MUJOCO_GL to egl, osmesa or glfw, whichever is there"
        ) from error
    return suite, manipulation


def random_state(env: Any) -> dict[str, Any]:
    """The state of the task's own randomness, as plain values; `set_random_state` takes it back."""
    state = _generator(env).get_state(legacy=False)
    return {**state, "state": {**state["state"], "key": state["state"]["key"].tolist()}}


def set_random_state(env: Any, state: dict[str, Any]) -> None:
    """Have the episodes from the next reset on be those that followed when `random_state` was taken."""
    _generator(env).set_state({**state, "state": {**state["state"], "key": np.array(state["state"]["key"], np.uint32)}})


def _generator(env: Any) -> np.random.RandomState:
    while isinstance(env, Wrapper):
        env = env.wrapped
    # Manipulation tasks share their environment's generator, those of the suite have one of their own.
    return env.random_state if hasattr(env, "random_state") else env.task.random

"""How scaled actions compare with those of the official implementation, whose wrappers are dm_control's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dm_env import specs

from drqv2 import environment  # first: it chooses how MuJoCo renders
from drqv2.wrappers import ActionScale, Wrapper

assert environment.FRAME_SIZE


class Float32Actions(Wrapper):
    """The official code's innermost wrapper: float32 bounds, and each action cast to what the environment takes."""

    def action_spec(self) -> specs.BoundedArray:
        spec = self._env.action_spec()
        return specs.BoundedArray(spec.shape, np.float32, spec.minimum, spec.maximum, "action")


class Actuators(Wrapper):
    """Remembers the action that arrives."""

    def step(self, action: Any) -> Any:
        self.action = np.asarray(action, np.float64)
        return self._env.step(action)


def scaled(task: tuple[str, str], official: bool) -> np.ndarray:
    """What arrives at the actuators for 200 random actions."""
    from dm_control import suite
    from dm_control.suite.wrappers import action_scale

    actuators = Actuators(suite.load(*task, task_kwargs={"random": 1}))
    env: Any = ActionScale(actuators)
    if official:
        env = action_scale.Wrapper(Float32Actions(actuators), minimum=-1.0, maximum=1.0)
    env.reset()
    arrived = []
    shape = actuators.action_spec().shape
    for action in np.random.default_rng(0).uniform(-1, 1, (200, *shape)).astype(np.float32):
        env.step(action)
        arrived.append(actuators.action)
    return np.array(arrived)


@pytest.mark.skipif(int(np.__version__.split(".")[0]) < 2, reason="NumPy 1 scales in float32")
@pytest.mark.parametrize("task", [("walker", "walk"), ("cartpole", "swingup"), ("finger", "spin")])
def test_with_bounds_of_one_both_scale_to_the_same_bits(task: tuple[str, str]) -> None:
    assert np.array_equal(scaled(task, official=True), scaled(task, official=False))


def test_other_bounds_show_the_official_rounding() -> None:
    ours, theirs = (scaled(("quadruped", "walk"), official) for official in (False, True))
    assert 0 < np.abs(ours - theirs).max() < 3e-7

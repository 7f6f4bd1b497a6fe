"""The environments against bare dm_control, driven step by step with a few lines of plain numpy."""

import os
import subprocess
import sys

import dm_env
import numpy as np
import pytest
from dm_env import StepType, specs
from says import says

from drqv2 import environment
from drqv2.wrappers import ActionRepeat, ActionScale, StackedPixels

# isort: split
# dm_control comes after drqv2.environment, which chooses how MuJoCo renders.
from dm_control import manipulation, suite


def bare(name, seed):
    """The environment without wrappers, and a function that takes its (84, 84, 3) picture."""
    if name == "reach_duplo":
        env = manipulation.load("reach_duplo_vision", seed=seed)
        return env, lambda time_step: time_step.observation["front_close"][0]
    env = suite.load(*name.split("_"), task_kwargs={"random": seed})
    camera = 2 if name.startswith("quadruped") else 0
    return env, lambda _: env.physics.render(84, 84, camera_id=camera)


def random_actions(spec, number, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, spec.shape).astype(np.float32) for _ in range(number)]


@pytest.mark.parametrize("name", ["walker_walk", "quadruped_walk", "reach_duplo"])
def test_rollout_equals_bare_environment(name):
    action_repeat, seed = 3, 7
    env = environment.make(name, 2, action_repeat, seed)
    reference, picture = bare(name, seed)
    spec = reference.action_spec()

    for episode in range(2):
        time_step, expected = env.reset(), reference.reset()
        frames = [picture(expected).transpose(2, 0, 1)] * 2
        assert time_step.first() and time_step.reward == 0.0 and time_step.discount == 1.0
        np.testing.assert_array_equal(time_step.action, np.zeros(spec.shape, np.float32))
        np.testing.assert_array_equal(time_step.observation, np.concatenate(frames))

        for action in random_actions(spec, 4, seed=episode):
            time_step = env.step(action)
            scaled = spec.minimum + (spec.maximum - spec.minimum) * (action.astype(float) + 1) / 2
            reward = 0.0
            for _ in range(action_repeat):
                expected = reference.step(scaled)
                reward += expected.reward
            frames = [frames[1], picture(expected).transpose(2, 0, 1).copy()]
            assert time_step.mid() and time_step.discount == 1.0
            assert time_step.reward == pytest.approx(reward, rel=1e-9)
            np.testing.assert_array_equal(time_step.observation, np.concatenate(frames))
    env.close()


class Countdown(dm_env.Environment):
    """Five steps an episode; step k gives reward k and the discount that was asked for."""

    def __init__(self, discount):
        self._discount = discount
        self.step_number = 0

    def reset(self):
        self.step_number = 0
        return dm_env.restart(observation=np.zeros(1))

    def step(self, action):
        if self.step_number == 5:
            return self.reset()
        self.step_number += 1
        step_type = StepType.LAST if self.step_number == 5 else StepType.MID
        return dm_env.TimeStep(step_type, float(self.step_number), self._discount, np.zeros(1))

    def observation_spec(self):
        return specs.Array((1,), float)

    def action_spec(self):
        return specs.BoundedArray((1,), float, -1, 1)


def test_action_repeat_discounts_rewards_and_stops_at_the_end():
    env = ActionRepeat(Countdown(discount=0.5), 3)
    assert env.reset().first()
    time_step = env.step(np.zeros(1))
    assert time_step.mid()
    assert time_step.reward == 1 + 2 * 0.5 + 3 * 0.25
    assert time_step.discount == 0.125
    time_step = env.step(np.zeros(1))  # two steps are left
    assert time_step.last()
    assert time_step.reward == 4 + 5 * 0.5
    assert time_step.discount == 0.25
    assert env.step(np.zeros(1)).first()  # and not one step more has been taken
    assert env.step(np.zeros(1)).reward == 1 + 2 * 0.5 + 3 * 0.25


def test_terminal_discount_of_zero_stays_zero():
    env = ActionRepeat(Countdown(discount=0.0), 2)
    env.reset()
    assert env.step(np.zeros(1)).discount == 0.0


def test_episode_of_a_real_task_ends_and_begins_again():
    env = ActionScale(ActionRepeat(suite.load("cartpole", "swingup", task_kwargs={"random": 1}), 7))
    time_step, steps = env.reset(), 0
    while not time_step.last():
        time_step = env.step(np.zeros(1, np.float32))
        steps += 1
    assert steps == 143  # 1000 control steps: 142 sevens and a rest
    assert env.step(np.zeros(1, np.float32)).first()


def test_step_after_the_last_begins_a_new_episode():
    task = suite.load("walker", "walk", task_kwargs={"random": 1, "time_limit": 0.1})  # four steps
    env = StackedPixels(task, 0, 2, 32, False, False)
    time_step = env.reset()
    for _ in range(4):
        time_step = env.step(np.ones(6))
    assert time_step.last()
    assert not np.array_equal(time_step.observation[:3], time_step.observation[3:])
    again = env.step(np.ones(6))
    assert again.first() and again.reward == 0.0 and again.discount == 1.0 and not again.action.any()
    np.testing.assert_array_equal(again.observation[:3], again.observation[3:])
    assert not np.array_equal(again.observation[3:], time_step.observation[3:])


def test_actions_reach_the_actuators_bounds():
    env = environment.make("quadruped_walk", 1, 1, 0)
    bounds = suite.load("quadruped", "walk").action_spec()
    assert not np.all(bounds.maximum == 1)  # otherwise this test could not tell scaling from none
    env.reset()
    for action, expected in ((1, bounds.maximum), (-1, bounds.minimum), (0, (bounds.minimum + bounds.maximum) / 2)):
        env.step(np.full(bounds.shape, action, np.float32))
        np.testing.assert_allclose(env.physics.control(), expected, atol=1e-12)
    with pytest.raises(ValueError) as error:
        env.step(np.zeros(1, np.float32))
    says(error, "action", "(12,)", "got (1,)")


def test_specs_and_time_steps():
    env = environment.make("cheetah_run", 3, 2, 0)
    assert env.observation_spec() == specs.BoundedArray((9, 84, 84), np.uint8, 0, 255, "observation")
    assert env.action_spec() == specs.BoundedArray((6,), np.float32, -1.0, 1.0, "action")
    assert (env.observation_spec().name, env.action_spec().name) == ("observation", "action")  # not part of ==
    first = env.reset()
    kept = first.observation.copy()
    action = np.ones(6, np.float32)
    second = env.step(action)
    action[:] = 0  # the caller may reuse its array
    np.testing.assert_array_equal(second.action, np.ones(6, np.float32))
    assert second.action.dtype == first.action.dtype == np.float32
    assert isinstance(second.reward, float) and isinstance(second.discount, float)
    np.testing.assert_array_equal(first.observation, kept)  # not a view that later frames write to
    assert not np.array_equal(second.observation, kept)
    env.observation_spec().validate(second.observation)
    env.action_spec().validate(second.action)


def test_seeds():
    def observations(seed):
        env = environment.make("reacher_easy", 1, 2, seed)
        steps = [env.reset(), *(env.step(action) for action in random_actions(env.action_spec(), 3)), env.reset()]
        return np.stack([step.observation for step in steps])

    one = observations(1)
    np.testing.assert_array_equal(one, observations(1))
    assert not np.array_equal(one, observations(2))
    assert not np.array_equal(one[0], one[-1])  # the next episode is another one


def test_render_is_the_observations_view_in_colour():
    env = environment.make("quadruped_walk", 2, 2, 0)
    time_step = env.reset()
    time_step = env.step(np.ones(12, np.float32))
    picture = env.render(84, 84)
    np.testing.assert_array_equal(picture.transpose(2, 0, 1), time_step.observation[-3:])
    assert env.render().shape == (256, 256, 3)
    assert env.render(height=100, width=120).shape == (100, 120, 3)
    assert env.render().dtype == np.uint8
    gray = environment.make("quadruped_walk", 2, 2, 0, grayscale=True)
    gray.reset()
    assert gray.render(84, 84).shape == (84, 84, 3)


@pytest.mark.parametrize(
    ("name", "needles"),
    [
        ("walker_wlak", "'walker_wlak' | did you mean walker_walk"),
        ("reach_dupli", "'reach_dupli' | did you mean reach_duplo"),
        ("ball_in_cup_catch", "did you mean cup_catch?"),
        ("xyzzy", "'xyzzy' | such as walker_walk | reach_duplo"),
    ],
)
def test_unknown_task(name, needles):
    with pytest.raises(environment.UnknownTaskError) as error:
        environment.make(name, 3, 2, 1)
    says(error, needles)
    assert isinstance(error.value, ValueError)
    assert "\n" not in str(error.value)


def test_task_names():
    names = environment.task_names()
    assert names == sorted(set(names))
    # Domains with underscores in their names, DrQ-v2's short name, and manipulation.
    assert {"walker_walk", "point_mass_easy", "humanoid_CMU_run", "cup_catch", "reach_duplo"} <= set(names)
    env = environment.make("point_mass_easy", 1, 1, 0)
    assert env.reset().observation.shape == (3, 84, 84)


@pytest.mark.parametrize("option", ["frame_stack", "action_repeat"])
def test_counts_below_one(option):
    arguments = {"frame_stack": 3, "action_repeat": 2, option: 0}
    with pytest.raises(ValueError) as error:
        environment.make("walker_walk", seed=1, **arguments)
    says(error, option, "at least 1", "got 0")


def run_python(code, **variables):
    env = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MUJOCO_GL")}
    return subprocess.run([sys.executable, "-c", code], env={**env, **variables}, capture_output=True, text=True)


def test_importing_chooses_the_back_end_without_loading_mujoco():
    code = "import os, sys, drqv2.environment; print(os.environ.get('MUJOCO_GL'), 'mujoco' in sys.modules)"
    assert run_python(code).stdout.split() == ["egl", "False"]
    assert run_python(code, MUJOCO_GL="osmesa").stdout.split() == ["osmesa", "False"]
    assert run_python(code, DISPLAY=":0").stdout.split() == ["None", "False"]


def test_rendering_that_cannot_work_gives_one_line():
    code = """
from drqv2 import environment
try:
    environment.make("walker_walk", 3, 2, 1)
except environment.RenderingError as error:
    print(error)
"""
    output = run_python(code, MUJOCO_GL="bogus").stdout
    says(output, "MUJOCO_GL='bogus'", "apt-get install")
    assert output.count("\n") == 1

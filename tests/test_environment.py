"""The environments against bare dm_control, driven step by step with a few lines of plain numpy."""

import logging
import os
import subprocess
import sys

import dm_env
import numpy as np
import pytest
from dm_env import StepType, specs

from drqv2 import environment
from drqv2.appearance import to_grayscale
from drqv2.wrappers import ActionRepeat, ActionScale, StackedPixels

# isort: split
# MuJoCo comes after drqv2.environment, which chooses how it renders.
import mujoco
from dm_control import manipulation, suite
from dm_control.mujoco import Physics
from dm_control.rl import control
from dm_control.suite import base


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


def luma(pixels):
    """BT.601 luma of (..., 3) uint8 by Python's own integers."""
    flat = [(9798 * int(r) + 19235 * int(g) + 3735 * int(b) + 16384) // 32768 for r, g, b in pixels.reshape(-1, 3)]
    return np.array(flat, np.uint8).reshape(pixels.shape[:-1])


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
    physics = Physics.from_xml_string(FLOATING_BALL)
    env = StackedPixels(control.Environment(physics, Drift(), time_limit=0.03), 0, 2, 32, False, False)
    first = env.reset()
    time_step = first
    while not time_step.last():
        time_step = env.step(np.ones(1))
    assert not np.array_equal(time_step.observation, first.observation)
    again = env.step(np.ones(1))
    assert again.first() and again.reward == 0.0 and not again.action.any()
    np.testing.assert_array_equal(again.observation, first.observation)


def test_actions_reach_the_actuators_bounds():
    env = environment.make("quadruped_walk", 1, 1, 0)
    bounds = suite.load("quadruped", "walk").action_spec()
    assert not np.all(bounds.maximum == 1)  # otherwise this test could not tell scaling from none
    env.reset()
    for action, expected in ((1, bounds.maximum), (-1, bounds.minimum), (0, (bounds.minimum + bounds.maximum) / 2)):
        env.step(np.full(bounds.shape, action, np.float32))
        np.testing.assert_allclose(env.physics.control(), expected, atol=1e-12)
    with pytest.raises(ValueError, match=r"expected an action of shape \(12,\), got \(1,\)"):
        env.step(np.zeros(1, np.float32))


def test_specs_and_time_steps():
    env = environment.make("cheetah_run", 3, 2, 0)
    assert env.observation_spec() == specs.BoundedArray((9, 84, 84), np.uint8, 0, 255, "observation")
    assert env.action_spec() == specs.BoundedArray((6,), np.float32, -1.0, 1.0, "action")
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


def test_luma_is_bt601_rounded():
    colours = np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8)
    exact = colours @ np.array([0.299, 0.587, 0.114])
    gray = to_grayscale(colours)
    assert gray.dtype == np.uint8 and gray.shape == (60, 50)
    assert np.abs(gray - exact).max() < 0.505  # half a level of rounding and what 15-bit weights add
    np.testing.assert_array_equal(gray, luma(colours))
    # Black, white, and the three primaries, as in OpenCV.
    corners = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    assert to_grayscale(corners).tolist() == [0, 255, 76, 150, 29]


def test_grayscale_is_luma_of_the_colours():
    gray = environment.make("finger_spin", 2, 2, 3, grayscale=True)
    rgb = environment.make("finger_spin", 2, 2, 3)
    assert gray.observation_spec().shape == (2, 84, 84)
    gray_steps, rgb_steps = [gray.reset()], [rgb.reset()]
    for action in random_actions(gray.action_spec(), 2):
        gray_steps.append(gray.step(action))
        rgb_steps.append(rgb.step(action))
    for gray_step, rgb_step in zip(gray_steps, rgb_steps, strict=True):
        for frame, colours in zip(gray_step.observation, np.split(rgb_step.observation, 2), strict=True):
            np.testing.assert_array_equal(frame, luma(colours.transpose(1, 2, 0)))


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


def masks(env, camera, size=84):
    """Which pixels show a plane, and which another geom, an edge's neighbours left out (they blend both)."""
    labels = env.physics.render(size, size, camera_id=camera, segmentation=True)
    planes = np.flatnonzero(env.physics.model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE)
    is_geom = labels[..., 1] == mujoco.mjtObj.mjOBJ_GEOM
    plane = is_geom & np.isin(labels[..., 0], planes)
    return inner(plane), inner(is_geom & ~plane)


def inner(mask):
    """The mask without the pixels next to its edge."""
    kept = mask.copy()
    for axis in (0, 1):
        for shift in (-1, 1):
            kept &= np.roll(mask, shift, axis)
    return kept


@pytest.mark.parametrize(
    ("name", "camera"), [("walker_walk", 0), ("quadruped_walk", 2), ("reach_duplo", "front_close")]
)
def test_black_floor(name, camera):
    black = environment.make(name, 1, 2, 5, grayscale=True, black_floor=True)
    plain = environment.make(name, 1, 2, 5, grayscale=True)
    for _ in range(2):  # a task that compiles its model anew for each episode must be painted again
        frame, plain_frame = black.reset().observation[0], plain.reset().observation[0]
        floor, body = masks(black, camera)
        assert floor.sum() > 1000 and body.sum() > 50
        # What gloss is left is a few grey levels; the lightest spot of the reach task's floor has 13.
        assert np.median(frame[floor]) <= 2 and frame[floor].max() <= 20
        assert np.median(plain_frame[floor]) > 30
        # The body itself looks as before.
        assert np.mean(frame[body] == plain_frame[body]) > 0.9
        if name != "reach_duplo":  # whose arm is black
            assert frame[body].mean() > 60

        model = black.physics.model
        planes = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
        assert planes.any()
        assert np.all(model.geom_matid[planes] == -1)
        np.testing.assert_array_equal(model.geom_rgba[planes], np.tile([0, 0, 0, 1], (planes.sum(), 1)))
        assert np.any(model.geom_matid[~planes] >= 0)
        for action in random_actions(black.action_spec(), 2):
            frame = black.step(action).observation[0]
        assert np.median(frame[masks(black, camera)[0]]) <= 2


FLOATING_BALL = """
<mujoco>
  <worldbody>
    <light pos="0 0 3"/>
    <camera pos="0 -2 0" xyaxes="1 0 0 0 0 1"/>
    <body><joint name="slide" type="slide" axis="1 0 0"/><geom type="sphere" size=".3" rgba="1 .2 .2 1"/></body>
  </worldbody>
  <actuator><motor joint="slide" gear="1000" ctrlrange="-1 1"/></actuator>
</mujoco>
"""


class Drift(base.Task):
    """Nothing but a ball that can be pushed."""

    def get_observation(self, physics):
        return {"position": physics.position()}

    def get_reward(self, physics):
        return 1.0


def test_black_floor_without_a_plane_says_so_once_and_goes_on(caplog):
    physics = Physics.from_xml_string(FLOATING_BALL)
    env = StackedPixels(control.Environment(physics, Drift()), 0, 2, 32, False, True)
    before = physics.render(32, 32, camera_id=0)
    with caplog.at_level(logging.WARNING):
        first = env.reset()
        env.step(np.ones(1))
        env.reset()
    assert [record.message for record in caplog.records] == [
        "black_floor has no effect: this task's model has no plane geom to paint black"
    ]
    np.testing.assert_array_equal(first.observation[:3], before.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("walker_wlak", r"^there is no task 'walker_wlak': did you mean walker_walk"),
        ("reach_dupli", r"^there is no task 'reach_dupli': did you mean reach_duplo"),
        ("ball_in_cup_catch", r"did you mean cup_catch\?$"),
        ("xyzzy", r"^there is no task 'xyzzy': expected a name such as walker_walk or reach_duplo$"),
    ],
)
def test_unknown_task(name, message):
    with pytest.raises(environment.UnknownTaskError, match=message) as error:
        environment.make(name, 3, 2, 1)
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
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        environment.make("walker_walk", seed=1, **arguments)


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
    assert output.startswith("MuJoCo cannot render with MUJOCO_GL='bogus'")
    assert "apt-get install" in output
    assert output.count("\n") == 1

"""Grayscale against the formula, and the black floor in rendered pictures."""

import logging

import numpy as np
import pytest
from says import says

from drqv2 import environment
from drqv2.appearance import to_grayscale
from drqv2.wrappers import StackedPixels

# isort: split
# MuJoCo comes after drqv2.environment, which chooses how it renders.
import mujoco
from dm_control.mujoco import Physics
from dm_control.rl import control
from dm_control.suite import base


def luma(pixels):
    """BT.601 luma of (..., 3) uint8 by Python's own integers."""
    flat = [(9798 * int(r) + 19235 * int(g) + 3735 * int(b) + 16384) // 32768 for r, g, b in pixels.reshape(-1, 3)]
    return np.array(flat, np.uint8).reshape(pixels.shape[:-1])


def random_actions(spec, number):
    rng = np.random.default_rng(0)
    return [rng.uniform(-1, 1, spec.shape).astype(np.float32) for _ in range(number)]


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
    (record,) = caplog.records
    says(record.message, "black_floor", "no plane")
    np.testing.assert_array_equal(first.observation[:3], before.transpose(2, 0, 1))

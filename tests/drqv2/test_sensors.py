"""Observations of several cameras and of the state against bare dm_control, driven step by step."""

from __future__ import annotations

import numpy as np
import pytest
from dm_env import specs
from says import says

from drqv2 import environment
from drqv2.wrappers import ActionRepeat, StackedPixels, StackedSensors
from runs.errors import OptionError

# isort: split
# dm_control comes after drqv2.environment, which chooses how MuJoCo renders.
from dm_control import manipulation, suite
from dm_control.rl import control
from dm_control.suite import walker

SIZE = 28


def walk(time_limit=25):
    return suite.load("walker", "walk", task_kwargs={"random": 3, "time_limit": time_limit})


def actions(spec, number):
    rng = np.random.default_rng(0)
    return [rng.uniform(spec.minimum, spec.maximum).astype(np.float32) for _ in range(number)]


def state(observation):
    """All that the task observes, in its order."""
    return np.concatenate([np.asarray(value, np.float32).ravel() for value in observation.values()])


@pytest.mark.parametrize("frame_stack", [1, 3])
def test_parts_are_what_the_bare_environment_shows_at_the_same_moments(frame_stack):
    env = StackedSensors(ActionRepeat(walk(), 2), {"camera0": 0, "camera1": 1}, True, frame_stack, SIZE, False, False)
    bare = walk()

    def read(time_step):
        frames = [bare.physics.render(SIZE, SIZE, camera_id=camera).transpose(2, 0, 1) for camera in (0, 1)]
        return [*frames, state(time_step.observation)]

    for _ in range(2):
        readings = [read(bare.reset())] * frame_stack
        time_step = env.reset()
        for action in [*actions(bare.action_spec(), 5), None]:
            assert list(time_step.observation) == ["camera0", "camera1", "state"]
            for k, (name, part) in enumerate(time_step.observation.items()):
                np.testing.assert_array_equal(part, np.concatenate([reading[k] for reading in readings]), strict=True)
                env.observation_spec()[name].validate(part)
            if action is not None:
                time_step = env.step(action)
                bare.step(action)
                readings = [*readings[1:], read(bare.step(action))]
    first, second = (time_step.observation[name] for name in ("camera0", "camera1"))
    assert not np.array_equal(first, second)


def test_specs_and_arrays_of_their_own():
    env = StackedSensors(walk(), {"side": 0, "behind": "back"}, True, 2, SIZE, True, False)
    assert env.observation_spec() == {
        "side": specs.BoundedArray((2, SIZE, SIZE), np.uint8, 0, 255, "side"),
        "behind": specs.BoundedArray((2, SIZE, SIZE), np.uint8, 0, 255, "behind"),
        "state": specs.Array((2 * 24,), np.float32, "state"),
    }
    first = env.reset().observation
    kept = {name: part.copy() for name, part in first.items()}
    second = env.step(np.ones(6, np.float32)).observation
    for name, part in kept.items():
        np.testing.assert_array_equal(first[name], part)  # no view that later steps write to
        assert not np.array_equal(second[name], part)
        np.testing.assert_array_equal(second[name][: len(part) // 2], part[len(part) // 2 :])


def test_a_step_after_the_last_begins_a_new_episode_in_every_part():
    env = StackedSensors(walk(time_limit=0.1), {"camera0": 0, "camera1": 1}, True, 2, SIZE, False, True)
    env.reset()
    time_steps = [env.step(np.ones(6, np.float32)) for _ in range(5)]
    assert time_steps[3].last() and time_steps[4].first()
    for part in time_steps[4].observation.values():
        np.testing.assert_array_equal(*np.split(part, 2))


def test_one_camera_alone_gives_the_same_frames_as_one_of_several():
    look = (3, SIZE, True, True)
    for camera in (0, 1):
        several = StackedSensors(walk(), {"camera0": 0, "camera1": 1}, False, *look)
        assert list(several.observation_spec()) == ["camera0", "camera1"]
        envs = (StackedPixels(walk(), camera, *look), several)
        for one, other in zip(*([env.reset(), *(env.step(np.ones(6)) for _ in range(3))] for env in envs), strict=True):
            np.testing.assert_array_equal(one.observation, other.observation[f"camera{camera}"], strict=True)


def test_what_is_filmed_is_the_first_camera():
    env = environment.make("walker_walk", 2, 2, 0, cameras=[1, 0])
    env.reset()
    observation = env.step(np.ones(6, np.float32)).observation
    assert list(observation) == ["camera1", "camera0"]
    np.testing.assert_array_equal(env.render(84, 84).transpose(2, 0, 1), observation["camera1"][-3:])


@pytest.mark.parametrize("name", ["quadruped_walk", "reach_duplo"])
def test_the_default_camera_beside_the_state(name):
    plain, env = environment.make(name, 2, 4, 5), environment.make(name, 2, 4, 5, proprioception=True)
    bare = (
        manipulation.load("reach_duplo_features", seed=5)
        if name == "reach_duplo"
        else suite.load("quadruped", "walk", task_kwargs={"random": 5})
    )
    camera, _ = env.observation_spec()
    for _ in range(2):  # manipulation compiles a new model for the second episode
        first, second = plain.reset().observation, env.reset().observation
        np.testing.assert_array_equal(first, second[camera], strict=True)
        np.testing.assert_array_equal(second["state"], np.tile(state(bare.reset().observation), 2), strict=True)
        assert np.isfinite(second["state"]).all() and second["state"].std() > 0
    assert camera == {"quadruped_walk": "camera2", "reach_duplo": "camera0"}[name]


@pytest.mark.parametrize(("cameras", "expected"), [([0], 0), ([1], 1), (None, 0)])
def test_one_camera_without_state_is_one_array(cameras, expected):
    env = environment.make("walker_walk", 2, 2, 0, cameras=cameras)
    observation = env.reset().observation
    picture = env.physics.render(84, 84, camera_id=expected)
    np.testing.assert_array_equal(observation, np.concatenate([picture.transpose(2, 0, 1)] * 2), strict=True)


@pytest.mark.parametrize(
    ("task", "cameras", "needles"),
    [
        ("walker_walk", [0, 2], "cameras=[0,2] | walker_walk | 0 (side), 1 (back) | got 2"),
        ("reach_duplo", [1], "cameras=[1] | reach_duplo | 0 (front_close) | got 1"),
        ("walker_walk", [], "cameras=[] | a list of numbers | null"),
        ("walker_walk", ["side"], "cameras=[side] | a list of numbers"),
        ("walker_walk", [0, 1, 0], "cameras=[0,1,0] | each camera once | got 0 again"),
        ("walker_walk", [-1], "cameras=[-1] | from 0 on, got -1"),
    ],
)
def test_cameras_that_there_are_not(task, cameras, needles):
    with pytest.raises(OptionError) as error:
        environment.make(task, 3, 2, 1, cameras=cameras)
    says(error, needles)
    assert "\n" not in str(error.value)


class Walker(walker.PlanarWalker):
    """The walker, which observes the number of its contacts and, if asked to, floats around it."""

    def __init__(self, floats):
        super().__init__(move_speed=1, random=0)
        self.floats = floats

    def get_observation(self, physics):
        contacts = {"contacts": np.array(physics.data.ncon)}
        return {"height": np.float64(2.5)} | contacts | {"speed": np.ones(2)} if self.floats else contacts


def observing(floats):
    return control.Environment(walker.Physics.from_xml_string(*walker.get_model_and_assets()), Walker(floats))


def test_only_floats_are_state():
    env = StackedSensors(observing(floats=True), {"camera0": 0}, True, 1, SIZE, False, False)
    np.testing.assert_array_equal(env.reset().observation["state"], np.float32([2.5, 1, 1]), strict=True)


def test_a_task_without_floats_has_no_state():
    with pytest.raises(OptionError) as error:
        StackedSensors(observing(floats=False), {"camera0": 0}, True, 1, SIZE, False, False)
    says(error, "proprioception=true", "floats", "contacts (int", "proprioception=false")

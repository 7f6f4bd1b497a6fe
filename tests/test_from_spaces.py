"""`ReplayBuffer.from_spaces`: what a buffer is told by Gymnasium's spaces; the spaces themselves: `test_spaces`."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from gymnasium import spaces
from says import says

from diffreplay import ReplayBuffer
from diffreplay.errors import InputError

ACTIONS = {
    "Discrete": (spaces.Discrete(6), (), torch.int64),
    "Box": (spaces.Box(-1, 1, (3,)), (3,), torch.float32),
    "Box of float64": (spaces.Box(-1, 1, (2, 2), np.float64), (2, 2), torch.float64),
    "MultiDiscrete": (spaces.MultiDiscrete([3, 4]), (2,), torch.int64),
    "MultiBinary": (spaces.MultiBinary(5), (5,), torch.int8),
}
IMAGE = spaces.Box(0, 255, (4, 14, 14), np.uint8)
ROBOT = spaces.Dict(
    {
        "front": spaces.Box(0, 255, (12, 12, 3), np.uint8),
        "depth": spaces.Box(0, 9999, (1, 8, 8), np.uint16),
        "arm": spaces.Dict({"joints": spaces.Box(-9, 9, (7,), np.float64), "grip": spaces.Discrete(3)}),
    }
)


def flat(value, prefix=""):
    if not isinstance(value, dict):
        return {prefix[:-1]: value}
    return {name: array for key, inner in value.items() for name, array in flat(inner, f"{prefix}{key}/").items()}


def filled(space, action_space, steps=30, **options):
    """A buffer, and by its reward each transition that it holds."""
    replay, added = ReplayBuffer.from_spaces(100, space, action_space, **options), {}
    space.seed(0), action_space.seed(0)
    obs = space.sample()
    for t in range(steps):
        action, next_obs = action_space.sample(), space.sample()
        replay.add_transition(obs, action, float(t), next_obs, t == steps - 1, False)
        added[t], obs = (flat(obs), np.asarray(action), flat(next_obs)), next_obs
    return replay, added


def check(replay, added):
    batch = replay.sample(200)
    obs, next_obs = (value if isinstance(value, dict) else {"": value} for value in (batch.obs, batch.next_obs))
    for k, t in enumerate(batch.reward[:, 0].long().tolist()):
        right, action, after = added[t]
        assert np.array_equal(batch.action[k].numpy(), action)
        for ours, theirs in ((obs, right), (next_obs, after)):
            assert set(ours) == set(theirs)
            for name, value in theirs.items():
                assert ours[name].numpy().dtype == np.asarray(value).dtype and np.array_equal(ours[name][k], value)


@pytest.mark.parametrize("name", ACTIONS)
def test_actions_have_the_shape_and_dtype_of_their_space(name):
    space, shape, dtype = ACTIONS[name]
    replay, added = filled(IMAGE, space, frame_stack=4)
    assert replay.action_shape == shape and replay.sample(2).action.dtype == dtype
    check(replay, added)


def test_a_box_gives_tensors_and_a_dict_mappings_and_snapshots_of_both_load(tmp_path):
    for number, (space, stack) in enumerate([(IMAGE, 2), (IMAGE, 1), (ROBOT, 1), (spaces.Box(-1, 1, (5,)), 1)]):
        replay, added = filled(space, spaces.Discrete(4), frame_stack=stack)
        assert isinstance(replay.sample(2).obs, dict) == (space is ROBOT)
        check(replay, added)
        replay.save(tmp_path / str(number))
        loaded = ReplayBuffer.load(tmp_path / str(number))
        check(loaded, added)
        loaded.check_invariants()


def test_options_of_a_buffer_go_on_to_it():
    replay = ReplayBuffer.from_spaces(
        50, ROBOT, spaces.Discrete(4), nstep=3, discount=0.5, codec="zstd", channels_first=True, action_dtype="uint8"
    )
    assert (replay.nstep, replay.discount, replay.action_dtype, replay.store.codec.name) == (3, 0.5, np.uint8, "zstd")
    next_obs = obs = ROBOT.sample()
    for _ in range(4):
        replay.add_transition(obs, 3, 0.0, next_obs, False, False)
    assert replay.sample(5).obs["front"].shape == (5, 3, 12, 12)


def test_a_layout_that_may_be_read_two_ways_is_asked_about():
    space = spaces.Box(0, 255, (3, 12, 3), np.uint8)
    with pytest.raises(InputError) as caught:
        ReplayBuffer.from_spaces(50, space, spaces.Discrete(4))
    says(caught, "observation_space", "layouts='CHW'")
    assert ReplayBuffer.from_spaces(50, space, spaces.Discrete(4), layouts="HWC").parts[0].image_shape == (3, 12, 3)


def test_what_makes_no_sense_is_refused():
    for space, action_space, options, needle in (
        (IMAGE, spaces.Text(3), {}, "action_space"),
        (spaces.Text(3), spaces.Discrete(2), {}, "observation_space"),
        (IMAGE, spaces.Discrete(2), {"frame_stack": 0}, "frame_stack"),
        (IMAGE, spaces.Discrete(2), {"nstep": 0}, "nstep"),
        (IMAGE, spaces.Discrete(2), {"layouts": "XYZ"}, "layouts"),
    ):
        with pytest.raises(InputError) as caught:
            ReplayBuffer.from_spaces(50, space, action_space, **options)
        says(caught, needle)


def test_an_image_of_four_channels_may_be_a_stack_and_a_warning_says_so():
    with pytest.warns(RuntimeWarning, match=r"observation_space: \(4, 14, 14\) is .* give frame_stack=4") as caught:
        ReplayBuffer.from_spaces(50, IMAGE, spaces.Discrete(2))
    assert caught[0].filename == __file__
    with pytest.warns(RuntimeWarning, match=r"observation_space\['camera'\]: \(4, 14, 14\)"):
        ReplayBuffer.from_spaces(50, spaces.Dict({"camera": IMAGE}), spaces.Discrete(2))


def test_images_of_floats_are_warned_of_as_nothing_compresses_them():
    for shape, stack in (((3, 64, 64), 1), ((64, 64, 3), 1), ((64, 64), 1), ((4, 64, 64), 4)):
        with pytest.warns(RuntimeWarning, match=r"observation_space: images of float32, .* give pixels of uint8"):
            ReplayBuffer.from_spaces(50, spaces.Box(0, 1, shape), spaces.Discrete(2), frame_stack=stack)


def test_what_is_usual_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for stack in (1, 4):
            ReplayBuffer.from_spaces(50, IMAGE, spaces.Discrete(2), frame_stack=stack)
        ReplayBuffer.from_spaces(50, IMAGE, spaces.Discrete(2), layouts="CHW")
        for space in (ROBOT, spaces.Box(0, 255, (3, 14, 14), np.uint8), spaces.Box(-1, 1, (24,))):
            ReplayBuffer.from_spaces(50, space, spaces.Discrete(2))

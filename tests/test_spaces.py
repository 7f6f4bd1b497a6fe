"""Gymnasium's spaces, of real environments and wrappers: what is read of them, and what is asked about."""

from __future__ import annotations

import numpy as np
import pytest
from says import says

from diffreplay import ReplayBuffer
from diffreplay.errors import InputError
from diffreplay.parts import ArraySpec, ObservationCheck, parts_of
from diffreplay.spaces import action_of, specs_of

gymnasium = pytest.importorskip("gymnasium")
spaces, wrappers = gymnasium.spaces, gymnasium.wrappers


class World(gymnasium.Env):
    """Draws its observations from their space."""

    def __init__(self, space):
        self.observation_space, self.action_space = space, spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def pixels(*shape, dtype=np.uint8):
    return spaces.Box(0, np.iinfo(dtype).max, shape, dtype)


def flat(value, prefix=""):
    """Observations by the names of parts."""
    if not isinstance(value, dict):
        return {prefix[:-1]: value}
    return {name: array for key, item in value.items() for name, array in flat(item, f"{prefix}{key}/").items()}


def check_environment(env, specs, frame_stack=1):
    """The space is read as told, and every observation of an episode is what comes back, layout and dtype included."""
    assert specs_of(env.observation_space, frame_stack) == specs
    parts = parts_of(specs, frame_stack)
    check = ObservationCheck(parts)
    observation, _ = env.reset(seed=0)
    before = None
    for _ in range(6):
        stacks, wanted = check.stacks("obs", observation), flat(observation)
        assert len(stacks) == len(wanted)
        for k, (part, stack) in enumerate(zip(parts, stacks, strict=True)):
            array = np.asarray(wanted[part.name])
            found = part.observation(stack)
            assert found.dtype == array.dtype and found.shape == array.shape and found.tobytes() == array.tobytes()
            assert part.sampled_shape == array.shape and len(stack) == frame_stack
            if before is not None:  # the oldest frame has left, and all others have moved on
                assert np.array_equal(stack[:-1], before[k][1:])
        before = [stack.copy() for stack in stacks]
        observation = env.step(env.action_space.sample())[0]


ONE_FRAME = {
    "channels last": (pixels(32, 32, 3), ArraySpec((32, 32, 3), "u1", "HWC")),
    "channels first": (pixels(3, 32, 32), ArraySpec((3, 32, 32))),
    "gray": (pixels(32, 32), ArraySpec((32, 32), "u1", "HW")),
    "gray, channels last": (pixels(32, 32, 1), ArraySpec((32, 32, 1), "u1", "HWC")),
    "gray, channels first": (pixels(1, 32, 32), ArraySpec((1, 32, 32))),
    "small": (pixels(3, 5, 5), ArraySpec((3, 5, 5))),
    "depth": (pixels(32, 32, 1, dtype=np.uint16), ArraySpec((32, 32, 1), "u2", "HWC")),
    "a line of bytes": (pixels(128), ArraySpec((128,), "u1")),
    "one byte": (spaces.Box(0, 255, (), np.uint8), ArraySpec((), "u1")),
    "floats": (spaces.Box(0, 1, (3, 8, 8), np.float32), ArraySpec((3, 8, 8), "f4")),
    "doubles": (spaces.Box(-np.inf, np.inf, (17,), np.float64), ArraySpec((17,), "f8")),
    "large numbers": (spaces.Box(-5, 5, (2, 2), np.int64), ArraySpec((2, 2), "i8")),
    "a choice": (spaces.Discrete(5, start=2), ArraySpec((), "i8")),
    "choices": (spaces.MultiDiscrete([3, 4]), ArraySpec((2,), "i8")),
    "flags": (spaces.MultiBinary(4), ArraySpec((4,), "i1")),
    "a map of flags": (spaces.MultiBinary((3, 8, 8)), ArraySpec((3, 8, 8), "i1")),
}


@pytest.mark.parametrize("case", ONE_FRAME)
def test_a_space(case):
    space, spec = ONE_FRAME[case]
    check_environment(World(space), spec)


STACKED = {
    "channels last": (pixels(8, 9, 3), ArraySpec((8, 9, 3), "u1", "FHWC")),
    "channels first": (pixels(3, 8, 9), ArraySpec((3, 8, 9), "u1", "FCHW")),
    "gray": (pixels(8, 9), ArraySpec((8, 9), "u1", "FHW")),
    "gray, channels last": (pixels(8, 9, 1), ArraySpec((8, 9, 1), "u1", "FHWC")),
    "depth": (pixels(8, 9, dtype=np.uint16), ArraySpec((8, 9), "u2", "FHW")),
    "a line of bytes": (pixels(128), ArraySpec((128,), "u1", "F")),
    "floats": (spaces.Box(-1, 1, (17,), np.float32), ArraySpec((17,), "f4", "F")),
    "a picture of floats": (spaces.Box(0, 1, (8, 9, 3), np.float32), ArraySpec((8, 9, 3), "f4", "F")),
    "a number": (spaces.Box(-1, 1, (), np.float32), ArraySpec((), "f4", "F")),
    "a choice": (spaces.Discrete(5), ArraySpec((), "i8", "F")),
    "choices": (spaces.MultiDiscrete([3, 4]), ArraySpec((2,), "i8", "F")),
    "flags": (spaces.MultiBinary(4), ArraySpec((4,), "i1", "F")),
}


@pytest.mark.parametrize("padding", ["reset", "zero"])
@pytest.mark.parametrize("case", STACKED)
def test_frame_stack_observation(case, padding):
    space, spec = STACKED[case]
    for frame_stack in (2, 4):
        env = wrappers.FrameStackObservation(World(space), frame_stack, padding_type=padding)
        check_environment(env, spec, frame_stack)


def test_frame_stack_observation_of_a_dict():
    world = World(spaces.Dict({name.replace(" ", "-"): space for name, (space, _) in STACKED.items()}))
    specs = {name.replace(" ", "-"): spec for name, (_, spec) in STACKED.items()}
    check_environment(wrappers.FrameStackObservation(world, 4), specs, 4)


def test_wrappers_that_change_the_layout():
    world = World(pixels(32, 24, 3))
    gray = wrappers.GrayscaleObservation(world)
    check_environment(gray, ArraySpec((32, 24), "u1", "HW"))
    check_environment(wrappers.GrayscaleObservation(world, keep_dim=True), ArraySpec((32, 24, 1), "u1", "HWC"))
    check_environment(wrappers.ReshapeObservation(gray, (1, 32, 24)), ArraySpec((1, 32, 24)))
    check_environment(wrappers.ReshapeObservation(gray, (768,)), ArraySpec((768,), "u1"))
    check_environment(wrappers.FlattenObservation(world), ArraySpec((32 * 24 * 3,), "u1"))
    check_environment(wrappers.DtypeObservation(world, np.float32), ArraySpec((32, 24, 3), "f4"))


def test_atari():
    ale = pytest.importorskip("ale_py")
    gymnasium.register_envs(ale)
    with gymnasium.make("ALE/Pong-v5", frameskip=1) as env:
        check_environment(env, ArraySpec((210, 160, 3), "u1", "HWC"))
        gray = wrappers.AtariPreprocessing(env, noop_max=0)
        check_environment(gray, ArraySpec((84, 84), "u1", "HW"))
        check_environment(wrappers.FrameStackObservation(gray, 4), ArraySpec((84, 84), "u1", "FHW"), 4)
        coloured = wrappers.AtariPreprocessing(env, noop_max=0, grayscale_obs=False)
        check_environment(wrappers.FrameStackObservation(coloured, 3), ArraySpec((84, 84, 3), "u1", "FHWC"), 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_stacks_of_stable_baselines3(channels):
    """Channels of all frames on one axis, the last one or the first one; a state's numbers, too."""
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    space = spaces.Dict({
        "last": pixels(36, 40, channels),
        "first": pixels(channels, 36, 40),
        "state": spaces.Box(-1, 1, (5,), np.float32),
    })  # fmt: skip
    env = vec_env.VecFrameStack(vec_env.DummyVecEnv([lambda: World(space)]), 4)
    specs = specs_of(env.observation_space, 4)
    assert specs == {
        "first": ArraySpec((channels, 36, 40)) if channels > 1 else ArraySpec((36, 40), "u1", "FHW"),
        "last": ArraySpec((36, 40, channels), "u1", "HWC"),
        "state": ArraySpec((5,), "f4"),
    }
    parts = parts_of(specs, 4)
    before, observation = None, env.reset()
    for _ in range(6):
        stacks = ObservationCheck(parts).stacks("obs", {name: array[0] for name, array in observation.items()})
        for part, stack in zip(parts, stacks, strict=True):
            assert np.array_equal(part.observation(stack), observation[part.name][0])
        assert before is None or all(np.array_equal(a[:-1], b[1:]) for a, b in zip(stacks, before, strict=True))
        before = [stack.copy() for stack in stacks]
        observation = env.step([0])[0]


def test_nested_dicts():
    space = spaces.Dict({
        "arm": spaces.Dict({"eye": pixels(8, 9, 3), "joints": spaces.Dict(angles=spaces.Box(-1, 1, (7,)))}),
        "goal": spaces.Discrete(3),
    })  # fmt: skip
    specs = {
        "arm/eye": ArraySpec((8, 9, 3), "u1", "HWC"),
        "arm/joints/angles": ArraySpec((7,), "f4"),
        "goal": ArraySpec((), "i8"),
    }
    check_environment(World(space), specs)


SEVERAL, NONE = "expected a shape that can be read in one way", "expected an image of 1 to 4 channels"
ASKED = {
    "three by three": ((3, 3, 3), 1, SEVERAL, "'CHW' (3 channels) or 'HWC' (3 channels)"),
    "four on both sides": ((4, 84, 4), 1, SEVERAL, "'CHW' (4 channels) or 'HWC' (4 channels)"),
    "a frame on both sides": ((4, 84, 4), 4, SEVERAL, "'FHW' (1 channel) or 'HWC' (1 channel)"),
    "three frames on both sides": ((12, 84, 4), 4, SEVERAL, "'CHW' (3 channels) or 'HWC' (1 channel)"),
    "frames apart": ((4, 3, 84, 3), 4, SEVERAL, "'FCHW' (3 channels) or 'FHWC' (3 channels)"),
    "no channels": ((64, 60, 64), 1, NONE, "'CHW' (64 channels) or 'HWC' (64 channels) or '' (no image, "),
    "many frames' channels": ((2, 9, 9, 5), 2, NONE, "'FCHW' (9 channels) or 'FHWC' (5 channels) or 'F' (no image, "),
    "another stack": ((4, 84, 84), 3, NONE, "'HWC' (28 channels) | give the frame_stack that it has"),
    "environments": ((8, 32, 32, 3), 1, NONE, "'' (no image, stored as it is) | single_observation_space"),
    "their stacks": ((8, 4, 32, 32, 3), 4, NONE, "'' (no image, stored as it is) | single_observation_space"),
}


@pytest.mark.parametrize("case", ASKED)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_can_be_read_in_several_ways_is_asked_about(case, dtype):
    """Each answer that the error names is then taken."""
    shape, frame_stack, *needles = ASKED[case]
    space, answers = pixels(*shape, dtype=dtype), needles[1].split("'")[1::2]
    with pytest.raises(InputError) as info:
        specs_of(space, frame_stack)
    says(
        info,
        "observation_space: ",
        *needles,
        f", got {shape} with frame_stack {frame_stack}",
        f"layouts='{answers[0]}'",
    )
    for layout in answers:
        spec = specs_of(space, frame_stack, layout)
        assert spec.layout == layout and spec.stacked(frame_stack) == shape
    both = spaces.Dict(front=space, state=spaces.MultiBinary(frame_stack))
    with pytest.raises(InputError) as info:
        specs_of(both, frame_stack)
    says(info, "observation_space['front']: ", *needles, f"layouts={{'front': '{answers[0]}'}}")
    assert specs_of(both, frame_stack, {"front": answers[0]})["front"].layout == answers[0]


def test_a_layout_that_is_told_goes_before_what_would_be_read():
    assert specs_of(pixels(3, 32, 32), layouts="HWC") == ArraySpec((3, 32, 32), "u1", "HWC")
    assert specs_of(pixels(4, 32, 32), 4, "CHW") == ArraySpec((1, 32, 32))
    assert specs_of(pixels(32, 32), layouts="") == ArraySpec((32, 32), "u1")
    assert specs_of(spaces.Dict(a=pixels(8, 8), b=pixels(8, 8)), layouts={"b": ""}) == {
        "a": ArraySpec((8, 8), "u1", "HW"),
        "b": ArraySpec((8, 8), "u1"),
    }


DICT = spaces.Dict(front=pixels(3, 32, 32), state=spaces.Box(-1, 1, (4,)))
REFUSED = {
    "text": ((spaces.Text(5),), "observation_space: | Box, Discrete | got Text"),
    "a tuple": ((spaces.Tuple([DICT, DICT]),), "observation_space: | Dict, Box, Discrete | got Tuple"),
    "a tuple in a Dict": ((spaces.Dict(a=spaces.Dict(b=spaces.Tuple([]))),), "observation_space['a/b']: | got Tuple"),
    "a graph": ((spaces.Graph(spaces.Discrete(2), None),), "observation_space: | got Graph"),
    "a shape": (((3, 8, 8),), "observation_space: | of gymnasium.spaces, got tuple"),
    "nothing": ((None,), "observation_space: | of gymnasium.spaces, got NoneType"),
    "an empty Dict": ((spaces.Dict(),), "observation_space: | at least one part"),
    "one name for two": (
        (spaces.Dict({"a/b": spaces.Discrete(2), "a": spaces.Dict(b=spaces.Discrete(3))}),),
        "observation_space: | different names, got 'a/b' twice",
    ),
    "no elements": ((spaces.Box(-1, 1, (0,)),), "observation_space of shape (0,): | positive integer"),
    "a dtype that PyTorch has not": (
        (spaces.Dict(x=spaces.Box(-1, 1, (3,), np.longdouble)),),
        "observation_space['x'] of shape (3,): | PyTorch | got float128",
    ),
    "one layout for many": ((DICT, 1, "CHW"), "layouts: | mapping | 'front', 'state' | got 'CHW'"),
    "a layout of no part": ((DICT, 1, {"wrist": "CHW"}), "layouts: | 'front', 'state' | got {'wrist': 'CHW'}"),
    "layouts for one": ((pixels(3, 8, 8), 1, {"front": "CHW"}), "layouts: | one layout | got {'front': 'CHW'}"),
    "an unknown layout": ((DICT, 1, {"front": "WHC"}), "layouts: | 'CHW' | ['front'], got 'WHC'"),
    "a layout of no text": ((DICT, 1, {"front": 3}), "layouts: | 'CHW' | ['front'], got 3"),
    "an image of floats": ((DICT, 1, {"state": "CHW"}), "['state'] of shape (4,): | 3 sides | 'CHW'"),
    "a stack that is none": ((DICT, 4, {"front": "CHW"}), "['front']: | frame_stack 4 | got (3, 32, 32)"),
    "a stack of other length": ((pixels(3, 32, 32), 4, "FHW"), "frame_stack 4 | 'FHW', got (3, 32, 32)"),
    "a stack of HW": ((pixels(32, 32), 4, "HW"), "observation_space: | frame_stack 4 with layout 'HW', got (32, 32)"),
    "no stack": ((pixels(30, 30, 3), 4), "observation_space: | stack of frame_stack 4, got (30, 30, 3)"),
    "no stack of numbers": ((spaces.Box(-1, 1, (6,)), 4), "observation_space: | frame_stack 4 | got (6,)"),
    "no stack of choices": ((spaces.Discrete(3), 4), "observation_space: | frame_stack 4 | got ()"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    arguments, needles = REFUSED[case]
    with pytest.raises(InputError) as info:
        specs_of(*arguments)
    says(info, needles)


@pytest.mark.parametrize(
    ("space", "shape", "dtype"),
    [
        (spaces.Box(-1, 1, (6,), np.float32), (6,), "f4"),
        (spaces.Box(-1, 1, (2, 3), np.float64), (2, 3), "f8"),
        (spaces.Discrete(4), (), "i8"),
        (spaces.Discrete(4, start=-1), (), "i8"),
        (spaces.MultiDiscrete([3, 4]), (2,), "i8"),
        (spaces.MultiBinary(5), (5,), "i1"),
    ],
    ids=str,
)
def test_actions(space, shape, dtype):
    """A buffer made so takes what the space draws, and gives it back."""
    assert action_of(space) == (shape, np.dtype(dtype))
    replay = ReplayBuffer(100, (1, 8, 8), *action_of(space)[:1], action_dtype=action_of(space)[1], frame_stack=1)
    space.seed(0)
    action, frames = space.sample(), np.arange(128, dtype=np.uint8).reshape(2, 1, 8, 8)
    replay.add_transition(frames[0], action, 0.0, frames[1], False, False)
    assert np.array_equal(replay.sample(1).action[0].numpy(), action)


@pytest.mark.parametrize("space", [spaces.Text(3), DICT, spaces.Tuple([spaces.Discrete(2)]), None, 4], ids=str)
def test_actions_that_are_no_arrays(space):
    with pytest.raises(InputError) as info:
        action_of(space)
    says(info, f"action_space: expected Box, Discrete, MultiDiscrete or MultiBinary | got {type(space).__name__}")

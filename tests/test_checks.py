"""What a caller may pass as a single value or an action: taken as it is, or refused before anything is written."""

from __future__ import annotations

import enum
import re
from collections import namedtuple
from fractions import Fraction

import numpy as np
import pytest
import torch

from diffreplay import ReplayBuffer
from diffreplay.errors import InputError
from diffreplay.testing import TimeStep
from tests.test_bad_input import SHAPE, STACK, check_unchanged, contents, half_full, step

OTHER = STACK[::-1].copy()


def spellings(number):
    """The ways in which one number comes."""
    return [
        number,
        np.float32(number),
        np.array(number),
        np.array([number]),
        np.array([[number]], "f4"),
        torch.tensor(number),
        torch.tensor([float(number)], requires_grad=True),
    ]


FLAGS = [*spellings(True)[:4], np.bool_(True), 1, np.int64(1), 1.0, torch.tensor(True), torch.tensor([1])]
MANY = [np.array([False, True]), torch.tensor([0.0, 1.0]), np.zeros(0), [True], (0,)]
NOT_A_NUMBER = [None, "1", "False", b"1", np.array("1"), np.str_("1"), 1j, np.array(1j), {}, ..., *MANY]
NOT_A_FLAG = [float("nan"), np.float32("nan"), np.array([np.nan]), 2, -1, 0.5, np.array([2]), *NOT_A_NUMBER]
NOT_A_STREAM = [None, 1.0, True, np.bool_(True), [0], (1, 2), {}, float("nan"), np.array([0, 1]), torch.tensor(1.0)]


def shown(value):
    return re.sub(r"\s+", " ", repr(value))[:40]


@pytest.mark.parametrize("value", [*spellings(2.5), Fraction(5, 2)], ids=shown)
def test_a_number_in_any_spelling(value):
    """As reward and as discount, in both calls."""
    replay = ReplayBuffer(10, SHAPE, (2,), discount=1.0)
    replay.add(step(first=True))
    replay.add(step(reward=value, discount=value))
    replay.add_transition(OTHER, np.zeros(2), value, STACK, False, True)
    batch = replay.sample(20)
    assert (batch.reward == 2.5).all() and set(batch.discount[:, 0].tolist()) <= {1.0, 2.5}


@pytest.mark.parametrize("value", FLAGS, ids=shown)
@pytest.mark.parametrize("field", ["terminated", "truncated"])
def test_a_flag_in_any_spelling(field, value):
    replay = ReplayBuffer(10, SHAPE, (2,), discount=1.0)
    no = np.zeros_like(value) if isinstance(value, np.ndarray) else value * 0
    flags = {"terminated": no, "truncated": no}
    replay.add_transition(STACK, np.zeros(2), 0.0, OTHER, **flags)
    replay.add_transition(OTHER, np.zeros(2), 0.0, STACK, **flags | {field: value})
    with pytest.raises(InputError, match="expected a first step"):  # it ended
        replay.add(step())
    assert set(replay.sample(50).discount[:, 0].tolist()) == ({0.0, 1.0} if field == "terminated" else {1.0})


@pytest.mark.parametrize("value", FLAGS, ids=shown)
def test_first_and_last_in_any_spelling(value):
    replay = ReplayBuffer(10, SHAPE, (2,))
    replay.add(step(first=value))
    replay.add(step(last=value))
    with pytest.raises(InputError, match="expected a first step"):
        replay.add(step())
    assert len(replay) == 1


def refused(call, message):
    """Have `call`, with a buffer, be refused with that message: nothing changed, and the next step is stored."""
    replay = half_full()
    before = contents(replay)
    with pytest.raises(InputError, match=message) as info:
        call(replay)
    assert len(str(info.value)) < 400
    check_unchanged(replay, before, info)


@pytest.mark.parametrize("field", ["terminated", "truncated"])
@pytest.mark.parametrize("value", NOT_A_FLAG, ids=shown)
def test_what_is_no_flag_is_refused_before_anything_is_stored(field, value):
    flags = {"terminated": False, "truncated": False, field: value}
    message = f"^{field}: expected True or False, got "
    refused(lambda replay: replay.add_transition(STACK, np.zeros(2), 0.0, OTHER, **flags), message)
    which = {"terminated": "first", "truncated": "last"}[field]
    message = rf"^time_step\.{which}\(\): expected True or False, got "
    refused(lambda replay: replay.add(step(**{which: value})), message)


@pytest.mark.parametrize("value", [*NOT_A_NUMBER, 10**400, float("nan")], ids=shown)
def test_what_is_no_number_is_refused_before_anything_is_stored(value):
    message = "^reward: expected a finite number"
    refused(lambda replay: replay.add_transition(STACK, np.zeros(2), value, OTHER, False, False), message)
    refused(lambda replay: replay.add(step(reward=value)), message)
    refused(lambda replay: replay.add(step(discount=value)), message.replace("reward", "discount"))


@pytest.mark.parametrize("value", [np.array([False, True]), torch.tensor([0, 1, 0])], ids=shown)
def test_values_of_several_environments_say_what_to_do(value):
    for field in ("reward", "terminated", "truncated", "stream"):
        arguments = {"reward": 0.0, "terminated": False, "truncated": False, field: value}
        message = rf"^{field}: expected .* of shape \({len(value)},\); .* call it for each, with a stream of its own$"
        refused(lambda replay, a=arguments: replay.add_transition(STACK, np.zeros(2), next_obs=OTHER, **a), message)


@pytest.mark.parametrize("value", NOT_A_STREAM, ids=shown)
def test_what_is_no_stream_is_refused_before_anything_is_stored(value):
    message = "^stream: expected an integer or a string, got "
    refused(lambda replay: replay.add_transition(STACK, np.zeros(2), 0.0, OTHER, False, False, stream=value), message)
    refused(lambda replay: replay.add(step(first=True), value), message)


class Place(enum.IntEnum):
    THREE = 3


def test_a_stream_is_the_same_in_any_spelling(tmp_path):
    threes = [3, np.int64(3), np.uint8(3), np.array(3), np.array([3]), torch.tensor(3), torch.tensor([3]), Place.THREE]
    replay = ReplayBuffer(100, SHAPE, (2,))
    for k, stream in enumerate(threes * 2):
        replay.add(step(STACK if k % 2 else OTHER, first=k == 0), stream)
    assert len(replay) == len(threes) * 2 - 1 and list(replay.store.streams) == [3]
    replay.add(step(first=True), np.str_("left"))
    replay.add(step(OTHER), "left")
    assert [type(name) for name in replay.store.streams] == [int, str]
    replay.save(tmp_path)
    again = ReplayBuffer.load(tmp_path)
    again.add(step(), torch.tensor(3))
    again.add(step(), "left")
    assert len(again) == len(replay) + 2


GymnasiumStep = namedtuple("GymnasiumStep", "obs reward terminated truncated info")
NOT_A_STEP = [None, (STACK, 0.0, False, False, {}), GymnasiumStep(STACK, 0.0, False, False, {}), STACK, TimeStep, {}]


@pytest.mark.parametrize("value", NOT_A_STEP, ids=shown)
def test_what_is_no_time_step_is_refused(value):
    message = r"^time_step: expected a dm_env style step with .*, got \w+ \(.*\); .*add_transition$"
    refused(lambda replay: replay.add(value), message)


def test_a_time_step_without_an_action_is_refused():
    """dm_env's own have none."""
    Own = namedtuple("Own", "step_type reward discount observation first last")
    plain = Own(1, 0.0, 1.0, STACK, lambda: False, lambda: False)
    refused(lambda replay: replay.add(plain), r"^time_step: expected .*, got Own \(.*'action'\); ")
    flags = Own(1, 0.0, 1.0, STACK, False, False)  # as fields in place of methods
    refused(lambda replay: replay.add(flags), r"^time_step: expected .*, got Own \(.*not callable\); ")


def buffer_of(dtype, shape=()):
    replay = ReplayBuffer(20, SHAPE, shape, action_dtype=dtype)
    replay.add(step(first=True, action=None))
    return replay


FIT = {
    "uint8": [0, 255, np.int64(7), np.uint16(8), True, np.array(9), torch.tensor(10)],
    "int8": [-128, 127, np.int64(-5), np.uint8(127), torch.tensor(-1)],
    "int32": [-(2**31), 2**31 - 1, np.uint8(3), np.int64(2**31 - 1)],
    "int64": [2**63 - 1, -(2**63), np.uint64(2**63 - 1), np.uint8(3)],
    "uint64": [2**64 - 1, np.int64(5)],
    "bool": [0, 1, True, np.int8(1), np.int64(0), np.bool_(True)],
    "float32": [1.5, -0.0, 1e-50, 0.1, 3e38, 2**24, np.float64(0.1), np.int64(3), True, torch.tensor(0.25)],
    "float64": [1e308, 0.1, 2**53, np.float32(0.1)],
    "float16": [65504, 0.1, np.int64(3)],
}
BEYOND = {
    "uint8": [256, -1, np.int64(300), np.int8(-1), 2**70, torch.tensor(256)],
    "int8": [200, -129, np.uint8(200), np.int64(256), 2**64],
    "int32": [2**40, 2**31, np.uint32(2**31), np.int64(-(2**31) - 1)],
    "int64": [2**63, np.uint64(2**64 - 1), -(2**63) - 1],
    "uint64": [-1, np.int64(-1), np.int8(-1), 2**64],
    "bool": [2, -1, np.int8(2), np.int64(256)],
    "float32": [1e39, float("nan"), float("inf"), np.float32("nan"), 2**24 + 1, np.int64(2**40 + 1), 2**200],
    "float64": [float("nan"), -float("inf"), 2**53 + 1, np.longdouble("1e400")],
    "float16": [65520.0, 1e5, np.float16("inf"), np.float32("nan"), 70000, 2049],
}
CASES = {True: FIT, False: BEYOND}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", FIT)
def test_actions_that_the_dtype_holds_come_back(dtype):
    for value in FIT[dtype]:
        for shape in ((), (1,), (2, 40)):
            replay = buffer_of(dtype, shape)
            replay.add(step(action=np.broadcast_to(np.asarray(value), shape) if shape else value))
            action = replay.sample(1).action.numpy()
            assert action.dtype == dtype and action.shape == (1, *shape)
            assert (action == np.asarray(value).astype(dtype)).all()
            assert dtype.startswith("float") or (action.astype(object) == int(value)).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", BEYOND)
def test_actions_that_the_dtype_does_not_hold_are_refused(dtype):
    held = {"b": "0 or 1, as the dtype is bool", "f": f"finite numbers that {dtype} can hold"}
    expected = held.get(np.dtype(dtype).kind, rf"numbers from -?\d+ to \d+, as the dtype is {dtype}")
    for value in BEYOND[dtype]:
        for shape in ((), (1,), (2, 40)):
            action = np.zeros(shape, np.asarray(value).dtype)
            action[(0,) * len(shape)] = value
            replay = buffer_of(dtype, shape)
            for call in (
                lambda: replay.add(step(action=action)),  # noqa: B023
                lambda: replay.add_transition(STACK, action, 0.0, OTHER, False, False),  # noqa: B023
            ):
                with pytest.raises(InputError, match=f"^action: expected {expected}, got "):
                    call()
            assert len(replay) == 0 and replay.stats().frames == 3


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_float_actions_for_whole_numbers_are_refused(dtype):
    replay = buffer_of(dtype, (2,))
    with pytest.raises(InputError, match=rf"^action: expected {dtype} of shape \(2,\), got float64 of shape \(2,\)$"):
        replay.add(step(action=np.array([0.0, 1.0])))


def test_spaces_of_gymnasium():
    """What their `sample` gives is taken by the dtype that one would choose."""
    from gymnasium import spaces

    for space, shape, dtype in (
        (spaces.Discrete(200), (), "uint8"),
        (spaces.Discrete(18), (), "int64"),
        (spaces.MultiBinary(5), (5,), "bool"),
        (spaces.MultiDiscrete([3, 200]), (2,), "uint8"),
        (spaces.Box(-1, 1, (6,)), (6,), "float32"),
        (spaces.Box(-1, 1, (6,), np.float64), (6,), "float32"),
    ):
        for _ in range(20):
            replay, action = buffer_of(dtype, shape), space.sample()
            replay.add(step(action=action))
            assert np.array_equal(replay.sample(1).action[0].numpy(), np.asarray(action, dtype))


@pytest.mark.parametrize("make", [lambda: torch.zeros(2, requires_grad=True), lambda: torch.zeros(2, device="meta")])
def test_a_tensor_that_is_no_array_is_refused(make):
    refused(lambda replay: replay.add(step(action=make())), r"^action: expected float32 of shape \(2,\), but ")


def test_an_observation_that_is_no_array_is_refused():
    for value in ([[1], [1, 2]], torch.zeros(SHAPE, dtype=torch.uint8, device="meta")):
        message = r"^observation: expected uint8 of shape \(3, 12, 12\), but "
        refused(lambda replay, value=value: replay.add(step(value)), message)
        message = message.replace("observation", "next_obs")
        refused(lambda replay, v=value: replay.add_transition(STACK, np.zeros(2), 0.0, v, False, False), message)


def test_what_may_help_is_said_of_an_image_that_does_not_fit():
    hints = {
        "; add_batch takes": np.zeros((5, *SHAPE), np.uint8),
        "; transpose it, or say its layout": np.zeros((SHAPE[1], SHAPE[2], SHAPE[0]), np.uint8),
        "; give the pixels before they are scaled": np.zeros(SHAPE, np.float32),
        "$": np.zeros((1, *SHAPE[1:]), np.uint8),
    }
    for hint, value in hints.items():
        message = rf"^next_obs: expected uint8 of shape \(3, 12, 12\), got \w+ of shape \([\d, ]+\){hint}"
        refused(lambda replay, v=value: replay.add_transition(STACK, np.zeros(2), 0.0, v, False, False), message)


BAD_CALLS = {
    "no directory": (lambda replay: replay.save(None), "directory: expected a path, got None"),
    "directory of a number": (lambda replay: replay.save(3), "directory: expected a path, got 3"),
    "load from nothing": (lambda replay: replay.load(None), "directory: expected a path, got None"),
    "batch of text": (lambda replay: replay.sample("8"), "batch_size: expected a positive integer, got '8'"),
    "batch of a whole float": (lambda replay: replay.sample(8.0), "batch_size: .* got 8.0; write 8$"),
    "cap of a whole float": (lambda replay: ReplayBuffer(9, SHAPE, (), max_bytes=1e9), "max_bytes: .*; write 10000"),
    "batch of half a step": (lambda replay: replay.sample(8.5), "batch_size: expected a positive integer, got 8.5$"),
    "batch of NaN": (lambda replay: replay.sample(float("nan")), "batch_size: expected a positive integer, got nan"),
    "seed": (lambda replay: ReplayBuffer(9, SHAPE, (), seed="x"), "seed: expected a whole number from 0 on, got 'x'"),
    "low seed": (lambda replay: ReplayBuffer(9, SHAPE, (), seed=-1), "seed: expected a whole number from 0 on, got -1"),
    "no dtype": (lambda replay: ReplayBuffer(9, SHAPE, (), action_dtype=None), "action_dtype: expected a dtype of num"),
    "wide": (lambda replay: ReplayBuffer(9, SHAPE, (), action_dtype="f16"), "action_dtype: expected a dtype that Py"),
    "big": (lambda replay: ReplayBuffer(9, SHAPE, (), action_dtype=">f4"), "action_dtype: expected a dtype that PyT"),
    "several discounts": (lambda replay: ReplayBuffer(9, SHAPE, (), discount=[0.9]), "discount: expected a finite num"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_other_calls(case):
    call, message = BAD_CALLS[case]
    refused(call, f"^{message}")

"""What callers pass as observations: taken as it is, or refused with a sentence that names the part."""

from __future__ import annotations

from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from says import says

from diffreplay.errors import InputError
from diffreplay.parts import ArraySpec, ObservationCheck, held, parts_of

RNG = np.random.default_rng(0)
FRONT = RNG.integers(0, 256, (6, 8, 7), np.uint8)
DEPTH = RNG.integers(0, 65536, (2, 8, 7), np.uint16)
STATE = RNG.normal(size=8).astype("f4")
STEPS = np.array([3, 4])
WHOLE = {"state": STATE, "front": FRONT, "steps": STEPS, "depth": DEPTH}
SPECS = {
    "state": ArraySpec((4,), "f4"),
    "front": ArraySpec((3, 8, 7)),
    "steps": ArraySpec((), "i8"),
    "depth": ArraySpec((8, 7), "u2", "FHW"),
}
CHECK = ObservationCheck(parts_of(SPECS, 2))
PLAIN = ObservationCheck(parts_of((6, 8, 7), 2))


def observation(check, value):
    stacks = check.stacks("obs", value)
    return {part.name: part.observation(stack) for part, stack in zip(check.parts, stacks, strict=True)}


def unchanged(found):
    return all(found[name].dtype == WHOLE[name].dtype and np.array_equal(found[name], WHOLE[name]) for name in WHOLE)


@pytest.mark.parametrize(
    "value",
    [
        WHOLE,
        dict(reversed(WHOLE.items())),
        OrderedDict(WHOLE),
        {name: torch.from_numpy(array) for name, array in WHOLE.items()},
        WHOLE | {"state": STATE.astype("f8"), "steps": [3, 4]},
        WHOLE | {"state": STATE.tolist(), "steps": STEPS.astype("u1")},
        WHOLE | {"depth": DEPTH.astype(">u2"), "state": STATE.astype(">f4")},
        WHOLE | {"front": np.asfortranarray(FRONT), "depth": DEPTH[:, ::-1].copy()[:, ::-1]},
    ],
    ids=range(8),
)
def test_a_whole_observation(value):
    found = observation(CHECK, value)
    assert list(found) == ["front", "depth", "state", "steps"] and unchanged(found)


def test_a_plain_observation():
    for value in (FRONT, torch.from_numpy(FRONT), FRONT[::-1].copy()[::-1], np.asfortranarray(FRONT)):
        (stack,) = PLAIN.stacks("obs", value)
        assert np.array_equal(stack, FRONT.reshape(2, 3, 8, 7))
    assert np.shares_memory(PLAIN.stacks("obs", FRONT)[0], FRONT)


def test_nested_mappings():
    specs = {"arm/eye": SPECS["front"], "arm/joints/angles": SPECS["state"], "goal": SPECS["steps"]}
    check = ObservationCheck(parts_of(specs, 2))
    nested = {"goal": STEPS, "arm": {"joints": {"angles": STATE}, "eye": FRONT}}
    flat = {"goal": STEPS, "arm/joints/angles": STATE, "arm/eye": FRONT}
    mixed = {"goal": STEPS, "arm": OrderedDict({"joints/angles": STATE, "eye": FRONT})}
    for value in (nested, flat, mixed):
        found = observation(check, value)
        assert np.array_equal(found["arm/eye"], FRONT) and np.array_equal(found["arm/joints/angles"], STATE)
    for value, needles in (
        ({"goal": STEPS, "arm": {"eye": FRONT}}, "'arm/joints/angles' is missing"),
        (nested | {"leg": {"eye": FRONT}}, "'leg/eye' is unknown"),
        (nested | {"arm/eye": FRONT}, "'arm/eye' is there twice"),
        (nested | {"arm": STATE}, "'arm/eye', 'arm/joints/angles' are missing | 'arm' is unknown"),
    ):
        with pytest.raises(InputError) as info:
            check.stacks("obs", value)
        says(info, "obs: expected the parts 'arm/eye', ", needles)


def test_a_missing_part_is_not_made_up():
    value = defaultdict(lambda: STATE, {name: WHOLE[name] for name in ("front", "depth", "steps")})
    with pytest.raises(InputError, match="'state' is missing"):
        CHECK.stacks("obs", value)
    assert "state" not in value


def without(name):
    return {key: value for key, value in WHOLE.items() if key != name}


WRONG = {
    "no mapping": (FRONT, "obs: | mapping with the parts 'front', 'depth' | ndarray of shape (6, 8, 7)"),
    "nothing": (None, "obs: | mapping | got NoneType"),
    "missing": (without("depth"), "obs: | parts 'front', 'depth', 'state', 'steps' | 'depth' is missing"),
    "empty": ({}, "obs: | 'front', 'depth', 'state', 'steps' are missing"),
    "unknown": (WHOLE | {"wrist": FRONT}, "obs: | parts 'front' | 'wrist' is unknown"),
    "misspelt": (without("front") | {"fornt": FRONT}, "obs: | 'front' is missing and 'fornt' is unknown"),
    "a name of no text": (WHOLE | {3: FRONT}, "obs: | 3 is unknown"),
    "shape": (WHOLE | {"front": FRONT[:3]}, "obs['front']: | uint8 of shape (6, 8, 7), got uint8 of shape (3, 8, 7)"),
    "channels last": (WHOLE | {"front": FRONT.transpose(1, 2, 0)}, "obs['front']: | got uint8 of shape (8, 7, 6)"),
    "float image": (WHOLE | {"front": FRONT / 255}, "obs['front']: | got float64 of shape (6, 8, 7) | uint8 or uint16"),
    "wide image": (WHOLE | {"front": FRONT.astype("i8")}, "obs['front']: | uint8 | got int64 of shape (6, 8, 7)"),
    "narrow depth": (WHOLE | {"depth": FRONT[:2]}, "obs['depth']: | uint16 of shape (2, 8, 7), got uint8"),
    "state's shape": (WHOLE | {"state": STATE[:4]}, "obs['state']: | float32 of shape (8,), got float32 of shape (4,)"),
    "state of text": (WHOLE | {"state": ["a"] * 8}, "obs['state']: | float32 of shape (8,), got <U1 of shape (8,)"),
    "ragged state": (WHOLE | {"state": [[1], [1, 2]]}, "obs['state']: | float32 of shape (8,)"),
    "complex state": (WHOLE | {"state": STATE * 1j}, "obs['state']: | float32 | got complex64"),
    "gradient": (WHOLE | {"state": torch.zeros(8, requires_grad=True)}, "obs['state']: | float32 | grad"),
    "too large": (WHOLE | {"state": np.full(8, 1e39)}, "obs['state']: | float32 can hold | got [1e+39"),
    "float count": (WHOLE | {"steps": np.array([1.0, 2.0])}, "obs['steps']: | int64 of shape (2,), got float64"),
    "large count": (WHOLE | {"steps": np.array([2**63, 1], "u8")}, "obs['steps']: | numbers from -9223372036854775808"),
    "huge count": (WHOLE | {"steps": [2**70, 1]}, "obs['steps']: | numbers from -9223372036854775808 | int64"),
    "an object": (WHOLE | {"front": None}, "obs['front']: | uint8 of shape (6, 8, 7), got object of shape ()"),
    "a mapping": (WHOLE | {"front": {"left": FRONT}}, "obs['front']: | uint8 | got a mapping with 'left'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(case):
    value, needles = WRONG[case]
    with pytest.raises(InputError) as info:
        CHECK.stacks("obs", value)
    says(info, needles)


@pytest.mark.parametrize(
    ("value", "needles"),
    [
        (FRONT.astype("i8"), "observation: expected uint8 of shape (6, 8, 7), got int64 of shape (6, 8, 7)"),
        (FRONT / 255, "observation: expected uint8 of shape (6, 8, 7), got float64 of shape (6, 8, 7)"),
        (FRONT[0], "observation: expected uint8 of shape (6, 8, 7), got uint8 of shape (8, 7)"),
        (None, "observation: expected uint8 of shape (6, 8, 7), got object of shape ()"),
        (WHOLE, "observation: expected uint8 of shape (6, 8, 7), got a mapping with 'state', 'front'"),
        (torch.zeros(6, 8, 7, requires_grad=True), "observation: expected uint8 of shape (6, 8, 7), but Can't call"),
    ],
)
def test_what_is_refused_where_there_is_one_part(value, needles):
    with pytest.raises(InputError) as info:
        PLAIN.stacks("observation", value)
    says(info, needles)


NAN, INF = float("nan"), float("inf")
HELD = [
    ("f4", [0.1, NAN, INF, -INF], [np.float32(0.1), NAN, INF, -INF]),
    ("f2", np.array([0.1, INF], "f4"), [np.float16(0.1), INF]),
    ("f8", np.array([0.1, NAN], "f4"), [float(np.float32(0.1)), NAN]),
    ("f4", [2**24, True], [2**24, 1]),
    ("i8", [2**63 - 1, -(2**63)], [2**63 - 1, -(2**63)]),
    ("u8", np.array([2**64 - 1, 0], "u8").astype(">u8"), [2**64 - 1, 0]),
    ("u1", [255, 0], [255, 0]),
    ("bool", [1, 0], [True, False]),
    ("i2", [True, False], [1, 0]),
]
NOT_HELD = [
    ("f4", [2**24 + 1, 0], "numbers that float32 can hold"),
    ("f4", [1e39, 0], "numbers that float32 can hold"),
    ("f2", [7e4, INF], "numbers that float16 can hold"),
    ("f2", [70000, 0], "numbers that float16 can hold"),
    ("u1", [256, 0], "numbers from 0 to 255"),
    ("u1", [-1, 0], "numbers from 0 to 255"),
    ("i8", np.array([2**63, 0], "u8"), "numbers from -9223372036854775808 to 9223372036854775807"),
    ("u8", [-1, 0], "numbers from 0 to 18446744073709551615"),
    ("bool", [2, 0], "0 or 1"),
    ("i8", [1.0, 2.0], "int64 of shape (2,), got float64"),
    ("bool", [1.0, 0.0], "bool of shape (2,), got float64"),
]


@pytest.mark.parametrize(("dtype", "value", "wanted"), HELD, ids=str)
def test_values_that_a_dtype_holds(dtype, value, wanted):
    found = held("value", value, np.dtype(dtype), (2,) if len(wanted) == 2 else (4,))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.array(wanted, dtype))


@pytest.mark.parametrize(("dtype", "value", "needles"), NOT_HELD, ids=str)
def test_values_that_a_dtype_does_not_hold(dtype, value, needles):
    with pytest.raises(InputError) as info:
        held("value", value, np.dtype(dtype), (2,))
    says(info, "value: expected ", needles)


def test_a_single_number():
    check = ObservationCheck(parts_of({"speed": ArraySpec((), "f4"), "gear": ArraySpec((), "u1")}, 1))
    for speed, gear in ((1.5, 3), (np.float64(1.5), np.int64(3)), (np.array(1.5), torch.tensor(3))):
        stacks = check.stacks("obs", {"speed": speed, "gear": gear})
        assert [stack.view(part.dtype).tolist() for part, stack in zip(check.parts, stacks, strict=True)] == [
            [1.5],
            [3],
        ]
    with pytest.raises(InputError, match=r"^obs\['gear'\]: expected numbers from 0 to 255, .* got 300$"):
        check.stacks("obs", {"speed": 0.0, "gear": 300})

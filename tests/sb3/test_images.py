"""Arrays of observations of compressed buffers: what can be done with a NumPy array gives the same, or is refused."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nst

from diffreplay.errors import InputError, ReplayError
from diffreplay.sb3 import CompressedReplayBuffer, CompressedRolloutBuffer
from diffreplay.sb3.images import ImageArray

STEPS, N_ENVS, SHAPE = 5, 3, (2, 3, 4)


def make_pair(seed: int = 0, steps: int = STEPS, shape: tuple[int, ...] = SHAPE) -> tuple[ImageArray, np.ndarray]:
    """The same observations as a compressed buffer and as an array; the last position was never written."""
    rng = np.random.default_rng(seed)
    space = spaces.Box(0, 255, shape, np.uint8)
    buffer = CompressedReplayBuffer(steps * N_ENVS, space, spaces.Discrete(2), n_envs=N_ENVS, device="cpu")
    plain = np.zeros((steps, N_ENVS, *shape), np.uint8)
    for position in range(steps - 1):
        plain[position] = rng.integers(0, 256, (N_ENVS, *shape), np.uint8)
        buffer.observations[position] = plain[position]
    return buffer.observations, plain  # type: ignore[return-value]


OURS, THEIRS = make_pair()


@st.composite
def indices(draw: st.DrawFn) -> Any:
    """Basic, advanced and mixed indices, masks over any axes included."""
    parts: list[Any] = []
    axis = 0
    lead = draw(st.integers(0, THEIRS.ndim))
    length = draw(st.integers(1, 4))
    while axis < lead:
        size = THEIRS.shape[axis]
        kind = draw(st.sampled_from(["int", "slice", "list", "array", "mask", "wide mask", "none"]))
        if kind == "int":
            parts.append(draw(st.integers(-size, size - 1)))
        elif kind == "slice":
            parts.append(draw(st.slices(size)))
        elif kind == "none":
            parts.append(None)
            continue
        elif kind == "mask":
            parts.append(draw(nst.arrays(bool, size)))
        elif kind == "wide mask" and axis + 2 <= lead:
            parts.append(draw(nst.arrays(bool, THEIRS.shape[axis : axis + 2])))
            axis += 1
        else:
            shape = (length,) if kind == "list" else draw(st.sampled_from([(length,), (2, 1), (1,), (2, length), ()]))
            array = draw(nst.arrays(np.int64, shape, elements=st.integers(-size, size - 1)))
            parts.append(array.tolist() if kind == "list" else array)
        axis += 1
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), Ellipsis)
    return parts[0] if len(parts) == 1 and draw(st.booleans()) else tuple(parts)


@settings(max_examples=300, deadline=None)
@given(indices())
def test_random_indices(index: Any) -> None:
    try:
        expected = THEIRS[index]
    except IndexError:
        with pytest.raises(IndexError) as caught:
            OURS[index]
        assert isinstance(caught.value, InputError)
        return
    got = OURS[index]
    assert type(got) is type(expected) and (got.dtype, got.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(got, expected)


@pytest.mark.parametrize(
    "index",
    [
        (..., -1),
        (-1, -1, -1, -1, -1),
        (np.array([0, 2]), np.array([1, 1]), ...),
        (np.array([0, 2]), np.array([1, 1]), 0, 1),
        (slice(None), np.array([1, 2]), slice(None), 0),
        (slice(None, None, -2), [0, 2], None),
        (Ellipsis, None),
        True,
        np.False_,
        THEIRS > 100,
        THEIRS[:, 0, 0, 0, 0] > 100,
        [],
        (),
        ((1, 2), (0, 1)),
    ],
)
def test_particular_indices(index: Any) -> None:
    expected = THEIRS[index]
    assert np.array_equal(OURS[index], expected) and np.shape(OURS[index]) == np.shape(expected)


@pytest.mark.parametrize(
    "index", [5, -6, (0, 3), (0, 0, 2), (0,) * 6, "first", 1.5, (..., ...), np.zeros((5, 2), bool), [[0], [1, 2]]]
)
def test_indices_out_of_range_or_of_no_sense(index: Any) -> None:
    with pytest.raises((IndexError, ValueError)):
        THEIRS[index]
    with pytest.raises(IndexError) as caught:
        OURS[index]
    assert isinstance(caught.value, ReplayError), "one except catches it, whatever NumPy calls it"


@pytest.mark.parametrize("codec", ["raw", "sparse", "zstd", "delta"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (4, 8, 8), (8, 8, 3), (5,)])
def test_nothing_is_read(shape: tuple[int, ...], codec: str) -> None:
    """No observation, or such as were never written: before the first one comes, and afterwards."""
    space, rng = spaces.Box(0, 255, shape, np.uint8), np.random.default_rng(0)
    ours = CompressedReplayBuffer(20, space, spaces.Discrete(2), device="cpu", codec=codec).observations
    for position in range(12):
        assert ours[[]].shape == (0, 1, *shape) and ours[np.zeros(0, int), np.zeros(0, int)].shape == (0, *shape)
        assert ours[position:].shape == (20 - position, 1, *shape) and not ours[position:].any()
        ours[position] = rng.integers(0, 256, (1, *shape), np.uint8)


def test_more_than_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffreplay.sb3.images.PIECE", 4)
    assert np.array_equal(OURS, THEIRS)
    assert np.array_equal(OURS[..., -1], THEIRS[..., -1])
    assert np.array_equal(OURS[::-1, :, 1], THEIRS[::-1, :, 1])
    assert np.array_equal(OURS[THEIRS > 40], THEIRS[THEIRS > 40])


def test_what_the_array_is() -> None:
    for name in ("shape", "ndim", "size", "dtype", "nbytes", "itemsize", "T", "flat"):
        assert np.array_equal(getattr(OURS, name), getattr(THEIRS, name)), name
    assert len(OURS) == len(THEIRS)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(OURS, THEIRS, strict=True))
    assert THEIRS[2, 1, 0, 0, 0] in OURS
    assert not hasattr(OURS, "observations")


@pytest.mark.parametrize(
    "name", ["copy", "mean", "sum", "min", "max", "std", "argmax", "any", "all", "tolist", "ravel"]
)
def test_methods(name: str) -> None:
    assert np.array_equal(getattr(OURS, name)(), getattr(THEIRS, name)())
    assert np.array_equal(OURS.mean(axis=(0, 1)), THEIRS.mean(axis=(0, 1)))
    assert np.array_equal(OURS.astype(np.float32), THEIRS.astype(np.float32))
    assert np.array_equal(OURS.reshape(-1, math.prod(SHAPE)), THEIRS.reshape(-1, math.prod(SHAPE)))


def test_operators_and_functions() -> None:
    other = np.where(np.arange(THEIRS.size).reshape(THEIRS.shape) % 3, THEIRS, 7).astype(np.uint8)
    for ours, theirs in (
        (operator.eq(OURS, other), operator.eq(THEIRS, other)),
        (other != OURS, other != THEIRS),
        (OURS == OURS, np.ones(THEIRS.shape, bool)),
        (OURS / 255, THEIRS / 255),
        (255 - OURS, 255 - THEIRS),
        (OURS > 5, THEIRS > 5),
        (np.maximum(OURS, other), np.maximum(THEIRS, other)),
        (np.mean(OURS, axis=0), np.mean(THEIRS, axis=0)),
        (np.concatenate([OURS, OURS]), np.concatenate([THEIRS, THEIRS])),
        (np.asarray(OURS, np.float32), np.asarray(THEIRS, np.float32)),
        (np.array(OURS), THEIRS),
    ):
        assert type(ours) is np.ndarray and ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    with pytest.raises(ValueError, match="copy: expected True or None"):
        np.asarray(OURS, copy=False)
    with pytest.raises(ValueError, match=r"expected \.any"):
        bool(OURS)
    with pytest.raises(TypeError, match="unhashable"):
        hash(OURS)


def test_nothing_is_changed_unnoticed() -> None:
    ours, theirs = make_pair(1)
    for change in (
        lambda: ours[0, 0].fill(1),
        lambda: ours[:2].__setitem__(0, 1),
        lambda: ours.sort(),
        lambda: ours.__iadd__(1),
        lambda: np.add.at(ours, 0, 1),
        lambda: next(iter(ours)).fill(1),
    ):
        with pytest.raises(ValueError, match=r"read-only|in place"):
            change()
    own = ours[[0, 1], [0, 1]]
    own[:] = 0  # a copy, as in NumPy
    ours.copy()[:] = 0
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("position", [0, -1, np.int64(2), 4])
def test_assigning_a_position(position: Any) -> None:
    ours, theirs = make_pair(2)
    batch = np.random.default_rng(3).integers(0, 256, (N_ENVS, *SHAPE), np.uint8)
    theirs[position] = ours[position] = batch
    batch[:] = 0
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (5, 0, "below 5, got 5"),
        (-6, 0, "below 5, got -6"),
        (slice(None), 0, "nothing else can be assigned"),
        (..., 0, "nothing else can be assigned"),
        (True, 0, "nothing else can be assigned"),
        ((0, 1), 0, "nothing else can be assigned"),
        ([0, 1], 0, "nothing else can be assigned"),
        ("a", 0, "nothing else can be assigned"),
        (0, 0, r"expected uint8 of shape \(3, 2, 3, 4\), got int64 of shape \(\)"),
        (0, np.zeros((3, 2, 3, 4)), "got float64"),
        (0, np.zeros((2, 3, 4), np.uint8), "got uint8 of shape"),
    ],
)
def test_assigning_anything_else(position: Any, value: Any, message: str) -> None:
    ours, theirs = make_pair(4)
    frames = ours.store.frames.head
    if not np.ndim(value) and position != 0:
        value = np.ones((N_ENVS, *SHAPE), np.uint8)
    with pytest.raises(InputError, match=message):
        ours[position] = value
    assert ours.store.frames.head == frames and np.array_equal(ours, theirs)


def test_a_flattened_rollout() -> None:
    space = spaces.Box(0, 255, SHAPE, np.uint8)
    buffer = CompressedRolloutBuffer(STEPS, space, spaces.Discrete(2), device="cpu", n_envs=N_ENVS)
    for position in range(STEPS):
        buffer.observations[position] = THEIRS[position]
    flat: Any = buffer.swap_and_flatten(buffer.observations)
    expected = buffer.swap_and_flatten(THEIRS)
    assert np.array_equal(flat, expected) and np.array_equal(flat[..., -1], expected[..., -1])
    assert np.array_equal(flat[[3, 1, 14]], expected[[3, 1, 14]])
    with pytest.raises(InputError, match=r"expected reset\(\)"):
        flat[0] = THEIRS[0]

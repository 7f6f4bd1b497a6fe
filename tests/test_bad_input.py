"""What a user can get wrong: the type of the error, what it says, and that the buffer is as it was."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from says import says

from diffreplay import ReplayBuffer, make_replay_loader
from diffreplay.codecs import REGISTRY
from diffreplay.errors import EmptyBufferError, InputError, ReplayError, SharedMemoryError
from diffreplay.testing import TimeStep

SHAPE = (3, 12, 12)
STACK = np.arange(432, dtype=np.uint8).reshape(SHAPE)


def half_full():
    """An open episode of 20 steps after one that ended, and a stream 1 that ended."""
    replay = ReplayBuffer(30, SHAPE, (2,), frame_stack=3)
    rng, stack = np.random.default_rng(0), None
    for stream, length, last in ((0, 10, True), (1, 5, True), (0, 20, False)):
        for t in range(length):
            frame = rng.integers(0, 256, (1, 12, 12), np.uint8)
            stack = np.concatenate([frame] * 3 if t == 0 else [stack[1:], frame])
            step = TimeStep(stack, rng.normal(size=2).astype("f4"), 1.0, 1.0, t == 0, last and t == length - 1)
            replay.add(step, stream)
    return replay


def step(observation=STACK, action=(0.0, 0.0), reward=0.0, discount=1.0, first=False, last=False):
    return TimeStep(
        observation, np.asarray(action, "f4") if isinstance(action, tuple) else action, reward, discount, first, last
    )


def contents(replay):
    """All that can be seen of a buffer; sampling starts from the same state each time."""
    batch = replay.sample(64, np.random.default_rng(1))
    return replay.stats(), len(replay), [value.numpy().copy() for value in batch]


BAD_FIELDS = {
    "observation dtype": ({"observation": STACK.astype("i8")}, "observation", "uint8 of shape (3, 12, 12) | got int64"),
    "float observation": ({"observation": STACK / 255}, "observation", "uint8 | got float64"),
    "float32 observation": ({"observation": STACK.astype("f4")}, "observation", "uint8 | got float32"),
    "observation shape": ({"observation": STACK[:, :11]}, "observation", "(3, 12, 12) | of shape (3, 11, 12)"),
    "channels": ({"observation": np.tile(STACK, (3, 1, 1))}, "observation", "got uint8 of shape (9, 12, 12)"),
    "a single frame": ({"observation": STACK[0]}, "observation", "got uint8 of shape (12, 12)"),
    "no observation": ({"observation": None}, "observation", "got object of shape ()"),
    "NaN reward": ({"reward": float("nan")}, "reward", "finite number | got nan"),
    "infinite reward": ({"reward": float("inf")}, "reward", "finite number | got inf"),
    "reward beyond float32": ({"reward": 1e39}, "reward", "finite number (float32) | got 1e+39"),
    "no reward": ({"reward": None}, "reward", "finite number | got None"),
    "reward of text": ({"reward": "high"}, "reward", "finite number | got 'high'"),
    "NaN discount": ({"discount": np.float32("nan")}, "discount", "finite number | got "),
    "infinite discount": ({"discount": float("-inf")}, "discount", "finite number | got -inf"),
    "no discount": ({"discount": None}, "discount", "finite number | got None"),
    "action shape": ({"action": np.zeros(3, "f4")}, "action", "float32 of shape (2,) | got float32 of shape (3,)"),
    "action of two dimensions": ({"action": np.zeros((1, 2), "f4")}, "action", "got float32 of shape (1, 2)"),
    "scalar action": ({"action": 1.0}, "action", "got float64 of shape ()"),
    "ragged action": ({"action": [[1.0], [1.0, 2.0]]}, "action", "float32 of shape (2,)"),
    "complex action": ({"action": np.zeros(2, complex)}, "action", "float32 | got complex128"),
    "no action": ({"action": None}, "action", "got object of shape ()"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FIELDS)
def test_bad_step(case):
    fields, name, needles = BAD_FIELDS[case]
    replay = half_full()
    before = contents(replay)
    with pytest.raises(InputError) as info:
        replay.add(step(**fields))
    says(info, f"{name}: ", needles)
    check_unchanged(replay, before, info)


@pytest.mark.parametrize("case", [case for case in BAD_FIELDS if "discount" not in case])
@pytest.mark.parametrize("field", ["obs", "next_obs"])
def test_bad_transition(case, field):
    fields, name, needles = BAD_FIELDS[case]
    replay = half_full()
    before = contents(replay)
    arguments = {"obs": STACK, "action": np.zeros(2, "f4"), "reward": 0.0, "next_obs": STACK}
    fields = {field if key == "observation" else key: value for key, value in fields.items()}
    name = field if name == "observation" else name
    with pytest.raises(InputError) as info:
        replay.add_transition(**(arguments | fields), terminated=False, truncated=False)
    says(info, f"{name}: ", needles)
    check_unchanged(replay, before, info)


def check_unchanged(replay, before, info):
    assert isinstance(info.value, ReplayError) and isinstance(info.value, ValueError)
    stats, length, batch = contents(replay)
    assert (stats, length) == before[:2]
    assert all(np.array_equal(a, b) for a, b in zip(batch, before[2], strict=True))
    replay.check_invariants()
    replay.add(step())  # the open episode goes on
    assert len(replay) == length + (length < replay.capacity)


@pytest.mark.parametrize("stream", [1, 2])
def test_a_step_that_follows_no_first_one(stream):
    """After the last one (stream 1), and at the very start (stream 2)."""
    replay = half_full()
    before = contents(replay)
    with pytest.raises(InputError, match=r"^time_step: .*first step") as info:
        replay.add(step(), stream)
    check_unchanged(replay, before, info)


def test_a_first_step_in_mid_episode_truncates_the_episode_before():
    replay = half_full()
    length = len(replay)
    with pytest.warns(UserWarning, match="first step .*mid-episode.* truncated") as record:
        replay.add(step(first=True))
    assert record[0].filename == __file__
    assert len(replay) == length  # nothing leads from the old episode to the new one
    replay.check_invariants()
    newest = np.array([replay.store.head - 1])
    assert replay.store.previous_steps(newest)[0] == -1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replay.add(step())
    assert replay.store.previous_steps(newest + 1)[0] == newest[0]


BAD_ARGUMENTS = {
    "capacity 0": ({"capacity": 0}, "capacity: | positive integer | got 0"),
    "negative capacity": ({"capacity": -5}, "capacity: | positive integer | got -5"),
    "capacity 1.5": ({"capacity": 1.5}, "capacity: | positive integer | got 1.5"),
    "capacity of text": ({"capacity": "many"}, "capacity: | positive integer | got 'many'"),
    "capacity below a window": ({"capacity": 2}, "capacity: | at least 3 transitions | got 2"),
    "capacity below nstep": ({"capacity": 9, "nstep": 10}, "capacity: | at least 12 | nstep 10 | got 9"),
    "sparse's groups": ({"capacity": 4, "codec": "sparse"}, "capacity: | at least 5 transitions | got 4"),
    "nstep 0": ({"nstep": 0}, "nstep: | positive integer | got 0"),
    "nstep True": ({"nstep": True}, "nstep: | positive integer | got True"),
    "frame_stack 0": ({"frame_stack": 0}, "frame_stack: | positive integer | got 0"),
    "frame_stack 2": ({"frame_stack": 2}, "observation_shape: | with frame_stack 2 | got (3, 12, 12)"),
    "discount 1.1": ({"discount": 1.1}, "discount: | number in [0, 1] | got 1.1"),
    "discount NaN": ({"discount": float("nan")}, "discount: | finite number"),
    "discount of text": ({"discount": "x"}, "discount: | finite number | got 'x'"),
    "max_bytes 0": ({"max_bytes": 0}, "max_bytes: | positive integer | got 0"),
    "max_bytes 4GB": ({"max_bytes": "4GB"}, "max_bytes: | a number of bytes | 4 << 30 | got '4GB'"),
    "max_bytes 1e9": ({"max_bytes": 1e9}, "max_bytes: | positive integer | got 1000000000.0"),
    "max_bytes too small": ({"max_bytes": 100_000}, "max_bytes: | at least | a few windows | got 100000"),
    "max_bytes below a long window": (
        {"max_bytes": 1_000_000, "observation_shape": (3, 84, 84), "nstep": 200, "capacity": 1000},
        "max_bytes: | at least | got 1000000",
    ),
    "shape of two sides": ({"observation_shape": (3, 12)}, "observation_shape: | (frame_stack * C, H, W)"),
    "shape with a 0": ({"observation_shape": (3, 0, 12)}, "observation_shape: | positive integer | got 0"),
    "shape of a number": ({"observation_shape": 12}, "observation_shape: | tuple of positive integers"),
    "action_shape of a number": ({"action_shape": 2}, "action_shape: | tuple of positive integers | got 2"),
    "negative action_shape": ({"action_shape": (-1,)}, "action_shape: | positive integer | got -1"),
    "action_dtype of objects": ({"action_dtype": object}, "action_dtype: | dtype of numbers | got object"),
    "no action_dtype": ({"action_dtype": "float31"}, "action_dtype: | dtype of numbers | got 'float31'"),
    "codec": ({"codec": "lz4"}, "codec: | 'raw' | 'sparse' | 'zstd' | instance | got 'lz4'"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(case):
    arguments, needles = BAD_ARGUMENTS[case]
    with pytest.raises(InputError) as info:
        ReplayBuffer(**({"capacity": 100, "observation_shape": SHAPE, "action_shape": (2,)} | arguments))
    says(info, needles)
    assert isinstance(info.value, ReplayError) and isinstance(info.value, ValueError)


@pytest.mark.parametrize("capacity", [10**15, 10**30])
def test_more_capacity_than_address_space(capacity):
    with pytest.raises(SharedMemoryError, match="lower the capacity"):
        ReplayBuffer(capacity, SHAPE, (2,))


def test_the_smallest_cap_that_is_accepted_holds_windows():
    """What the error names is enough."""
    rng = np.random.default_rng(0)
    for codec in REGISTRY:
        with pytest.raises(InputError) as info:
            ReplayBuffer(1000, (9, 84, 84), (2,), nstep=5, max_bytes=1, codec=codec)
        least = int(str(info.value).split("at least ")[1].split()[0])
        replay = ReplayBuffer(1000, (9, 84, 84), (2,), nstep=5, max_bytes=least, codec=codec)
        stack = rng.integers(0, 256, (9, 84, 84), np.uint8)
        for t in range(100):
            stack = np.concatenate([stack[3:], rng.integers(0, 256, (3, 84, 84), np.uint8)])
            replay.add(step(stack, first=t == 0))
            assert t < 5 or replay.sample(2).obs.shape == (2, 9, 84, 84)


def test_sampling_an_empty_buffer():
    replay = ReplayBuffer(100, SHAPE, (2,))
    with pytest.raises(EmptyBufferError, match=r"window.* add steps") as info:
        replay.sample(4)
    assert isinstance(info.value, ReplayError)
    replay.add(step(first=True))
    with pytest.raises(EmptyBufferError, match="got 3 frames"):
        replay.sample(4)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, None])
def test_bad_batch_size(batch_size):
    with pytest.raises(InputError) as info:
        half_full().sample(batch_size)
    says(info, "batch_size: | positive integer", f"got {batch_size}")
    with pytest.raises(InputError) as info:
        half_full().sample(batch_size, np.random.default_rng(0))
    says(info, "batch_size: | positive integer", f"got {batch_size}")
    with pytest.raises(InputError) as info:
        make_replay_loader(half_full(), batch_size)
    says(info, "batch_size: | positive integer", f"got {batch_size}")

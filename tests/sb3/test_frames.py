"""Which frames compressed buffers find in observations of any layout, whoever owns their memory."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_games import assert_same
from sb3_rooms import Room
from stable_baselines3.common.buffers import DictReplayBuffer, DictRolloutBuffer, ReplayBuffer, RolloutBuffer

from diffreplay.sb3 import (
    CompressedDictReplayBuffer,
    CompressedDictRolloutBuffer,
    CompressedReplayBuffer,
    CompressedRolloutBuffer,
)

SIDE = 16


def pictures(count: int, channels: int, seed: int = 0) -> np.ndarray:
    """A square that walks over noise, in a colour of its own at every step: (count, channels, SIDE, SIDE)."""
    rng = np.random.default_rng(seed)
    frames = np.repeat(rng.integers(0, 256, (1, channels, SIDE, SIDE), np.uint8), count, axis=0)
    for number, frame in enumerate(frames):
        at = 3 + number % 9
        frame[:, at : at + 4, 5:9] = rng.integers(0, 256, (channels, 1, 1), np.uint8)
    return frames


def stacks(count: int, channels: int, stack: int, episode: int = 10, **options: Any) -> list[tuple[Any, ...]]:
    """Steps of one environment with stacked pictures, as `ReplayBuffer.add` takes them; channels first."""
    frames = iter(pictures(2 * count + 2, channels, **options))
    steps, now = [], []
    for number in range(count):
        if number % episode == 0:
            now = [next(frames)] * stack
        after = [*now[1:], next(frames)]
        done = np.array([number % episode == episode - 1])
        observations = [np.concatenate(pair)[None] for pair in (now, after)]
        steps.append((*observations, np.zeros(1, int), np.full(1, number, np.float32), done, [{}]))
        now = after
    return steps


def fill(buffer: ReplayBuffer, steps: list[tuple[Any, ...]], layout: Callable[[Any], Any] = lambda a: a) -> None:
    for obs, after, *rest in steps:
        buffer.add(layout(obs), layout(after), *rest)


def make(shape: tuple[int, ...], size: int = 300, **options: Any) -> CompressedReplayBuffer:
    space = spaces.Box(0, 255, shape, np.uint8)
    return CompressedReplayBuffer(size, space, spaces.Discrete(2), device="cpu", **options)


@pytest.mark.parametrize("codec", ["raw", "sparse", "zstd", "delta"])
@pytest.mark.parametrize(
    ("channels", "stack"),
    [(1, 3), (3, 1), (1, 6), (3, 2), (1, 9), (3, 3), (1, 12), (4, 1), (4, 3), (2, 2), (6, 1), (2, 1)],
)
def test_frames_are_found(channels: int, stack: int, codec: str) -> None:
    """Gray stacks of three are no RGB images; nor are RGB images with depth, or two cameras, stacks."""
    steps, shape = stacks(200, channels, stack), (channels * stack, SIDE, SIDE)
    ours, told = (make(shape, codec=codec, frame_stack=given) for given in (None, stack))
    theirs = ReplayBuffer(300, ours.observation_space, ours.action_space, "cpu")
    for buffer in (ours, told, theirs):
        fill(buffer, steps)
    assert ours.observations.part.frame_stack == stack
    assert ours.stats().frames == told.stats().frames == 220, "a frame of each step, and of each episode's start"
    assert ours.stats().payload_bytes <= 1.1 * told.stats().payload_bytes
    assert np.array_equal(ours.observations, theirs.observations)
    assert np.array_equal(ours.next_observations, theirs.next_observations)


def test_channels_last_and_frames_along_an_axis_of_their_own() -> None:
    steps = stacks(60, 1, 3)
    last = make((SIDE, SIDE, 3), codec="raw")
    fill(last, steps, lambda observations: observations.transpose(0, 2, 3, 1))
    assert last.stats().payload_bytes == 66 * SIDE * SIDE
    colors = stacks(60, 3, 4)
    for layout in ((4, SIDE, SIDE, 3), (4, 3, SIDE, SIDE)):
        ours = make(layout, 60, codec="raw")
        theirs = ReplayBuffer(60, ours.observation_space, ours.action_space, "cpu")
        for buffer in (ours, theirs):
            fill(buffer, colors, lambda observations, layout=layout: observations.reshape(1, *layout))
        assert ours.stats().payload_bytes == 66 * 3 * SIDE * SIDE
        assert np.array_equal(ours.next_observations, theirs.next_observations)


def test_a_picture_that_stands_still_decides_nothing() -> None:
    steps = stacks(60, 1, 3)
    still = [(steps[0][0], steps[0][0], *steps[0][2:])] * 40
    ours = make((3, SIDE, SIDE))
    fill(ours, still)
    assert ours.observations.part.frame_stack == 1
    again = pickle.loads(pickle.dumps(ours))  # while it is not decided
    for buffer in (ours, again):
        fill(buffer, steps)
        assert buffer.observations.part.frame_stack == 3
        assert buffer.stats().frames == 1 + 66 - 1
        assert np.array_equal(buffer.next_observations[40:100, 0], np.concatenate([step[1] for step in steps]))
        assert (buffer.observations[:40] == still[0][0]).all()


def test_one_array_for_both_observations() -> None:
    steps = stacks(60, 1, 3, episode=1000)
    ours = make((3, SIDE, SIDE), optimize_memory_usage=True, handle_timeout_termination=False)
    fill(ours, steps)
    assert ours.stats().frames == 61
    expected = np.concatenate([steps[0][0], *(step[1] for step in steps)])
    assert np.array_equal(ours.observations[:61, 0], expected)


@pytest.mark.parametrize("size", [4, 9, 40])
def test_rings_that_are_full_early_stay_exact(size: int) -> None:
    steps = stacks(100, 1, 3)
    ours = make((3, SIDE, SIDE), size)
    theirs = ReplayBuffer(size, ours.observation_space, ours.action_space, "cpu")
    for step in steps:
        for buffer in (ours, theirs):
            buffer.add(*step)
        assert np.array_equal(ours.observations, theirs.observations)
        assert np.array_equal(ours.next_observations, theirs.next_observations)


def test_caps_hold_while_frames_are_found() -> None:
    steps = stacks(200, 1, 3)
    cap = 400_000
    ours = make((3, SIDE, SIDE), codec="raw", max_bytes=cap)
    for number, step in enumerate(steps):
        ours.add(*step)
        assert ours.stats().total_bytes <= cap
        held = (ours.pos - 1 - np.arange(ours.size())) % 300
        assert np.array_equal(ours.next_observations[held, 0], np.concatenate([steps[k][1] for k in held])), number


def test_gray_stacks_in_a_rollout_and_in_a_dict() -> None:
    steps = stacks(90, 1, 3)
    image = spaces.Box(0, 255, (3, SIDE, SIDE), np.uint8)
    space = spaces.Dict({"image": image, "speed": spaces.Box(-1, 1, (2,))})
    options: dict[str, Any] = {"action_space": spaces.Discrete(2), "device": "cpu"}
    ours, theirs = CompressedDictRolloutBuffer(30, space, **options), DictRolloutBuffer(30, space, **options)
    for first in (0, 30, 60):
        for buffer in (ours, theirs):
            buffer.reset()
            for observation, _, action, reward, done, _ in steps[first : first + 30]:
                wide = {"image": observation, "speed": np.full((1, 2), reward)}
                buffer.add(wide, action, reward, done, th.zeros(1), th.zeros(1))
        assert np.array_equal(ours.observations["image"], theirs.observations["image"])
        assert ours.stats().frames <= 30 + 3 * 1 + 3
    assert ours.observations["image"].part.frame_stack == 3


def reused(make_ours: Callable[..., Any], make_theirs: Callable[..., Any], kind: str, **options: Any) -> None:
    """Fill both from an environment that writes every observation into the same memory, and compare."""
    env = gymnasium.vector.SyncVectorEnv([lambda: Room(kind, 4, reuse=True)] * 3, copy=False)
    arguments = {"action_space": env.single_action_space, "n_envs": 3, "device": "cpu"}
    ours = make_ours(60, env.single_observation_space, **arguments, **options)
    theirs = make_theirs(60, env.single_observation_space, **arguments)
    observations, _ = env.reset(seed=0)
    env.action_space.seed(0)
    before: Any = {k: v.copy() for k, v in observations.items()} if kind == "dict" else observations.copy()
    on_policy = isinstance(ours, RolloutBuffer)
    for _ in range(60):
        for name in before if kind == "dict" else [...]:
            before[name][...] = observations[name]
        action = env.action_space.sample()
        observations, reward, ended, cut, _ = env.step(action)
        for buffer in (ours, theirs):
            if on_policy:
                buffer.add(before, action, reward, ended | cut, th.zeros(3), th.zeros(3))
            else:
                buffer.add(before, observations, action, reward, ended | cut, [{}] * 3)
    assert ours.full == theirs.full
    for seed in range(5):
        batches = []
        for buffer in (ours, theirs):
            np.random.seed(seed)
            batches.append(next(buffer.get(32)) if on_policy else buffer.sample(32))
        assert_same(*batches)


@pytest.mark.parametrize("codec", ["raw", "sparse", "zstd", "delta"])
@pytest.mark.parametrize(
    ("ours", "theirs", "kind"),
    [
        (CompressedReplayBuffer, ReplayBuffer, "image"),
        (CompressedDictReplayBuffer, DictReplayBuffer, "dict"),
        (CompressedRolloutBuffer, RolloutBuffer, "image"),
        (CompressedDictRolloutBuffer, DictRolloutBuffer, "dict"),
    ],
)
def test_an_environment_that_reuses_its_arrays(ours: type, theirs: type, kind: str, codec: str) -> None:
    reused(ours, theirs, kind, codec=codec)


@pytest.mark.parametrize("shape", [(4, SIDE, SIDE), (SIDE, SIDE, 4), (3, SIDE, SIDE), (1, SIDE, SIDE), (7,)])
@pytest.mark.parametrize("codec", ["raw", "zstd", "delta"])
def test_an_assigned_array_may_be_reused(shape: tuple[int, ...], codec: str) -> None:
    buffer, rng = make(shape, 50, codec=codec), np.random.default_rng(0)
    batch, expected = np.zeros((1, *shape), np.uint8), []
    for position in range(50):
        batch[:] = rng.integers(0, 256, shape, np.uint8)
        expected.append(batch.copy())
        buffer.observations[position] = batch
    assert np.array_equal(buffer.observations, expected)


def test_a_buffer_saved_by_the_first_version() -> None:
    folder = Path(__file__).parents[1] / "saved"
    buffer: Any = pickle.loads((folder / "sb3_replay_v1.pkl").read_bytes())
    assert type(buffer) is CompressedReplayBuffer and buffer.size() == 12 and buffer.full
    expected = np.load(folder / "sb3_replay_v1.npy")
    assert np.array_equal(buffer.observations, expected)
    step = np.full((2, 3, 6, 6), 9, np.uint8)
    buffer.add(step, step, np.zeros(2, int), np.zeros(2), np.zeros(2), [{}] * 2)
    assert (buffer.next_observations[buffer.pos - 1] == 9).all()
    assert buffer.sample(4).observations.shape == (4, 3, 6, 6)

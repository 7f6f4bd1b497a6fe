"""Frames of one pixel and of 900 KiB, with `delta`, through a buffer: added, sampled, saved, loaded, resumed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from snapshot_tools import contents, make_directory

from diffreplay import ReplayBuffer, codecs
from diffreplay.store.layout import Counter
from diffreplay.testing import TimeStep

assert make_directory  # a fixture

# (C, H, W), as environments give them.
SHAPES = [
    (1, 1, 1),
    (4, 1, 1),
    (1, 3, 5),
    (4, 3, 5),
    (1, 1, 300),
    (3, 300, 1),
    (3, 210, 160),
    (4, 84, 84),
    (3, 480, 640),
]
LENGTH = 10
SETS = {"its own sets": None, "no set": 0, "sets of one frame": 1, "sets of five at most": 5}


class Planned(codecs.base.SetPlanner):
    """A set of so many frames, as soon as there are as many, and another one later."""

    def __init__(self, frames):
        self.frames, self.next_check = frames, max(1, frames)

    def due(self, head):
        return bool(self.frames) and head >= self.next_check

    def choose(self, store):
        self.next_check += 12
        return store.read(np.arange(store.head - self.frames, store.head))


class WithSets(codecs.DeltaCodec):
    """`delta` whose sets have so many frames from the start; none with 0."""

    def __init__(self, frames):
        super().__init__(set_frames=max(1, frames))
        self.frames = frames

    def planner(self, frame_shape):
        return Planned(min(self.frames, self.set_frames(math.prod(frame_shape))))


def frames_of(shape, count):
    """Frames of which no two are alike where there is room for that: a box moves over noise, some are noise."""
    rng = np.random.default_rng(0)
    background = rng.integers(0, 256, shape, np.uint8)
    frames = np.repeat(background[None], count, axis=0)
    for number, frame in enumerate(frames):
        if number % 7 == 3:
            frame[:] = rng.integers(0, 256, shape, np.uint8)
        y, x = rng.integers(0, shape[1]), rng.integers(0, shape[2])
        frame[:, y : y + 9, x : x + 9] = number
    return frames


def fill(replay, frames, begin, end):
    """Steps whose action is their number; an episode has LENGTH transitions, and begins with its first frame twice."""
    for number in range(begin, end):
        age = number % (LENGTH + 1)
        stack = np.concatenate([frames[number - min(back, age)] for back in (1, 0)])
        replay.add(TimeStep(stack, np.array([number]), float(number), 1.0, age == 0, age == LENGTH))


def check(replay, frames, count):
    batch = replay.sample(count)
    for obs, action, next_obs in zip(
        batch.obs.numpy(), batch.action[:, 0].tolist(), batch.next_obs.numpy(), strict=True
    ):
        before = max(action - 2, (action - 1) // (LENGTH + 1) * (LENGTH + 1))
        assert np.array_equal(obs, np.concatenate(frames[[before, action - 1]])), action
        assert np.array_equal(next_obs, np.concatenate(frames[[action - 1, action]])), action


@pytest.mark.parametrize("sets", SETS.values(), ids=SETS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_frame_comes_back(shape, sets, directory):
    channels, height, width = shape
    large = channels * height * width > 100_000
    count, capacity = (35, 20) if large else (150, 60)
    frames = frames_of(shape, count + 25)
    codec = "delta" if sets is None else WithSets(sets)
    replay = ReplayBuffer(
        capacity, (2 * channels, height, width), (1,), action_dtype="int64", frame_stack=2, codec=codec
    )
    fill(replay, frames, 0, count)
    replay.check_invariants()
    check(replay, frames, 16 if large else 200)
    made = replay.store.counter(Counter.set_head(0))
    assert made > 1 if sets else sets is None or made == 0
    replay.save(directory)
    loaded = ReplayBuffer.load(directory, codec=None if sets is None else WithSets(sets))
    assert loaded.verify() == [] and contents(loaded) == contents(replay)
    for buffer in (replay, loaded):
        fill(buffer, frames, count, count + 25)
        buffer.check_invariants()
        check(buffer, frames, 16 if large else 200)


def test_a_large_frame_that_hardly_changes_takes_few_bytes():
    """The codes of a token reach beyond 64 KiB: a frame of 900 KiB needs no rule of its own."""
    frames = np.repeat(frames_of((3, 480, 640), 1), 30, axis=0)
    for number, frame in enumerate(frames):
        frame[:, 100:110, 200 + number : 210 + number] = number
    replay = ReplayBuffer(40, (6, 480, 640), (1,), action_dtype="int64", frame_stack=2, codec=WithSets(1))
    fill(replay, frames, 0, 30)
    lengths = replay.store.lengths(np.arange(5, 30))
    assert lengths.max() < 4000
    check(replay, frames, 8)


def test_reference_frames_of_a_few_bytes_under_a_cap():
    """A cap makes the match table of zstd smaller, but not smaller than it may be."""
    codec = codecs.get("zstd").within(900_000)
    for nbytes in (1, 2, 5, 100, 300):
        frames = np.arange(3 * nbytes).astype(np.uint8).reshape(3, nbytes, 1, 1)
        opened, out = codec.open_set(frames.tobytes(), (nbytes, 1, 1)), np.zeros_like(frames[:1])
        blob = codec.encode(frames[1], opened)
        if blob is not None:
            codec.decode(codec.gather([bytes(blob)], nbytes), np.array([len(blob)]), opened, out)
            assert np.array_equal(out[0], frames[1])

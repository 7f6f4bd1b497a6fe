"""What a replay buffer promises: transitions, eviction, memory, and invariants that notice damage."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from forms import random_array, same_bits
from oracle import Oracle

from diffreplay import ArraySpec, ReplayBuffer, codecs
from diffreplay.errors import CorruptDataError, EmptyBufferError
from diffreplay.store.index import NO_ROW
from diffreplay.store.invariants import _read_index
from diffreplay.store.layout import BLOCK_ROWS, LOG_EXTENT_BYTES, Counter, Flag
from diffreplay.store.observations import append
from diffreplay.store.writer import FrameStore
from diffreplay.testing import TimeStep

CODECS = list(codecs.REGISTRY)


def buffer(capacity, shape=(1, 12, 12), frame_stack=3, **options):
    """A buffer of int64 actions of shape (1,)."""
    observation_shape = (frame_stack * shape[0], *shape[1:])
    return ReplayBuffer(capacity, observation_shape, (1,), action_dtype="int64", frame_stack=frame_stack, **options)


def fill(replay, steps, frame, episode=50, rng=None):
    """Add `steps` steps of episodes; frame(t) gives the frames (C, H, W)."""
    stack = None
    for t in range(steps):
        newest, first = frame(t), t % episode == 0
        count = replay.store.layout.frame_stack
        stack = np.concatenate([newest] * count if first else [stack[len(newest) :], newest])
        replay.add(TimeStep(stack, np.array([t]), 0.5, 1.0, first, t % episode == episode - 1))


def noise(shape, seed=0):
    rng = np.random.default_rng(seed)
    return lambda t: rng.integers(0, 256, shape, np.uint8)


def resident(replay):
    """Bytes of shared memory that the buffer takes, as the system counts them."""
    return os.fstat(replay.store.arena.fd).st_blocks * 512


def test_batch_has_the_documented_shapes_and_dtypes():
    replay = ReplayBuffer(100, (9, 20, 24), (2, 3), frame_stack=3, nstep=2)
    for t in range(30):
        replay.add(TimeStep(np.full((9, 20, 24), t, np.uint8), np.full((2, 3), t), 1.0, 1.0, t == 0, t == 29))
    batch = replay.sample(7)
    obs = next(iter(batch))
    assert [tuple(x.shape) for x in batch] == [(7, 9, 20, 24), (7, 2, 3), (7, 1), (7, 1), (7, 9, 20, 24)]
    assert [str(x.dtype)[6:] for x in batch] == ["uint8", "float32", "float32", "float32", "uint8"]
    assert obs is not batch.obs and obs.data_ptr() == batch.window.data_ptr()
    assert len(replay) == 29 and replay.capacity == 100


@pytest.mark.parametrize("nstep", [1, 3, 5])
def test_returns_follow_the_definition(nstep):
    """Rewards 1, 2, 4, ... and discounts 1 give a geometric sum; the last step's discount 0 ends it."""
    gamma, length = 0.9, 12
    replay = buffer(100, nstep=nstep, discount=gamma)
    for t in range(length):
        reward, discount = (2.0**t, float(t != length - 1)) if t else (99.0, 0.0)
        replay.add(
            TimeStep(np.full((3, 12, 12), t, np.uint8), np.array([t]), reward, discount, t == 0, t == length - 1)
        )
    _, action, reward, discount, next_obs = replay.sample(400)
    begin = action.numpy()[:, 0].astype(float)  # the action that led to step t + 1
    expected = 2**begin * ((2 * gamma) ** nstep - 1) / (2 * gamma - 1)
    np.testing.assert_allclose(reward.numpy()[:, 0], expected, rtol=1e-5)
    ends = begin + nstep - 1 == length - 1
    np.testing.assert_allclose(discount.numpy()[:, 0], np.where(ends, 0, gamma**nstep), rtol=1e-5)
    np.testing.assert_array_equal(next_obs.numpy()[:, -1, 0, 0], begin + nstep - 1)
    assert set(begin) == set(range(1, length - nstep + 1))


def test_terminal_observations_are_kept():
    """The observation at an episode's end is not the next episode's first, and is sampled as next_obs."""
    replay = buffer(50)
    for episode in range(5):
        obs, last, first = (np.full((3, 12, 12), 3 * episode + k, np.uint8) for k in range(3))
        replay.add_transition(obs, [2 * episode], 1.0, last, False, False)
        replay.add_transition(last, [2 * episode + 1], 1.0, first, episode % 2 == 0, episode % 2 == 1)
    assert len(replay) == 10
    obs, action, _, discount, next_obs = replay.sample(300)
    number, second = np.divmod(action.numpy()[:, 0], 2)
    np.testing.assert_array_equal(obs.numpy()[:, 0, 0, 0], 3 * number + second)
    np.testing.assert_array_equal(next_obs.numpy()[:, 0, 0, 0], 3 * number + second + 1)
    ended = (second == 1) & (number % 2 == 0)
    np.testing.assert_allclose(discount.numpy()[:, 0], np.where(ended, 0, 0.99), rtol=1e-6)


@pytest.mark.parametrize("codec", CODECS)
def test_the_seed_alone_decides_what_is_sampled(codec):
    first, again, other = (buffer(300, codec=codec, seed=seed) for seed in (5, 5, 6))
    for replay in (first, again, other):
        fill(replay, 250, noise((1, 12, 12)))
    for _ in range(3):
        one, two = first.sample(32), again.sample(32)
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one.action, other.sample(32).action)


def test_no_window_until_one_is_complete():
    replay = buffer(20, nstep=3)
    for t in range(3):
        with pytest.raises(EmptyBufferError, match="expected at least one complete window of 4 steps"):
            replay.sample(1)
        replay.add(TimeStep(np.full((3, 12, 12), t, np.uint8), np.array([t]), 0.0, 1.0, t == 0, False))
    replay.add(TimeStep(np.full((3, 12, 12), 3, np.uint8), np.array([3]), 0.0, 1.0, False, True))
    assert replay.sample(5).action.numpy().tolist() == [[1]] * 5


@pytest.mark.parametrize("codec", CODECS)
def test_rings_wrap_many_times(codec):
    """The log's ring of noise and the ring of row blocks, both several times; sampled all along."""
    oracle = Oracle(buffer(40, (3, 20, 20), codec=codec, nstep=2))
    oracle.replay.check_invariants, check = (lambda: None), oracle.replay.check_invariants
    rng, stack = np.random.default_rng(0), None
    layout = oracle.store.layout
    for t in range(3 * layout.blocks * BLOCK_ROWS):
        newest, first = rng.integers(0, 256, (3, 20, 20), np.uint8), t % 97 == 0
        stack = np.concatenate([newest] * 3 if first else [stack[3:], newest])
        oracle.add(stack, first=first, last=t % 97 == 96)
        if t % 200 == 199:
            check()
            oracle.check_batch(oracle.replay.sample(50))
    assert oracle.store.counter(Counter.LOG_HEAD) > 20 * layout.log_bytes
    assert oracle.store.head > 2 * layout.blocks * BLOCK_ROWS


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("frame", ["noise", "still"])
def test_memory_is_reused(codec, frame):
    """A buffer that has run for ten times its capacity is no larger than one that has run for one."""
    shape, capacity = (1, 32, 32), 2000
    replay = buffer(capacity, shape, codec=codec)
    draw = noise(shape)
    background = draw(0)

    def box(t):
        moved = background.copy()
        moved[:, t % 28 : t % 28 + 4, 3:9] = t % 256
        return moved

    sizes = []
    for _ in range(10):
        fill(replay, capacity, draw if frame == "noise" else box)
        sizes.append((replay.stats().total_bytes, resident(replay)))
    assert all(taken <= total for total, taken in sizes)
    # Sets of reference frames and partly filled segments come and go.
    slack = 2 * replay.store.layout.block_bytes + 2 * LOG_EXTENT_BYTES + 2 * replay.store.layout.images[0].set_slot
    assert max(total for total, _ in sizes[1:]) <= sizes[0][0] + slack
    assert max(taken for _, taken in sizes[1:]) <= sizes[0][1] + slack
    replay.check_invariants()


@pytest.mark.parametrize("shape", [(1, 84, 84), (3, 84, 84), (1, 12, 12)])
@pytest.mark.parametrize("codec", CODECS)
def test_noise_costs_no_more_than_raw(codec, shape):
    replay = buffer(1000, shape, codec=codec)
    fill(replay, 600, noise(shape))
    stats = replay.stats()
    assert stats.frames == 600
    assert stats.payload_bytes + stats.reference_bytes <= 1.02 * 600 * np.prod(shape)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("cap", [700_000, 12_000_000])
def test_cap_holds_when_frames_become_noise(codec, cap):
    """Under the larger cap there is room for sets of reference frames."""
    shape = (1, 84, 84)
    replay = buffer(100_000, shape, codec=codec, max_bytes=cap)
    draw, store = noise(shape), replay.store
    background, held = draw(0), 0

    def frame(t):
        nonlocal held
        assert replay.stats().total_bytes <= cap and resident(replay) <= cap
        assert store.allocated_bytes() <= cap
        if t % 100 == 99:
            replay.check_invariants()
        held = max(held, replay.stats().frames)
        if t > 1200:
            return draw(t)
        moved = background.copy()
        moved[:, t % 70 : t % 70 + 8, 3:40] = t % 256
        return moved

    fill(replay, 1200 + 2 * cap // 7056, frame)
    assert replay.stats().total_bytes > 0.8 * cap
    assert replay.stats().frames * 7056 > 0.35 * cap
    assert (codec == "raw") or held > replay.stats().frames
    replay.sample(64)


def test_every_stream_counts_against_the_cap():
    replay = buffer(1000, (1, 84, 84), max_bytes=1_000_000, codec="raw")
    stack = np.zeros((3, 84, 84), np.uint8)
    added = 0
    with pytest.raises(ValueError, match=r"max_bytes, with \d+ streams: expected at least"):
        for stream in range(100):
            replay.add(TimeStep(stack, np.array([0]), 0.0, 1.0, True, False), stream)
            assert replay.stats().total_bytes <= 1_000_000
            added += 1
    assert 10 < added < 50
    replay.check_invariants()
    replay.add(TimeStep(stack, np.array([0]), 0.0, 1.0, False, False), 0)


def test_a_stream_that_pauses_for_long_goes_on():
    """A link counts back at most 65,535 rows: after a longer pause the episode begins anew with its newest step."""
    replay = buffer(200_000, (1, 2, 2), frame_stack=2, codec="raw")
    frames = [np.full((1, 2, 2), 200 + t, np.uint8) for t in range(5)]

    def add(t, stream=1):
        stack = np.concatenate(frames[max(t - 1, 0) : t + 1] if t else frames[:1] * 2)
        replay.add(TimeStep(stack, np.array([t]), float(t), 1.0, t == 0, False), stream)

    add(0)
    add(1)
    other = np.zeros((2, 2, 2), np.uint8)
    for t in range(70_000):
        replay.add(TimeStep(other, np.array([-1]), 0.0, 1.0, t == 0, False), 0)
    before = len(replay)
    add(2)
    add(3)
    assert len(replay) == before + 2
    replay.check_invariants()
    store, newest = replay.store, np.array([replay.store.head - 1])
    before = store.previous_steps(newest)
    again = store.previous_steps(before)
    assert store.column("action", newest) == 3 and store.column("action", before) == 2
    assert store.previous_steps(again).tolist() == [-1]
    shown = [store.read(store.stacks(row)[0])[:, 0, 0, 0].tolist() for row in (again, before, newest)]
    assert shown == [[200, 201], [201, 202], [202, 203]]


@pytest.mark.parametrize("codec", CODECS)
def test_the_smallest_capacity_keeps_a_window(codec):
    frame_stack, nstep = 3, 2
    capacity = nstep + frame_stack - 1 + (2 if codec == "sparse" else 0)
    oracle = Oracle(buffer(capacity, codec=codec, nstep=nstep))
    rng, stack = np.random.default_rng(0), np.zeros((3, 12, 12), np.uint8)
    for t in range(60):
        stack = np.concatenate([stack[1:], rng.integers(0, 9, (1, 12, 12), np.uint8)])
        oracle.add(stack, first=t == 0)
        if t >= nstep:
            oracle.check_batch(oracle.replay.sample(4))


def test_a_forked_child_cannot_write():
    replay = buffer(10, codec="raw")
    fill(replay, 12, noise((1, 12, 12)))
    before = bytes(replay.store.arena.bytes[: replay.store.layout.header_bytes])
    child = os.fork()
    if child == 0:
        try:
            fill(replay, 1, noise((1, 12, 12)))
        except Exception as error:
            os._exit(0 if "only process" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert bytes(replay.store.arena.bytes[: replay.store.layout.header_bytes]) == before
    replay.check_invariants()


def test_stats_add_up():
    replay = buffer(500, (1, 84, 84))
    fill(replay, 400, noise((1, 84, 84)))
    stats = replay.stats()
    assert stats.observation_bytes == stats.payload_bytes + stats.index_bytes + stats.reference_bytes
    assert stats.stacked_bytes == len(replay) * 3 * 84 * 84
    assert stats.compression_ratio == stats.stacked_bytes / stats.observation_bytes
    assert stats.observation_bytes + stats.scalar_bytes <= stats.total_bytes
    assert stats.index_bytes <= 12 * stats.frames
    assert buffer(500).stats().compression_ratio == 0


class Damage:
    """Ways to spoil a store, by the word that the error must name them with."""

    @staticmethod
    def counter(which, change):
        def spoil(store):
            store.memory.counters[which] = store.counter(which) + change

        return spoil

    @staticmethod
    def column(name, back, value):
        def spoil(store):
            row = store.head - back
            store.memory.columns[name][row // BLOCK_ROWS % store.layout.blocks, row % BLOCK_ROWS] = value

        return spoil


DAMAGE = {
    "version": Damage.counter(Counter.VERSION, 1),
    "tail <= head": Damage.counter(Counter.FREED, 10**6),
    "transitions": Damage.counter(Counter.TRANSITIONS, -1),
    "at most .* transitions": Damage.counter(Counter.TRANSITIONS, 10**6),
    "payload bytes": Damage.counter(Counter.PAYLOAD_BYTES, 1),
    "allocated bytes": Damage.counter(Counter.ALLOCATED_BYTES, -4096),
    "reference bytes": Damage.counter(Counter.REFERENCE_BYTES, 1),
    "newest frame to end": Damage.counter(Counter.LOG_HEAD, 5),
    "live sets": Damage.counter(Counter.set_tail(0), 100),
    "coded bytes|begin": Damage.column("end", 5, 3),
    "links to rows|written": Damage.column("link", 3, 60_000),
    "link to an earlier row": Damage.column("link", 3, 0),
    "one step after each": Damage.column("link", 3, 2),
    "known flags": Damage.column("flags", 3, 128),
    "CONTEXT": Damage.column("flags", 3, Flag.CONTEXT),
    "link to itself": Damage.column("flags", 3, Flag.FIRST),
    "STARTS": Damage.column("flags", 3, 0),
    "ZEROS": Damage.column("flags", 3, Flag.ZEROS | Flag.STARTS),
}


@pytest.mark.parametrize("invariant", DAMAGE)
@pytest.mark.parametrize("codec", ["sparse", "zstd", "delta"])
def test_broken_invariants_are_named(codec, invariant):
    replay = buffer(400, (1, 20, 20), codec=codec)
    fill(replay, 1200, lambda t: np.full((1, 20, 20), t % 7, np.uint8))
    replay.check_invariants()
    DAMAGE[invariant](replay.store)
    with pytest.raises(CorruptDataError, match=f"invariant broken: expected.*({invariant})"):
        replay.check_invariants()


@pytest.mark.parametrize("codec", ["sparse", "zstd", "delta"])
def test_damaged_frames_are_noticed(codec):
    replay = buffer(400, (1, 40, 40), codec=codec)
    background = noise((1, 40, 40))(0)
    fill(replay, 300, lambda t: np.where(np.arange(40) < t % 9, np.uint8(t % 256), background))
    store = replay.store
    index = _read_index(store)
    coded = np.flatnonzero((index.end - index.start > 0) & (index.end - index.start < 1600))[-1]
    start, end = index.start[coded] % store.layout.log_bytes, index.end[coded] % store.layout.log_bytes
    store.memory.log[start:end] = b"\xff" * (end - start)
    with pytest.raises(CorruptDataError, match="every live row to decode"):
        replay.check_invariants()


def test_zeros_are_read_at_every_fill_of_the_ring() -> None:
    """A row that does not exist must not be looked up: its place in the ring belongs to another one."""
    store = FrameStore([(4, 4, 1)], 4, 1000, codecs.get("raw"))
    out = np.empty((2, 4, 4, 1), np.uint8)
    stack = np.zeros((4, 4, 4, 1), np.uint8)
    for k in range(2 * store.layout.blocks * BLOCK_ROWS):
        stack[-1] = 1 + k % 250
        row = append(store, (stack,), first=True)
        assert store.read_into(np.array([NO_ROW, row]), row, out)
        assert not out[0].any() and (out[1] == 1 + k % 250).all()


@pytest.mark.parametrize("dtype", ["|b1", "i1", "u2", "i8", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 1)])
def test_extras_come_back_bit_for_bit(dtype, shape):
    """With a first step, which has none, and floats of any bits."""
    spec, rng = ArraySpec(shape, dtype), np.random.default_rng(0)
    replay = ReplayBuffer(50, (3, 8, 8), (1,), action_dtype="int64", extras={"a": spec})
    given = [random_array(spec, rng) for _ in range(30)]
    for t, value in enumerate(given):
        replay.add(TimeStep(np.zeros((3, 8, 8), "u1"), [t], is_first=t == 0), extras={"a": value})
    batch = replay.sample(100)
    expected = np.stack([given[t] for t in batch.action[:, 0].tolist()])
    assert same_bits(batch.extras["a"].numpy(), expected)


def test_stats_tell_the_ratio():
    stats = ReplayBuffer(100, (3, 8, 8), (1,)).stats()
    assert repr(stats).startswith("ReplayStats(transitions=0, frames=0, ")
    assert repr(stats).endswith("compression_ratio=0.0)")


def test_a_buffer_says_what_it_is():
    replay = ReplayBuffer(100, (4, 8, 8), (1,), frame_stack=4, codec="zstd", max_bytes=10**8)
    assert (replay.frame_stack, replay.codec.name, replay.max_bytes) == (4, "zstd", 10**8)
    assert ReplayBuffer(100, (4, 8, 8), (1,), frame_stack=4).max_bytes is None
    obs = np.zeros((4, 8, 8), np.uint8)
    replay.add_transition(obs, [0], 0.0, obs, False, False)
    assert repr(replay).startswith("ReplayBuffer(1 of 100 transitions, zstd: observations ")
    assert repr(replay).endswith(" kB in all, at most 100.0 MB)")


def test_the_sizes_that_a_buffer_says_agree():
    replay = buffer(1000, (1, 84, 84), frame_stack=4)
    fill(replay, 400, noise((1, 84, 84)))
    said = re.search(r"observations ([\d.]+) MB, ([\d.]+)x smaller than stacks; ([\d.]+) MB in all\)$", repr(replay))
    observations, ratio, everything = map(float, said.groups())
    assert observations * ratio == pytest.approx(len(replay) * 4 * 84 * 84 / 1e6, rel=0.02)
    assert observations < everything == pytest.approx(replay.stats().total_bytes / 1e6, abs=0.06)

"""Which windows are drawn: uniform where few rows end one, the same in every process, at a cost that does not grow."""

from __future__ import annotations

import time

import numpy as np
import pytest
from oracle import Oracle
from says import says

from diffreplay import ReplayBuffer
from diffreplay.errors import EmptyBufferError
from diffreplay.loading.sampling import ReplayReader
from diffreplay.store.reader import FrameReader
from diffreplay.testing import TimeStep

SIDE = 4
MOST_TURNS = 300


def buffer(capacity, frame_stack=2, codec="raw", **options):
    shape = (frame_stack, SIDE, SIDE)
    return ReplayBuffer(capacity, shape, (1,), action_dtype="int64", frame_stack=frame_stack, codec=codec, **options)


def observations(frame_stack, length, rng, overlap=True):
    """`length` + 1 stacks of an episode; without `overlap` no frame is in two of them."""
    frames = rng.integers(0, 256, (frame_stack * (length + 1), SIDE, SIDE), np.uint8)
    if not overlap:
        return frames.reshape(-1, frame_stack, SIDE, SIDE)
    padded = np.concatenate([frames[:1]] * (frame_stack - 1) + [frames])
    return [padded[t : t + frame_stack] for t in range(length + 1)]


class Forgetful(Oracle):
    """Forgets what has left, without checking more after each step: that would take the longest."""

    def check(self):
        self.live = [step for step in self.live if step.row >= self.store.tail]

    def _evict(self, first):
        pass


def add_episode(target, length, rng, *, overlap=True, ends=True, stream=0):
    """An episode of `length` transitions, to an oracle."""
    for t, stack in enumerate(observations(target.frame_stack, length, rng, overlap)):
        target.add(stack, float(rng.normal()), 1.0, first=t == 0, last=ends and t == length, stream=stream)


def fill(replay, rows, length, overlap=True):
    """Add episodes of `length` transitions until there are so many rows."""
    stacks = observations(replay.store.layout.frame_stack, length, np.random.default_rng(0), overlap)
    while replay.store.head < rows:
        for t, stack in enumerate(stacks):
            replay.add(TimeStep(stack, np.zeros(1, int), 0.0, 1.0, t == 0, t == length))


def anew(replay):
    """A reader of the same memory that has not sampled yet, as in a process of its own."""
    store = replay.store
    frames = FrameReader(store.layout, store.arena, store.codec)
    return ReplayReader(frames, replay.parts, replay.nstep, replay.discount, replay.shorter_at_end)


def least_seconds(one, other, quotient):
    """The least processor time that each of two calls took in 15 turns, whatever else the machine does.

    In more turns, where the other one is not yet below so many times the first: a busy machine has few calm moments.
    """
    least = np.full(2, np.inf)
    for turn in range(MOST_TURNS):
        for k, call in enumerate((one, other)):
            start = time.thread_time()
            call()
            least[k] = min(least[k], time.thread_time() - start)
        if turn >= 14 and least[1] < quotient * least[0]:
            break
    return least


def drawn(replay, count, seed=0):
    """Numbers of the actions of a batch."""
    return replay.sample(count, np.random.default_rng(seed)).action[:, 0].tolist()


@pytest.mark.parametrize(
    ("length", "nstep", "overlap"), [(2, 2, True), (12, 10, True), (50, 3, False), (3, 3, False)], ids=str
)
def test_a_batch_costs_as_much_from_a_large_buffer(length, nstep, overlap):
    """Few rows end a window: short episodes, long windows, stacks that do not overlap."""
    replays = [buffer(rows, frame_stack=3, nstep=nstep) for rows in (1000, 30_000)]
    for replay in replays:
        fill(replay, replay.capacity, length, overlap)
        replay.sample(64)
    small, large = least_seconds(*(lambda replay=replay: replay.sample(64) for replay in replays), quotient=2)
    assert large < 2 * small


def test_a_batch_costs_as_much_where_hardly_any_row_ends_a_window():
    """One episode is long enough, and later ones are not: every row is looked at, but once."""
    replays = [buffer(rows, nstep=10) for rows in (1000, 30_000)]
    for replay in replays:
        fill(replay, 20, 11)
        fill(replay, replay.capacity, 4)
        replay.sample(64)
    small, large = least_seconds(*(lambda replay=replay: replay.sample(64) for replay in replays), quotient=2)
    assert large < 2 * small


def test_where_most_rows_end_a_window_the_generator_decides_as_it_always_did():
    """Runs that are repeated or resumed draw the batches they drew before."""
    replay = buffer(2000, frame_stack=1)
    for number in range(1000):
        stack = np.full((1, SIDE, SIDE), number % 256, np.uint8)
        replay.add(TimeStep(stack, np.array([number]), 0.0, 1.0, number % 100 == 0, number % 100 == 99))
    for seed, count in enumerate((1, 8, 256)):
        rows = np.random.default_rng(seed).integers(0, 1000, count + count // 8 + 8)
        assert drawn(replay, count, seed) == rows[rows % 100 != 0][:count].tolist()


LENGTHS = {  # of episodes of which few or none hold a window of 6 transitions; a part of them, over and over
    "one in sixteen rows": (6, *[3] * 3),
    "one in a hundred": (6, *[3] * 25),
    "hardly any": (7, *[2] * 180),
    "both": (*[40] * 5, *[2] * 250),
    "none, at times": (*[2] * 300, 9),
}


@pytest.mark.parametrize("codec", ["raw", "sparse"])
@pytest.mark.parametrize("case", LENGTHS)
def test_what_was_drawn_before_does_not_matter(case, codec):
    """One reader follows as rows come and go, another one only just began."""
    replay, rng = buffer(500, codec=codec, nstep=6), np.random.default_rng(1)
    oracle, follower = Forgetful(replay), anew(replay)
    lengths = LENGTHS[case] * max(1600 // sum(LENGTHS[case]), 2)
    for episode, length in enumerate(lengths):
        add_episode(oracle, length, rng, overlap=bool(episode % 7))
        if episode % 29:
            continue
        assert follower.can_sample() == anew(replay).can_sample() == bool(oracle.windows())
        if oracle.windows():
            batch = follower.sample(40, np.random.default_rng(episode))
            oracle.check_batch(batch)
            assert batch.action[:, 0].tolist() == drawn(anew(replay), 40, episode) == drawn(replay, 40, episode)
        else:
            with pytest.raises(EmptyBufferError):
                follower.sample(40, rng)


@pytest.mark.parametrize("case", LENGTHS)
def test_every_window_is_drawn_equally_often(case):
    """Pearson's chi-squared, where rows are drawn, where windows are listed, and where both give a part of a batch."""
    replay, rng = buffer(1000, nstep=6), np.random.default_rng(2)
    oracle = Forgetful(replay)
    for length in LENGTHS[case] * 2:
        add_episode(oracle, length, rng)
    add_episode(oracle, 8, rng, ends=False)  # windows of the unfinished episode count
    windows = oracle.windows()
    numbers = np.concatenate([oracle.check_batch(replay.sample(32)) for _ in range(2 * len(windows) + 50)])
    found, counts = np.unique(numbers, return_counts=True)
    assert set(found.tolist()) == set(windows)
    expected = len(numbers) / len(windows)
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < len(windows) + 5 * np.sqrt(2 * len(windows))


def test_can_sample_tells_whether_a_window_is_complete():
    """`len` counts transitions, and 500 of them may be in no window."""
    replay = buffer(1000, nstep=3)
    assert not replay.can_sample()
    fill(replay, 750, 2)
    assert len(replay) == 500 and not replay.can_sample() and not anew(replay).can_sample()
    fill(replay, 751, 3)
    assert replay.can_sample() and anew(replay).can_sample()
    fill(replay, 3000, 1)
    assert len(replay) == 1000 and not replay.can_sample()  # the window has left


def test_asking_again_and_again_looks_at_new_rows_alone():
    replay = buffer(20_000, nstep=3)
    fill(replay, 20_000, 2)
    assert not replay.can_sample()
    others = iter([anew(replay) for _ in range(MOST_TURNS)])
    first, again = least_seconds(lambda: next(others).can_sample(), replay.can_sample, quotient=1 / 4)
    assert again < first / 4
    assert not replay.can_sample()


MISSING = {
    "nothing": (0, 0, "got 0 frames | add steps"),
    "too short": (
        2,
        250,
        "got 750 frames | 500 transitions | at most 3 steps | longer episodes | nstep | is 3 | shorter_at_end=True",
    ),
    "a single step": (0, 1, "got 1 frames | 0 transitions | at most 1 steps | longer episodes"),
}


@pytest.mark.parametrize("case", MISSING)
def test_an_error_says_what_is_missing(case):
    length, episodes, needles = MISSING[case]
    replay = buffer(600, nstep=3)
    fill(replay, episodes * (length + 1), length)
    with pytest.raises(EmptyBufferError) as info:
        replay.sample(8)
    says(info, "window of 4 steps", "one episode", needles)

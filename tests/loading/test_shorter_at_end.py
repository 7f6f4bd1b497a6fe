"""Windows that get shorter at an episode's end: each step of an episode that has ended starts one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from driver import Driver
from gymnasium import spaces
from oracle import Oracle
from says import says
from snapshot_tools import make_directory, reseal
from stable_baselines3.common.buffers import NStepReplayBuffer

from diffreplay import ReplayBuffer, make_replay_loader
from diffreplay.errors import EmptyBufferError, InputError
from diffreplay.loading.windows import WindowFinder
from diffreplay.testing import TimeStep
from tests.loading.test_sampling import SIDE, anew, buffer

assert make_directory  # a fixture

GAMMA = 0.9


def frame(number):
    return np.full((2, SIDE, SIDE), number, np.uint8)


def step(number, first=False, last=False, reward=1.0):
    return TimeStep(frame(number), np.array([number]), reward, 1.0, first, last)


def add_episode(replay, numbers, last=True, stream=0):
    for k, number in enumerate(numbers):
        replay.add(step(number, k == 0, last and k == len(numbers) - 1), stream)


def finder(replay):
    """Finds the windows of a buffer, and has looked at nothing yet."""
    return WindowFinder(replay.store, replay.nstep, replay.shorter_at_end)


def starts(replay):
    """First actions of all transitions that are sampled, and how many steps each of them spans."""
    batch = replay.sample(400, np.random.default_rng(0))
    spans = batch.next_obs[:, 0, 0, 0].int() - batch.obs[:, 0, 0, 0].int()
    return dict(zip(batch.action[:, 0].tolist(), spans.tolist(), strict=True))


@pytest.mark.parametrize("nstep", [1, 3, 6])
def test_returns_are_those_of_stable_baselines3(nstep):
    """Episodes of 1 to 8 transitions that end either way: rewards, discounts, last observations."""
    replay = buffer(200, frame_stack=4, nstep=nstep, discount=GAMMA, shorter_at_end=True)
    box, action = spaces.Box(0, 255, (4, SIDE, SIDE), np.uint8), spaces.Box(-1e4, 1e4, (1,), np.float32)
    theirs = NStepReplayBuffer(200, box, action, "cpu", n_steps=nstep, gamma=GAMMA)
    rng, number = np.random.default_rng(0), 0
    for episode, length in enumerate([*range(1, 9)] * 2):
        frames = rng.integers(0, 256, (length + 4, SIDE, SIDE), np.uint8)
        for t in range(length):
            obs, next_obs, reward = frames[t : t + 4], frames[t + 1 : t + 5], float(rng.normal())
            terminated, truncated = (t == length - 1 and episode % 2 == k for k in range(2))
            replay.add_transition(obs, [number], reward, next_obs, terminated, truncated)
            info = [{"TimeLimit.truncated": truncated}]
            done = np.array([terminated or truncated])
            theirs.add(obs[None], next_obs[None], np.array([[number]]), np.array([reward]), done, info)
            number += 1
    batch = replay.sample(3000)
    numbers = batch.action[:, 0].numpy()
    assert set(numbers.tolist()) == set(range(number))
    wanted = theirs._get_samples(numbers)
    assert np.array_equal(batch.obs, wanted.observations) and np.array_equal(batch.next_obs, wanted.next_observations)
    np.testing.assert_allclose(batch.reward, wanted.rewards, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(batch.discount, wanted.discounts * (1 - wanted.dones), rtol=1e-5)


def test_what_is_left_out_without_it():
    replays = [buffer(50, nstep=3, shorter_at_end=shorter) for shorter in (False, True)]
    for replay in replays:
        add_episode(replay, range(6))
        add_episode(replay, range(10, 13))  # two transitions
        add_episode(replay, [20])  # none
    assert starts(replays[0]) == {1: 3, 2: 3, 3: 3}
    assert starts(replays[1]) == {1: 3, 2: 3, 3: 3, 4: 2, 5: 1, 11: 2, 12: 1}


def test_an_open_episode_waits_for_its_end():
    replay = buffer(50, nstep=3, shorter_at_end=True)
    add_episode(replay, range(3), last=False)
    assert not replay.can_sample()
    with pytest.raises(EmptyBufferError) as info:
        replay.sample(4)
    says(info, "fewer", "episode's end", "at most 3 steps", "add steps")
    replay.add(step(3))
    assert starts(replay) == {1: 3}
    replay.add(step(4, last=True))
    assert starts(replay) == {1: 3, 2: 3, 3: 2, 4: 1}


@pytest.mark.filterwarnings("ignore:a first step came in mid-episode")
@pytest.mark.parametrize("style", ["add", "add_transition"])
def test_an_episode_that_is_left_in_the_middle_ends_there(style):
    """A reader that looked at its steps before sees it, too."""
    replay = buffer(50, nstep=3, shorter_at_end=True)
    add_episode(replay, range(3), last=False)
    reader = anew(replay)
    assert not reader.can_sample()
    if style == "add":
        replay.add(step(10, first=True))
    else:
        replay.add_transition(frame(10), [11], 0.0, frame(11), False, False)
    assert starts(replay) == starts(reader) == {1: 2, 2: 1}
    replay.check_invariants()


def test_a_stream_that_pauses_too_long_ends_there_and_begins_anew():
    replay = buffer(70_000, frame_stack=1, nstep=3, shorter_at_end=True)
    observation = np.zeros((1, SIDE, SIDE), np.uint8)
    for number in range(3):
        replay.add(TimeStep(observation + number, np.array([number]), 0.0, 1.0, number == 0, False), stream=1)
    for _ in range(65_600):
        replay.add(TimeStep(observation, np.zeros(1, int), 0.0, 1.0, True, True), stream=2)
    assert not replay.can_sample()
    for number in range(3, 5):
        replay.add(TimeStep(observation + number, np.array([number]), 0.0, 1.0, False, False), stream=1)
    batch = replay.sample(100, np.random.default_rng(0))
    assert set(batch.action[:, 0].tolist()) == {1, 2}  # from the step where it goes on, three more are needed
    assert set(batch.next_obs.flatten().tolist()) == {2}


@pytest.mark.filterwarnings("ignore:a first step came in mid-episode")
@pytest.mark.parametrize("shorter", [False, True])
@pytest.mark.parametrize("codec", ["raw", "sparse"])
def test_a_list_that_follows_is_what_looking_at_all_rows_gives(codec, shorter):
    """Of all windows, and the same as the oracle's, after each of many random episodes of several streams."""
    replay = buffer(60, frame_stack=3, codec=codec, nstep=3, shorter_at_end=shorter)
    driver, follower, rng = Driver(replay, seed=5), finder(replay), np.random.default_rng(5)
    store = replay.store
    for _ in range(60):
        driver.run(
            {
                "length": int(rng.integers(1, 9)),
                "kind": "noise",
                "start": "arbitrary" if rng.random() < 0.3 else "first frame",
                "restarts": 0.1,
                "style": rng.choice(["dm_env", "gymnasium"]),
                "end": rng.choice(["terminated", "truncated", "cut off"]),
                "stream": int(rng.integers(3)),
                "others": 0.5,
            }
        )
        listed, fresh = (windows.listed(*store.bounds()) for windows in (follower, finder(replay)))
        assert listed.seen.head == fresh.seen.head
        assert np.array_equal(listed.seen.unfinished, fresh.seen.unfinished)
        assert np.array_equal(listed.numbers, fresh.numbers) and np.array_equal(listed.oldest, fresh.oldest)
        assert len(fresh.numbers) == len(driver.oracle.windows())
        steps = follower.steps(fresh.numbers, store.tail)
        actions = store.column("action", steps[:, 1])[:, 0].tolist()
        assert sorted(actions) == sorted(driver.oracle.windows())
    assert (replay.store.tail > 100) and len(fresh.numbers) > 20


def test_every_transition_is_drawn_equally_often():
    replay = buffer(400, nstep=5, shorter_at_end=True)
    oracle, rng = Oracle(replay), np.random.default_rng(0)
    for length in [1, 2, 3, 4, 5, 6, 7, 20] * 4:
        for t in range(length + 1):
            stack = rng.integers(0, 256, (2, SIDE, SIDE), np.uint8)
            oracle.add(stack, float(rng.normal()), 1.0, first=t == 0, last=t == length)
    windows = oracle.windows()
    assert len(windows) == len(replay)
    numbers = np.concatenate([oracle.check_batch(replay.sample(64)) for _ in range(100)])
    found, counts = np.unique(numbers, return_counts=True)
    assert set(found.tolist()) == set(windows)
    expected = len(numbers) / len(windows)
    assert ((counts - expected) ** 2 / expected).sum() < len(windows) + 5 * np.sqrt(2 * len(windows))


def test_workers_know_of_it():
    replay = buffer(50, nstep=3, shorter_at_end=True)
    add_episode(replay, range(3))
    loader = make_replay_loader(replay, batch_size=50, num_workers=1, multiprocessing_context="fork")
    assert set(next(iter(loader)).action[:, 0].tolist()) == {1, 2}


def test_a_snapshot_keeps_which_episodes_have_ended(directory):
    """Also of one that was open when its rows were saved, and is no more when the rest is."""
    replay = buffer(50, nstep=3, shorter_at_end=True)
    add_episode(replay, range(3), last=False)
    add_episode(replay, range(10, 13), last=False, stream=1)
    replay.save(directory)
    loaded = ReplayBuffer.load(directory)
    assert loaded.shorter_at_end and not loaded.can_sample()
    with pytest.warns(UserWarning, match="a first step came in mid-episode"):
        replay.add(step(20, first=True))
    replay.save(directory)
    loaded = ReplayBuffer.load(directory)
    assert starts(loaded) == starts(replay) == {1: 2, 2: 1}
    loaded.check_invariants()
    loaded.add(step(13, last=True), stream=1)  # what was open goes on
    assert starts(loaded) == {1: 2, 2: 1, 11: 3, 12: 2, 13: 1}


def test_a_snapshot_from_before_there_was_the_option(directory):
    replay = buffer(50, nstep=3)
    add_episode(replay, range(6))
    replay.save(directory)

    def without(manifest):
        del manifest["buffer"]["options"]["shorter_at_end"]
        return manifest

    reseal(directory, without)
    loaded = ReplayBuffer.load(directory)
    assert loaded.shorter_at_end is False and starts(loaded) == {1: 3, 2: 3, 3: 3}


def test_stored_bytes_are_as_ever_without_it():
    replay = buffer(50, nstep=3)
    add_episode(replay, range(6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        add_episode(replay, range(2), last=False)
        add_episode(replay, range(2), last=False)
    flags = replay.store.column("flags", np.arange(replay.store.head))
    assert flags.tolist()[0] == 17 and not (flags & 64).any()


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_it_is_true_or_false(value):
    with pytest.raises(InputError) as info:
        buffer(50, nstep=3, shorter_at_end=value)
    says(info, "shorter_at_end: | True or False", f"got {value!r}")

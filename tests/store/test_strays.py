"""Transitions that do not follow one another: several environments without `stream=`, or fed over n steps.

They are noticed, their frames are stored once all the same, and every sample is one that was added.
"""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from interrupts import interrupted

from diffreplay import ReplayBuffer, codecs

SHAPE = (3, 8, 8)
CODECS = list(codecs.REGISTRY)
NOISE = 3  # a kind of frames
WARNING = "10 transitions in a row"


def episode(rng, length):
    """Stacks (3, 8, 8) of an episode: the first is padded, each next one shifted."""
    frames = rng.integers(0, 256, (length + 1, 8, 8), np.uint8)
    return [np.stack([frames[max(t - back, 0)] for back in (2, 1, 0)]) for t in range(length + 1)]


def warned(feed, nstep=1, **options):
    """The messages of warnings while `feed` adds to a buffer, and the buffer."""
    replay = ReplayBuffer(2000, SHAPE, (1,), action_dtype="int64", nstep=nstep, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        feed(replay, np.random.default_rng(0))
    assert all(w.category is RuntimeWarning and w.filename == __file__ for w in caught)
    return [str(w.message) for w in caught], replay


def side_by_side(streams, envs=3, length=40):
    """Several environments in turns, each with a stream of its own or all with the default one."""

    def feed(replay, rng):
        for _ in range(2):
            stacks = [episode(rng, length) for _ in range(envs)]
            for t in range(length):
                for k in range(envs):
                    name = {"stream": k} if streams else {}
                    replay.add_transition(stacks[k][t], [t], 0.0, stacks[k][t + 1], False, t == length - 1, **name)

    return feed


def over_steps(n, length=60):
    """One environment, with transitions over n steps made before they are added."""

    def feed(replay, rng):
        for _ in range(2):
            stacks = episode(rng, length)
            for t in range(length):
                end = min(t + n, length)
                replay.add_transition(stacks[t], [t], 0.0, stacks[end], end == length, False)

    return feed


@pytest.mark.parametrize("nstep", [1, 3])
def test_several_environments_without_streams_are_noticed_once(nstep):
    messages, replay = warned(side_by_side(streams=False), nstep)
    assert [WARNING in message for message in messages] == [True] and "stream=" in messages[0]
    replay.check_invariants()


@pytest.mark.parametrize("n", [2, 3, 5])
def test_transitions_over_n_steps_are_noticed_once(n):
    messages, replay = warned(over_steps(n))
    assert [WARNING in message for message in messages] == [True] and "nstep=n" in messages[0]
    replay.check_invariants()


@pytest.mark.parametrize("feed", [side_by_side(streams=True), over_steps(1)])
def test_what_is_right_goes_unnoticed(feed):
    assert warned(feed)[0] == []


def test_episodes_cut_off_without_a_word_go_unnoticed():
    """A reset in mid-episode that no flag tells of, time and again."""

    def feed(replay, rng):
        for _ in range(50):
            stacks = episode(rng, 2)
            for t in range(2):
                replay.add_transition(stacks[t], [t], 0.0, stacks[t + 1], False, False)

    assert warned(feed)[0] == []


def test_episodes_of_one_step_go_unnoticed():
    def feed(replay, rng):
        for _ in range(50):
            replay.add_transition(*episode(rng, 1)[:1], [0], 0.0, episode(rng, 1)[1], True, False)

    assert warned(feed)[0] == []


class Ledger:
    """Every transition that was added, by its action: a number of its own."""

    def __init__(self, replay):
        self.replay, self.added = replay, []

    def add(self, obs, next_obs, ended, stream=0):
        number = len(self.added)
        self.added.append((obs.copy(), number % 7 - 3.0, 0.0 if ended and number % 2 else 1.0, next_obs.copy()))
        flags = (ended and number % 2 == 1, ended and number % 2 == 0)
        self.replay.add_transition(obs, [number], number % 7 - 3.0, next_obs, *flags, stream)

    def check(self, replay=None, count=400):
        """Compare a batch with what was added; return the numbers drawn."""
        replay = replay or self.replay
        replay.check_invariants()
        obs, action, reward, discount, next_obs = (value.numpy() for value in replay.sample(count))
        for k, number in enumerate(action[:, 0].tolist()):
            right = self.added[number]
            assert np.array_equal(obs[k], right[0]) and np.array_equal(next_obs[k], right[3]), number
            assert reward[k] == right[1] and discount[k] == np.float32(right[2] * replay.discount), number
        return set(action[:, 0].tolist())


class World:
    """Feeds a buffer in one of several wrong ways; frames are noise or hardly change, stacks begin in several ways."""

    def __init__(self, ledger, frame_stack, seed, side=8):
        self.ledger, self.frame_stack, self.side = ledger, frame_stack, side
        self.rng = np.random.default_rng(seed)

    def stacks(self, length, kind=None):
        kind = self.rng.integers(4) if kind is None else kind
        frames = self.rng.integers(
            0, 2 if kind == 0 else 256, (length + self.frame_stack, self.side, self.side), np.uint8
        )
        if kind == 1:
            frames[:] = self.rng.integers(0, 3, (len(frames), 1, 1))  # screens that look the same
        if kind != 2:  # padded with the first frame or with zeros, else stacked from the start
            frames[: self.frame_stack - 1] = frames[self.frame_stack - 1] if kind else 0
        return [frames[t : t + self.frame_stack] for t in range(length + 1)]

    def over_steps(self, n, length, cut=False, stream=0, kind=None):
        stacks = self.stacks(length, kind)
        for t in range(max(length - n, 1) if cut else length):
            end = min(t + n, length)
            self.ledger.add(stacks[t], stacks[end], end == length, stream)

    def side_by_side(self, envs, steps):
        stacks, t = [self.stacks(9) for _ in range(envs)], [0] * envs
        for _ in range(steps):
            for k in range(envs):
                t[k] += 1
                self.ledger.add(stacks[k][t[k] - 1], stacks[k][t[k]], t[k] == len(stacks[k]) - 1)
                if t[k] == len(stacks[k]) - 1:
                    stacks[k], t[k] = self.stacks(int(self.rng.integers(1, 12))), 0

    def anything(self):
        """One of all ways."""
        way, length = self.rng.integers(5), int(self.rng.integers(1, 40))
        if way == 0:
            self.over_steps(1, length)
        elif way == 1:
            self.side_by_side(int(self.rng.integers(2, 6)), length // 2)
        elif way == 2:  # in any order
            stacks = self.stacks(length)
            for t in self.rng.permutation(length).tolist():
                self.ledger.add(stacks[t], stacks[t + 1], self.rng.random() < 0.1)
        else:
            self.over_steps(int(self.rng.integers(2, 7)), length, way == 3, int(self.rng.integers(2)))


def make(capacity, frame_stack, side=8, **options):
    shape = (frame_stack, side, side)
    return ReplayBuffer(capacity, shape, (1,), action_dtype="int64", frame_stack=frame_stack, **options)


@pytest.mark.filterwarnings("ignore:10 transitions", "ignore:a transition began")
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("frame_stack", [1, 2, 3, 4])
def test_every_sample_is_one_that_was_added(codec, frame_stack, tmp_path):
    """Fed in all ways, into buffers that overflow, and saved and loaded on the way."""
    for seed, capacity in enumerate((40, 40, 150, 5000)):
        ledger = Ledger(make(capacity, frame_stack, codec=codec))
        world = World(ledger, frame_stack, seed)
        for round_ in range(25):
            world.anything()
            newest = ledger.check()
            if capacity == 5000:
                assert len(ledger.replay) == len(ledger.added)
            else:
                assert len(ledger.replay) <= capacity
                assert len(newest) > min(capacity, len(ledger.added)) // 4
            if round_ % 8 == 7:
                ledger.replay.save(tmp_path / str(seed))
                ledger.replay = ReplayBuffer.load(tmp_path / str(seed))


@pytest.mark.filterwarnings("ignore:10 transitions", "ignore:a transition began")
@pytest.mark.parametrize("codec", CODECS)
def test_a_byte_cap_evicts_them_too(codec):
    cap = 11_000_000 if codec == "zstd" else 700_000
    ledger = Ledger(make(5000, 3, 40, codec=codec, max_bytes=cap))
    world = World(ledger, 3, 0, 40)
    for _ in range(60):
        world.anything()
        ledger.check(count=100)
        assert ledger.replay.stats().total_bytes <= cap
    assert codec == "zstd" or len(ledger.replay) < len(ledger.added)


@pytest.mark.filterwarnings("ignore:10 transitions")
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("frame_stack", [3, 4])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_transitions_over_n_steps_store_each_frame_once(n, frame_stack, codec):
    """Also at an episode's end, where several transitions share their next_obs."""
    ledgers = [Ledger(make(5000, frame_stack, 40, codec=codec)) for _ in range(2)]
    for ledger, span in zip(ledgers, (n, 1), strict=True):
        world = World(ledger, frame_stack, 5, 40)
        for _ in range(6):
            world.over_steps(span, 100, kind=NOISE)
    assert ledgers[0].check(count=9000) == set(range(600))
    stats, best = (ledger.replay.stats() for ledger in ledgers)
    assert stats.transitions == best.transitions == 600
    begun = n + 2 * frame_stack  # frames of each episode's beginning that are stored anew
    assert best.frames <= stats.frames <= best.frames + 6 * begun + 3 * frame_stack
    assert stats.payload_bytes <= best.payload_bytes + (6 * begun + 3 * frame_stack) * 1600


@pytest.mark.filterwarnings("ignore:10 transitions")
@pytest.mark.parametrize("envs", [2, 8])
def test_environments_in_turns_store_each_frame_once(envs):
    ledger = Ledger(make(5000, 3))
    stacks = [World(ledger, 3, 10 + k).stacks(80, NOISE) for k in range(envs)]
    for t in range(80):
        for k in range(envs):
            ledger.add(stacks[k][t], stacks[k][t + 1], t == 79)
    assert ledger.check(count=80 * envs * 12) == set(range(80 * envs))
    assert ledger.replay.stats().frames <= 80 * envs + 8 * envs


@pytest.mark.filterwarnings("ignore:10 transitions", "ignore:left out")
@pytest.mark.parametrize("codec", CODECS)
def test_damaged_snapshots_of_them_hold_what_is_right(codec, tmp_path):
    ledger = Ledger(make(5000, 3, codec=codec))
    world = World(ledger, 3, 3)
    for k in range(6):
        world.over_steps(3, 60)
        if k % 2:
            world.side_by_side(3, 12)
        ledger.replay.save(tmp_path / "whole")
    files = sorted(path for path in (tmp_path / "whole").iterdir() if path.suffix not in (".json", ".lock"))
    names = [path for path in files if path.stat().st_size > 500]
    assert names
    for path in names:
        data = path.read_bytes()
        path.unlink()
        loaded = ReplayBuffer.load(tmp_path / "whole", skip_damaged=True)
        path.write_bytes(data)
        loaded.check_invariants()
        if len(loaded):
            ledger.check(loaded)


@pytest.mark.filterwarnings("ignore:10 transitions", "ignore:a transition began")
@pytest.mark.parametrize("codec", CODECS)
def test_an_interrupted_transition_is_added_once(codec):
    """At every line of every 19th transition over three steps."""
    ledger = Ledger(make(60, 3, codec=codec))
    add, places = ledger.replay.add_transition, 0

    def add_in_the_end(*arguments):
        nonlocal places
        if len(ledger.added) % 19:
            return add(*arguments)
        held = len(ledger.replay)
        for place in itertools.count():
            if not interrupted(lambda: add(*arguments), place):
                break
            places += 1
            assert len(ledger.replay) <= held
            if place % 20 == 0:
                ledger.replay.check_invariants()

    ledger.replay.add_transition = add_in_the_end
    world = World(ledger, 3, 4)
    for _ in range(4):
        world.over_steps(3, 40, kind=NOISE)
        drawn = ledger.check(count=1000)
        assert len(drawn) > 50 or len(ledger.added) < 60
    assert places > 8 * 50

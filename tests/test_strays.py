"""Transitions that do not follow one another: several environments without `stream=`, or fed over n steps."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from diffreplay import ReplayBuffer

SHAPE = (3, 8, 8)
WARNING = "10 transitions in a row began with an observation that is not the next_obs before it"


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

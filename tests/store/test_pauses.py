"""A stream that pauses while others fill the buffer: its next transition is given whole, and is held whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from interrupts import interrupted
from snapshot_tools import CODECS

from diffreplay import ReplayBuffer

SIDE, CAPACITY = 12, 12


def stacks(seed):
    """Observations of two frames, each the one before shifted by one."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (40, SIDE, SIDE), np.uint8)
    return [frames[t : t + 2] for t in range(39)]


def paused(codec, others):
    """A buffer whose stream 0 has a transition in mid-episode, and stream 1 so many later ones."""
    replay = ReplayBuffer(CAPACITY, (2, SIDE, SIDE), (1,), frame_stack=2, codec=CODECS[codec]())
    zero, one = stacks(0), stacks(1)
    replay.add_transition(zero[0], [0.0], 0.0, zero[1], False, False, stream=0)
    for t in range(others):
        replay.add_transition(one[t], [float(t)], 1.0, one[t + 1], False, False, stream=1)
    return replay, (zero[1], [77.0], 7.0, zero[2], False, False, 0)


def check_held(replay, transition):
    obs, action, reward, next_obs, *_ = transition
    replay.check_invariants()
    batch = replay.sample(50 * CAPACITY)
    found = np.flatnonzero(batch.action[:, 0].numpy() == action[0])
    assert len(found), "the transition is not in the buffer"
    for k in found:
        assert np.array_equal(batch.obs[k], obs) and np.array_equal(batch.next_obs[k], next_obs)
        assert batch.reward[k, 0] == reward


@pytest.mark.parametrize("codec", CODECS)
def test_a_transition_is_held_whose_first_observation_makes_room_for_it(codec):
    for others in range(CAPACITY - 3, CAPACITY + 8):
        replay, transition = paused(codec, others)
        replay.add_transition(*transition)
        check_held(replay, transition)
        assert len(replay) <= CAPACITY


@pytest.mark.parametrize("codec", CODECS)
def test_it_is_held_where_an_interrupted_addition_is_made_again(codec):
    for place in itertools.count(step=3):
        replay, transition = paused(codec, CAPACITY)
        cut_short = interrupted(lambda add=replay.add_transition, t=transition: add(*t), place)
        if not cut_short:
            break
        replay.check_invariants()
        replay.add_transition(*transition)
        check_held(replay, transition)
    assert place > 30

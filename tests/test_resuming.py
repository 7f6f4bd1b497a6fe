"""Resumed at every step, a program goes on as one that never stopped: buffers, loaders, Stable-Baselines3's buffers."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest
from driver import Driver
from resuming import check_resume
from snapshot_tools import CODECS, contents, held, make_directory  # noqa: F401
from write_saved import BUFFERS, add_sb3, digest, flat, held_sb3, make_sb3

from diffreplay import ReplayBuffer, make_replay_loader

KINDS = [  # of episodes of several streams, some of which go on side by side
    {"length": 3, "kind": "moving", "start": "first frame", "restarts": 0.0, "style": "dm_env", "end": "terminated"},
    {"length": 3, "kind": "noise", "start": "arbitrary", "restarts": 0.3, "style": "dm_env", "end": "truncated"},
    {"length": 4, "kind": "moving", "start": "zeros", "restarts": 0.2, "style": "gymnasium", "end": "terminated"},
    {"length": 2, "kind": "constant", "start": "first frame", "restarts": 0.0, "style": "gymnasium", "end": "cut off"},
]
PLAN = [episode | {"stream": k % 2, "others": 0.4} for k, episode in enumerate(KINDS)]
LIMITS = {  # channels, options, and how often the episodes come before the steps at which it is resumed
    "new": (1, {"capacity": 100}, 0),
    "capacity": (3, {"capacity": 60, "nstep": 3, "shorter_at_end": True}, 6),
    "cap": (3, {"capacity": 1000, "nstep": 2, "max_bytes": 500_000}, 20),
}


class Recorded(ReplayBuffer):
    """Keeps the calls that add to it, to be made on other buffers."""

    def check_invariants(self):
        """Would take the longest here."""

    def add(self, *arguments):
        self.calls.append(partial(_call, ReplayBuffer.add, arguments))
        super().add(*arguments)

    def add_transition(self, *arguments):
        self.calls.append(partial(_call, ReplayBuffer.add_transition, arguments))
        super().add_transition(*arguments)


def _call(method, arguments, replay):
    method(replay, *arguments)


def recorded(replay, shape, repeats):
    """The calls that came before, and the last 20 or so."""
    replay.calls = []
    driver = Driver(replay, seed=3)
    for episode in PLAN * repeats:
        driver.run(episode)
    before, replay.calls = replay.calls, []
    for episode in PLAN:
        driver.run(episode)
    return before, replay.calls


def all_of_it(replay):
    """What a buffer holds, and what it draws."""
    drawn = [value.numpy().tobytes() for value in replay.sample(8)] if replay.can_sample() else []
    return contents(replay), held(replay), drawn


@pytest.mark.filterwarnings("ignore:a first step came in mid-episode")
@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("codec", CODECS)
def test_a_buffer(codec, limits, directory):
    """Saved to one directory all along, before the first step, too.

    The capacity is one at which each stream that goes on has all that its newest observation needs: else it would begin
    anew once it is loaded.
    """
    channels, options, repeats = LIMITS[limits]
    shape = (channels, 16, 16)
    options = {"observation_shape": (3 * channels, 16, 16), "action_shape": (1,), "action_dtype": "int64"} | options
    before, calls = recorded(Recorded(codec=CODECS[codec](), **options), shape, repeats)

    def make():
        replay = ReplayBuffer(codec=CODECS[codec](), seed=5, **options)
        for call in before:
            call(replay)
        assert (replay.store.tail > 0) == (limits != "new")
        return replay

    def resume(replay):
        replay.save(directory)
        loaded = ReplayBuffer.load(directory, codec=CODECS[codec]() if codec == "many sets" else None)
        loaded.check_invariants()
        return loaded

    def step(call, replay):
        call(replay)
        return all_of_it(replay)

    check_resume(make, [partial(step, call) for call in calls[: 8 if limits == "cap" else None]], resume)


def position(loader):
    batch = next(iter(loader))
    return [value.numpy().tobytes() for value in batch]


@pytest.mark.parametrize(
    "workers", [{"num_workers": 0}, {"num_workers": 2, "threads": True, "persistent_workers": True}], ids=str
)
def test_the_position_of_a_loader(workers):
    replay = ReplayBuffer(100, (3, 16, 16), (1,), action_dtype="int64")
    driver = Driver(replay, seed=0)
    for episode in PLAN:
        driver.run(episode)

    def make():
        return make_replay_loader(replay, batch_size=4, seed=3, **workers)

    def resume(loader):
        loaded = make()
        loaded.load_state_dict(loader.state_dict())
        return loaded

    check_resume(make, [position] * 6, resume)


@pytest.mark.parametrize("case", BUFFERS)
def test_a_pickled_buffer_of_stable_baselines3(case):
    options, filled = BUFFERS[case], BUFFERS[case]["steps"]
    ends = "Rollout" in options.get("kind", "")  # a rollout that is full is forgotten

    def make():
        buffer = make_sb3(options)
        add_sb3(buffer, options, 0, filled - 5 if ends else filled)
        return buffer

    def step(number, buffer):
        if ends and buffer.full:
            buffer.reset()
        add_sb3(buffer, options, filled + number, 1)
        np.random.seed(number)
        return held_sb3(buffer), [] if ends else [digest(value) for value in flat(buffer.sample(4))]

    check_resume(
        make, [partial(step, number) for number in range(12)], lambda buffer: pickle.loads(pickle.dumps(buffer))
    )

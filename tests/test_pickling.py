"""Pickling and copying a buffer: refused in one sentence, but for passing it to other processes."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch

from diffreplay import ReplayBuffer, make_replay_loader
from diffreplay.errors import ReplayError


def filled():
    replay = ReplayBuffer(50, (3, 12, 12), (1,), action_dtype="int64")
    for t in range(20):
        obs, next_obs = (np.full((3, 12, 12), t + k, np.uint8) for k in range(2))
        replay.add_transition(obs, [t], 0.0, next_obs, False, t == 19)
    return replay


class Agent:
    """What a program pickles: with a buffer somewhere inside."""

    def __init__(self, replay):
        self.parts = {"replay": replay, "name": "agent"}


WAYS = {
    "pickle": pickle.dumps,
    "pickle protocol 2": lambda value: pickle.dumps(value, 2),
    "pickle in Python": pickle._dumps,
    "torch.save": lambda value: torch.save(value, io.BytesIO()),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
WHAT = {
    "buffer": lambda replay: replay,
    "subclass": lambda replay: type("Own", (ReplayBuffer,), {})(50, (3, 12, 12), (1,)),
    "store": lambda replay: replay.store,
    "memory": lambda replay: replay.store.arena,
}
HOLDERS = {
    "agent": Agent,
    "list": lambda replay: [1, replay],
    "loader": lambda replay: make_replay_loader(replay, num_workers=0),
}


def check_refused(way, value):
    with pytest.raises(ReplayError, match=r"cannot be pickled or copied.*save\(directory\).*load\(directory\)") as info:
        way(value)
    assert isinstance(info.value, TypeError) and "\n" not in str(info.value)


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("way", WAYS)
def test_is_refused(way, what):
    check_refused(WAYS[way], WHAT[what](filled()))


@pytest.mark.parametrize("what", HOLDERS)
@pytest.mark.parametrize("way", [way for way in WAYS if way != "copy"])
def test_is_refused_inside_of_something_else(way, what):
    check_refused(WAYS[way], HOLDERS[what](filled()))


def test_a_batch_is_pickled_and_copied():
    batch = filled().sample(8)
    for again in (pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch)):
        assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))


def _draw(replay, answer):
    answer.put(replay.sample(8, np.random.default_rng(1)).action.numpy())


def _draw_from(pipe, answer):
    _draw(pipe.recv(), answer)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_other_processes_share_it(method):
    """As an argument of a process, and through a pipe and a queue to one that runs."""
    replay, context = filled(), multiprocessing.get_context(method)
    expected = replay.sample(8, np.random.default_rng(1)).action.numpy()
    ours, theirs = context.Pipe()
    answers = context.Queue()
    processes = [
        context.Process(target=_draw, args=(replay, answers)),
        context.Process(target=_draw_from, args=(theirs, answers)),
    ]
    for process in processes:
        process.start()
    ours.send(replay)
    for _ in processes:
        assert np.array_equal(answers.get(timeout=800), expected)
    for process in processes:
        process.join(100)
        assert process.exitcode == 0


def _held(replay):
    return len(replay)


def test_a_pool_of_processes_shares_it():
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as pool:
        assert pool.submit(_held, filled()).result(timeout=800) == 20

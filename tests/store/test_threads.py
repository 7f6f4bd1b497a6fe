"""Several threads of the writer's process add, save, sample and verify at the same time."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
from snapshot_tools import SIDE, make_directory
from together import run_together

from diffreplay import ReplayBuffer, make_replay_loader
from diffreplay.testing import TimeStep

assert make_directory  # a fixture

THREADS, EPISODE = 4, 25


def picture(stream, number):
    """(SIDE, SIDE) that tells its stream and step."""
    pixels = np.broadcast_to(np.arange(SIDE, dtype=np.uint8) * (stream + 3), (SIDE, SIDE)).copy()
    pixels[0, :4] = stream, number >> 16, number >> 8 & 255, number & 255
    pixels[number % (SIDE - 2) + 1, :] = number % 251
    return pixels


def stack(stream, number, frame_stack=3):
    age = number % EPISODE
    return np.stack([picture(stream, number - min(back, age)) for back in range(frame_stack)][::-1])


def add_steps(replay, stream, count, transitions, start=0):
    """Steps, from the number of an episode's first one on, whose action tells stream and number."""
    for number in range(start, start + count):
        age = number % EPISODE
        if transitions:
            if age:
                ends = age == EPISODE - 1
                obs, next_obs = stack(stream, number - 1), stack(stream, number)
                replay.add_transition(obs, [stream, number], float(number), next_obs, ends, False, stream=stream)
        else:
            step = TimeStep(
                stack(stream, number), np.array([stream, number]), float(number), 1.0, age == 0, age == EPISODE - 1
            )
            replay.add(step, stream)


def check(batch):
    obs, action, reward, _, next_obs = (np.asarray(value) for value in batch)
    for k, (stream, number) in enumerate(action.tolist()):
        assert np.array_equal(next_obs[k], stack(stream, number)), (stream, number)
        assert np.array_equal(obs[k], stack(stream, number - 1)), (stream, number)
        assert reward[k, 0] == number


def make(codec, capacity=100_000):
    return ReplayBuffer(capacity, (3, SIDE, SIDE), (2,), action_dtype="int64", frame_stack=3, codec=codec)


@pytest.mark.parametrize("transitions", [False, True], ids=["add", "add_transition"])
@pytest.mark.parametrize("codec", ["delta", "zstd", "sparse", "raw"])
def test_threads_add_each_to_a_stream_of_its_own(codec, transitions):
    replay, count = make(codec), 1500
    run_together(*(lambda stream=stream: add_steps(replay, stream, count, transitions) for stream in range(THREADS)))
    replay.check_invariants()
    assert len(replay) == THREADS * count // EPISODE * (EPISODE - 1)
    for _ in range(10):
        check(replay.sample(256))


def test_threads_add_while_others_sample_save_and_verify(directory):
    replay, done, failed, loaded = make("zstd", 2000), threading.Event(), threading.Event(), []
    add_steps(replay, THREADS, 100, False)

    def add_to(stream):
        for start in itertools.count(0, 20 * EPISODE):
            add_steps(replay, stream, 20 * EPISODE, stream % 2, start)
            if failed.is_set() or (start >= 2000 and len(loaded) > 3):
                return

    def add():
        try:
            run_together(*(lambda stream=stream: add_to(stream) for stream in range(THREADS)))
        finally:
            done.set()

    def save():
        try:
            while not done.is_set():
                commit = replay.save(directory)
                found = ReplayBuffer.load(directory, commit=commit)
                assert found.verify() == []
                found.check_invariants()
                check(found.sample(64))
                loaded.append(found.store.head)
        except BaseException:
            failed.set()
            raise

    def sample():
        for batch in make_replay_loader(replay, batch_size=64, num_workers=2, threads=True):
            check(batch)
            if done.is_set():
                return

    def verify():
        while not done.is_set():
            assert replay.verify() == []

    run_together(add, save, sample, verify)
    replay.check_invariants()
    assert len(loaded) > 3 and len(set(loaded)) > 1


@pytest.mark.parametrize("pause", [0.001, 0.005, 0.02])
def test_every_commit_that_is_saved_beside_adding_loads(pause, directory):
    """At the pace of slow environments, where a save falls between and into additions."""
    replay, done = make("zstd"), threading.Event()
    add_steps(replay, 1, 50, False)

    def add():
        number = 0
        while not done.is_set():
            age = number % EPISODE
            action = np.array([0, number])
            replay.add(TimeStep(stack(0, number), action, float(number), 1.0, age == 0, age == EPISODE - 1), 0)
            number += 1
            time.sleep(pause)

    def save():
        try:
            for _ in range(15):
                commit = replay.save(directory)
                found = ReplayBuffer.load(directory, commit=commit)
                found.check_invariants()
                check(found.sample(32))
        finally:
            done.set()

    run_together(add, save)


def test_a_save_gets_its_turn_beside_threads_that_add_without_pause(directory):
    """Turns are taken in order: a tight loop of additions does not shut the others out."""
    replay, done = make("raw"), threading.Event()
    frames = [stack(0, number) for number in range(EPISODE)]

    def add(stream):
        while not done.is_set():
            for age, frame in enumerate(frames):
                replay.add(TimeStep(frame, np.array([0, age]), 0.0, 1.0, age == 0, age == EPISODE - 1), stream)

    def save():
        try:
            for _ in range(5):
                start = time.monotonic()
                replay.save(directory)
                assert time.monotonic() - start < 100
        finally:
            done.set()

    run_together(lambda: add(0), lambda: add(1), save)

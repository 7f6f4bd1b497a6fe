"""Readers in processes and threads, while the writer laps a small ring as fast as it can.

A frame's bytes follow from its id, which its first bytes hold, and a frame's row is its id. So a reader alone can
tell a torn, mixed-up or evicted frame.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
from snapshot_tools import RestlessZstd

from diffreplay import ArraySpec, ReplayBuffer
from diffreplay.loading.sampling import reader_of
from diffreplay.store.layout import Counter
from diffreplay.testing import TimeStep

SIDE, EPISODE, FRAME_STACK, NSTEP = 24, 50, 3, 2
NOISE = np.random.default_rng(0).integers(0, 256, (257, SIDE * SIDE), np.uint8)


def frames_of(ids):
    """Frames (N, SIDE * SIDE): noise for some ids, one background with a few other pixels for most."""
    ids = np.asarray(ids, np.int64).reshape(-1)
    frames = np.where((ids % 8 == 7)[:, None], NOISE[ids % 257], NOISE[0])
    frames[:, 40:60] = (ids % 251)[:, None]
    frames[:, :8] = ids.astype("<i8")[:, None].view(np.uint8)
    return frames


def stack_ids(ids):
    """Ids of the frames of observations whose newest frames are `ids`: an episode begins with copies."""
    ids = np.asarray(ids)[:, None] - np.arange(FRAME_STACK)[::-1]
    return np.maximum(ids, ids[:, -1:] // EPISODE * EPISODE)


SEVERAL = {
    "front": ArraySpec((1, SIDE, SIDE)),
    "wrist": ArraySpec((SIDE, SIDE), "uint16", "FHW"),
    "state": ArraySpec((3,), "float64"),
}


def observations_of(ids, several):
    """Observations (N, ...) whose newest frames are `ids`; of several parts a dict, where each part tells the id."""
    stacked = stack_ids(ids)
    frames = frames_of(stacked).reshape(len(stacked), FRAME_STACK, SIDE, SIDE)
    if not several:
        return {"": frames}
    wrist = frames_of(stacked + 100).reshape(frames.shape).astype(np.uint16) * 257
    return {"front": frames, "wrist": wrist, "state": np.repeat(stacked * 0.5, 3, axis=1)}


class Writer:
    """Adds the steps of one endless sequence of episodes."""

    def __init__(self, codec, capacity=400, several=False):
        self.several = several
        shape = SEVERAL if several else (FRAME_STACK, SIDE, SIDE)
        self.replay = ReplayBuffer(
            capacity, shape, (1,), action_dtype="int64", frame_stack=FRAME_STACK, nstep=NSTEP, discount=0.5, codec=codec
        )
        self.written = 0

    def write(self, count):
        ids = np.arange(self.written, self.written + count)
        parts = observations_of(ids, self.several)
        for k, i in enumerate(ids.tolist()):
            t = i % EPISODE
            stack = {name: values[k] for name, values in parts.items()}
            stack = stack if self.several else stack[""]
            self.replay.add(TimeStep(stack, np.array([i]), float(i % 100), 1.0, t == 0, t == EPISODE - 1))
        self.written += count

    def write_for(self, seconds, capacities=0):
        """Write for so long, and until so many times the capacity is written, however slow the machine is."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or self.written < capacities * self.replay.capacity:
            self.write(EPISODE)

    def laps(self):
        """How often the log's ring was written all around."""
        return self.replay.store.counter(Counter.LOG_HEAD) / self.replay.store.layout.log_bytes


def check_batch(replay, rng, size=24):
    """Draw a batch and check every value of it."""
    reader = reader_of(replay)
    oldest = reader.frames.counter(Counter.TAIL)
    batch = reader.sample(size, rng)
    action, reward, discount = batch.action.numpy(), batch.reward.numpy(), batch.discount.numpy()
    step = action[:, 0]
    assert step.min() > oldest, "the window was evicted before it was drawn"
    assert (step % EPISODE >= 1).all() and ((step - 1) // EPISODE == (step - 1 + NSTEP) // EPISODE).all()
    for found, newest in ((batch.obs, step - 1), (batch.next_obs, step - 1 + NSTEP)):
        several = isinstance(found, dict)
        for name, expected in observations_of(newest, several).items():
            values = found[name] if several else found
            assert np.array_equal(values.numpy(), expected), f"torn or mixed-up {name} among {newest.tolist()}"
    assert np.array_equal(reward[:, 0], step % 100 + 0.5 * ((step + 1) % 100))
    assert (discount == 0.25).all()


def read_until_told(replay, seed, connection):
    """Check batches until something comes through the connection, then send how many."""
    rng, count = np.random.default_rng(seed), 0
    try:
        while not connection.poll():
            check_batch(replay, rng)
            count += 1
            if count == 1:
                connection.send("reading")
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
    else:
        connection.send(count)


class Reader:
    """A reader process, and our end of its pipe: there is no lock that a killed one could keep."""

    def __init__(self, method, replay, seed):
        context = multiprocessing.get_context(method)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=read_until_told, args=(replay, seed, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def wait_until_reading(self, writer):
        deadline = time.monotonic() + 200
        while not self.connection.poll():
            assert time.monotonic() < deadline and self.process.is_alive()
            writer.write(EPISODE)
        assert self.connection.recv() == "reading"

    def stop(self):
        """How many batches it checked; a message where one was wrong."""
        self.connection.send("stop")
        assert self.connection.poll(200)
        result = self.connection.recv()
        self.process.join(100)
        return result


@pytest.mark.parametrize(
    ("method", "codec"),
    [
        ("spawn", "delta"),
        ("spawn", "zstd"),
        ("fork", "raw"),
        ("fork", "sparse"),
        ("fork", "delta"),
        ("fork", "many sets"),
        ("spawn", "several parts, delta"),
        ("fork", "several parts, sparse"),
        ("fork", "several parts, many sets"),
    ],
)
def test_processes_read_while_the_ring_is_lapped(method, codec):
    several, codec = codec.startswith("several parts, "), codec.removeprefix("several parts, ")
    writer = Writer(RestlessZstd() if codec == "many sets" else codec, several=several)
    writer.write(20)
    readers = [Reader(method, writer.replay, seed) for seed in range(2)]
    for reader in readers:
        reader.wait_until_reading(writer)
    writer.write_for(1.5, capacities=10)
    counts = [reader.stop() for reader in readers]
    assert all(isinstance(count, int) for count in counts), counts
    writer.replay.check_invariants()


@pytest.mark.parametrize("codec", ["delta", "zstd", "many sets"])
def test_threads_read_while_the_ring_is_lapped(codec):
    writer = Writer(RestlessZstd() if codec == "many sets" else codec)
    writer.write(100)
    stop, counts, errors = threading.Event(), [0] * 3, []

    def read(k):
        rng = np.random.default_rng(k)
        try:
            while not stop.is_set():
                check_batch(writer.replay, rng)
                counts[k] += 1
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=read, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    writer.write_for(1.5, capacities=4)
    while min(counts) == 0 and all(thread.is_alive() for thread in threads):
        time.sleep(0.01)  # one that got no turn yet
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors and min(counts) > 0, (errors, counts)
    writer.replay.check_invariants()


def test_killed_readers_disturb_nobody():
    rng, writer = np.random.default_rng(0), Writer("zstd")
    writer.write(100)
    readers = [Reader("fork", writer.replay, seed) for seed in range(3)]
    survivor = readers[0]
    survivor.wait_until_reading(writer)
    kills, deadline = 0, time.monotonic() + 3
    while time.monotonic() < deadline or kills < 5 or writer.laps() < 1:
        writer.write_for(rng.random() * 0.1)
        which = int(rng.integers(1, 3))
        os.kill(readers[which].process.pid, signal.SIGKILL)
        readers[which].process.join(100)
        assert readers[which].process.exitcode == -signal.SIGKILL
        readers[which] = Reader("fork", writer.replay, kills)
        kills += 1
    counts = [survivor.stop()]
    for reader in readers[1:]:
        reader.wait_until_reading(writer)
        counts.append(reader.stop())
    assert all(isinstance(count, int) for count in counts), counts
    writer.replay.check_invariants()
    check_batch(writer.replay, rng)


def test_a_reader_outlives_the_writer():
    """What the writer leaves behind when it dies, at any moment, can be read."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    go = context.RawValue("i", 0)

    def read_after_death(replay, parent, connection):
        rng = np.random.default_rng(0)
        while os.getppid() == parent:
            check_batch(replay, rng)
        for _ in range(50):
            check_batch(replay, rng)
        connection.send("read on")

    def write_until_killed():
        writer = Writer("zstd")
        writer.write(1000)
        context.Process(target=read_after_death, args=(writer.replay, os.getpid(), theirs)).start()
        go.value = 1
        while True:
            writer.write(EPISODE)

    process = context.Process(target=write_until_killed)
    process.start()
    deadline = time.monotonic() + 100
    while not go.value and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGKILL)
    process.join(100)
    assert ours.poll(200) and ours.recv() == "read on"

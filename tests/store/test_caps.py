"""`max_bytes`: everything that the writer takes counts, and what it leaves is used well."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_tools import record

from benchmarks import recordings
from diffreplay import ArraySpec, ReplayBuffer, codecs
from diffreplay.testing import TimeStep


def step(stack: Any, first: bool) -> TimeStep:
    return TimeStep(stack, np.zeros(1), 0.0, 1.0, first, False)


@pytest.mark.parametrize("codec", codecs.REGISTRY)
def test_all_that_streams_take_counts(codec: str) -> None:
    """Arrays of the writer's own, as Python's allocator counts them, beside what the buffer says."""
    cap, rng = 7_000_000, np.random.default_rng(0)
    replay = ReplayBuffer(10_000, (9, 48, 48), (1,), codec=codec, max_bytes=cap)
    frames = np.repeat(rng.integers(0, 256, (1, 3, 48, 48), np.uint8), 8, axis=0)
    frames[:, 0, 3] = np.arange(8)[:, None]
    stacks = [np.concatenate(frames[np.maximum(np.arange(t - 2, t + 1), 0)]) for t in range(8)]
    tracemalloc.start()
    for t, stack in enumerate(stacks):
        for stream in range(150):
            replay.add(step(stack, first=t == 0), stream)
            assert replay.stats().total_bytes <= cap
    gc.collect()  # also what Python keeps of freed objects
    own = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    store = replay.store
    shared = store.sets[0].page_bytes + store.rows.blocks.allocated + store.rows.log.ring.allocated
    assert own <= replay.stats().total_bytes - shared + 1000 * 150  # Python's objects of 150 streams
    replay.check_invariants()


def steps(episodes: list[np.ndarray], count: int) -> Iterator[TimeStep]:
    """So many steps of episodes (T, C, H, W), over and over, in stacks of three."""
    passed = 0
    while True:
        for frames in episodes:
            for t in range(len(frames)):
                yield step(np.concatenate(frames[np.maximum(np.arange(t - 2, t + 1), 0)]), first=t == 0)
                passed += 1
                if passed == count:
                    return


@pytest.mark.filterwarnings("ignore:a first step came in mid-episode")
def test_a_cap_holds_as_many_frames_as_the_bytes_do_without_one(tmp_path: Path) -> None:
    caps, count = [4_000_000, 6_000_000], 6000
    episodes = recordings.load("walker_walk_gray", record(tmp_path, "walker_walk_gray", frames=300)).episodes
    free = ReplayBuffer(20_000, (3, 84, 84), (1,))
    held = dict.fromkeys(caps, count)
    for passed, time_step in enumerate(steps(episodes, count), 1):
        free.add(time_step)
        for cap in caps:
            if free.stats().total_bytes > cap:
                held[cap] = min(held[cap], passed - 1)
    for cap in caps:
        replay = ReplayBuffer(20_000, (3, 84, 84), (1,), max_bytes=cap)
        for time_step in steps(episodes, count):
            replay.add(time_step)
        assert replay.stats().total_bytes <= cap
        assert replay.stats().frames >= 0.9 * held[cap]
        replay.check_invariants()
        replay.sample(64)


PEAK = """
import gc, sys

from diffreplay import ReplayBuffer
from diffreplay.store.arena import trim_heap
sys.path.insert(0, "tests")
from tests.store.test_caps import steps, still

def memory(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

shape, cap = eval(sys.argv[1]), eval(sys.argv[2])
episodes = [still(shape, 250)]
for max_bytes in (None, cap):  # the first buffer is there to load all code
    replay = None
    gc.collect()
    trim_heap()
    open("/proc/self/clear_refs", "w").write("5")
    before = memory("VmRSS:")
    replay = ReplayBuffer(100_000, (3 * shape[0], *shape[1:]), (1,), max_bytes=max_bytes)
    for time_step in steps(episodes, 2500):
        replay.add(time_step)
print(memory("VmHWM:") - before, replay.stats().reference_bytes)
"""


def still(shape: tuple[int, int, int], count: int) -> np.ndarray:
    """An episode of noise that stands still and a box that moves over it."""
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 256, (1, *shape), np.uint8), count, axis=0)
    for frame in frames:
        y, x = rng.integers(0, shape[1] - 20), rng.integers(0, shape[2] - 20)
        frame[:, y : y + 20, x : x + 20] = rng.integers(0, 256, (shape[0], 20, 20))
    return frames


@pytest.mark.parametrize(("shape", "cap"), [((1, 84, 84), 8_000_000), ((3, 84, 84), 16_000_000)], ids=str)
def test_what_an_add_takes_for_a_moment_stays_within_the_cap(shape: tuple[int, int, int], cap: int) -> None:
    """The most memory that a process ever had, as the system counts it."""
    command = [sys.executable, "-c", PEAK, repr(shape), str(cap)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=800)
    peak, reference_bytes = map(int, done.stdout.split())
    assert reference_bytes > 0
    assert peak <= 1.1 * cap  # Python's own objects are no part of it


@pytest.mark.filterwarnings("ignore:a first step came in mid-episode")
@pytest.mark.parametrize("codec", ["delta", "zstd", "sparse"])
def test_a_cap_holds_with_several_parts(codec: str) -> None:
    """It holds at every step, with sets of each image, with several streams and noise that no longer fits."""
    cap, rng = 6_000_000, np.random.default_rng(0)
    specs = {
        "front": ArraySpec((3, 48, 48)),
        "depth": ArraySpec((64, 64), "uint16", "HW"),
        "state": ArraySpec((50,), "f8"),
    }
    replay = ReplayBuffer(20_000, specs, (1,), frame_stack=1, codec=codec, max_bytes=cap)
    front = still((3, 48, 48), 300)
    depth = still((1, 64, 64), 300).astype(np.uint16)[:, 0] * 200
    sets = 0
    for t in range(4000):
        noise = t > 3000
        observation = {
            "front": rng.integers(0, 256, (3, 48, 48), np.uint8) if noise else front[t % 300],
            "depth": depth[(7 * t) % 300],
            "state": rng.normal(size=50),
        }
        replay.add(step(observation, first=t < 4 or t % 300 < 4), t % 4)
        assert replay.stats().total_bytes <= cap
        sets = max(sets, min(len(its.numbers()) for its in replay.store.sets))
        if t == 3000:
            replay.check_invariants()
            held = replay.stats().frames
    replay.check_invariants()
    replay.sample(32)
    assert held < 3000
    if codec != "sparse":  # which keeps every frame raw where an observation is one
        assert replay.stats().frames < held and sets > 0

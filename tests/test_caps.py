"""`max_bytes`: everything that the writer takes counts, and what it leaves is used well."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from oracle import TimeStep

from diffreplay import ReplayBuffer, codecs


def step(stack: np.ndarray, first: bool) -> TimeStep:
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
    own = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    store = replay.store
    shared = sum(ring.allocated for ring in (store._sets, store._blocks, store._log))
    assert own <= replay.stats().total_bytes - shared + 1000 * 150  # Python's objects of 150 streams
    replay.check_invariants()

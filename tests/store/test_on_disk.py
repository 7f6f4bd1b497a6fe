"""A buffer whose memory is a file on disk."""

from __future__ import annotations

import os

import numpy as np

from diffreplay import ReplayBuffer
from diffreplay.store import Arena


def test_an_arena_on_disk_keeps_what_it_pages_out(tmp_path):
    arena = Arena(1 << 20, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []  # it has no name
    assert os.fstat(arena.fd).st_dev == os.stat(tmp_path).st_dev
    values = arena.array("u1", (1 << 20,), 0)
    values[:] = np.random.default_rng(0).integers(0, 256, 1 << 20)
    expected = values.copy()
    arena.page_out()
    np.testing.assert_array_equal(values, expected)


def test_an_arena_in_memory_pages_nothing_out():
    arena = Arena(1 << 20)
    arena.bytes[:3] = b"abc"
    arena.page_out()
    assert arena.bytes[:3] == b"abc"


def test_a_buffer_on_disk_is_like_any_other(tmp_path):
    class OnDisk(ReplayBuffer):
        memory_directory = tmp_path

    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (301, 3, 16, 16), np.uint8)
    buffers = OnDisk(200, (9, 16, 16), (2,), seed=1), ReplayBuffer(200, (9, 16, 16), (2,), seed=1)
    for t in range(2, 300):  # so that rows are evicted, too
        before, after = (np.concatenate(frames[k - 2 : k + 1]) for k in (t, t + 1))
        for replay in buffers:
            replay.add_transition(before, np.full(2, t), t, after, False, False)
            replay.store.arena.page_out()
    one, other = (replay.sample(64) for replay in buffers)
    assert (
        (one.obs == other.obs).all() and (one.next_obs == other.next_obs).all() and (one.reward == other.reward).all()
    )
    assert buffers[0].stats() == buffers[1].stats()
    buffers[0].check_invariants()
    buffers[0].save(tmp_path / "snapshot")
    assert OnDisk.load(tmp_path / "snapshot").stats() == buffers[0].stats()

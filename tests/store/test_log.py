"""Places in the log: one frame at a time, and many at once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from diffreplay.store.arena import Arena
from diffreplay.store.layout import END, FLAGS, LINK, LOG_EXTENT_BYTES, Image, Layout, Memory
from diffreplay.store.log import Log


def make(frame_bytes=40_000, max_rows=3):
    layout = Layout((Image((frame_bytes, 1, 1)),), 1, max_rows, (END, LINK, FLAGS), ())
    memory = Memory(layout, Arena(layout.nbytes))
    return layout.log_bytes, memory, Log(layout, memory, Arena(layout.nbytes))


def test_no_frame_straddles_the_end_of_the_ring():
    size, _, log = make()
    assert log.place(size - 100, 100) == size - 100
    assert log.place(size - 100, 101) == size
    assert log.place(size, 40_000) == size
    assert log.place(7 * size - 1, 2) == 7 * size


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**7), st.lists(st.integers(0, 40_000), max_size=5))
def test_many_frames_lie_where_each_would(begin, lengths):
    size, memory, log = make()
    coded = [np.full(n, k + 1, np.uint8).tobytes() for k, n in enumerate(lengths)]
    end, ends = begin, []
    for data in coded:
        start = log.place(end, len(data))
        log.write(start, data)
        end = start + len(data)
        ends.append(end)
    if end - begin > size:
        return  # no store has so many at once
    _, other_memory, other = make()
    found = other.place_many(begin, np.array(lengths, np.int64))
    assert found.tolist() == ends
    other.write_many(begin, found, np.array(lengths, np.int64), memoryview(b"".join(coded)))
    assert bytes(other_memory.log) == bytes(memory.log)


def test_the_oldest_frame_begins_at_the_tail_or_where_the_ring_does():
    size, _, log = make()
    log.tail = size - 50
    assert log.start(size - 20) == size - 50
    assert log.start(size + 30) == size  # what lies between is a gap


def test_newest_and_oldest_frames_never_share_an_extent():
    size, _, log = make()
    log.tail = 1000
    assert not log.reaches_round(1000 + size - LOG_EXTENT_BYTES)
    assert log.reaches_round(1001 + size - LOG_EXTENT_BYTES)

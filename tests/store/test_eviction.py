"""Rows, budget and eviction: what is taken, what is counted, and who leaves first."""

from __future__ import annotations

import numpy as np
import pytest

from diffreplay import codecs
from diffreplay.errors import InputError
from diffreplay.store.invariants import check_invariants
from diffreplay.store.layout import LOG_EXTENT_BYTES, Counter
from diffreplay.store.observations import append
from diffreplay.store.writer import FrameStore

SHAPE = (40, 40, 1)


def noise(rng):
    return rng.integers(0, 256, (3, 40, 40, 1), np.uint8)


def make(codec="raw", **options):
    return FrameStore([SHAPE], 3, 500, codecs.get(codec), **options)


def fill(store, count, seed=0):
    """Observations of three new frames each."""
    rng = np.random.default_rng(seed)
    return [append(store, (noise(rng),), first=True) for _ in range(count)]


def test_allocated_bytes_are_what_each_part_says():
    store = make()
    before = store.allocated_bytes()
    assert before == store.layout.header_bytes == store.counter(Counter.ALLOCATED_BYTES)
    fill(store, 20)
    rings = store.rows.blocks.allocated + store.rows.log.ring.allocated
    assert store.rows.blocks.allocated == store.layout.block_bytes
    assert rings == store.layout.block_bytes + -(-60 * 1600 // LOG_EXTENT_BYTES) * LOG_EXTENT_BYTES
    assert (
        store.allocated_bytes()
        == store.layout.header_bytes + rings + 3 * 1600
        == store.counter(Counter.ALLOCATED_BYTES)
    )


@pytest.mark.parametrize("codec", ["raw", "sparse", "zstd", "delta"])
def test_a_cap_that_holds_no_windows_is_refused(codec):
    least = make(codec).budget.least(1)
    with pytest.raises(InputError, match=f"expected at least {least} .*, got {least - 1}"):
        make(codec, max_bytes=least - 1)
    store = make(codec, max_bytes=least)
    fill(store, 300)
    assert store.allocated_bytes() <= least
    assert store.head - store.tail >= 12
    check_invariants(store)


def test_room_is_made_for_what_is_asked_and_no_more():
    store = make(max_bytes=700_000)
    fill(store, 130)
    assert store.tail == 0
    more = 300_000
    store.change(store.make_room, None, more)
    assert store.budget.allows(more) and 0 < store.tail < store.head
    assert not store.budget.allows(more + LOG_EXTENT_BYTES)
    check_invariants(store)


def test_rows_leave_with_what_they_are_coded_against():
    """Of a group of three, one raw and two coded against it, none stays without the raw one."""
    store, rng = make("sparse"), np.random.default_rng(0)
    stack = np.repeat(noise(rng)[:1], 3, 0)
    for t in range(60):
        newest = stack[-1:].copy()
        newest[0, t % 40, :3] += 1
        stack = np.concatenate([stack[1:], newest]) if t else stack
        append(store, (stack,), first=t == 0)
    for row, tail in ((1, 3), (3, 3), (4, 6), (30, 30), (31, 33)):
        store.evict_before(row)
        assert store.tail == tail
        check_invariants(store)


def test_all_may_leave_and_rows_go_on():
    for codec in ("raw", "sparse", "zstd", "delta"):
        store = make(codec)
        fill(store, 30)
        store.evict_before(store.head)
        assert store.tail == store.head == 90 and store.counter(Counter.PAYLOAD_BYTES) == 0
        check_invariants(store)
        assert fill(store, 3, seed=1) == [92, 95, 98]
        check_invariants(store)


def test_unpublished_rows_are_forgotten():
    store = make("sparse")
    fill(store, 5)
    writer, published = store.rows, (store.head, store.rows.log_end(), store.rows.log.tail)
    start = store.eviction.reserve(70)
    writer.write(start, [b"x" * 70], 0, 1, 0, ())
    assert writer.next == store.head + 1
    writer.forget_unpublished()
    assert (writer.next, writer.log_end(), writer.log.tail) == published

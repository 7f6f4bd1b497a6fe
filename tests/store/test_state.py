"""A store's exported state makes another one the same, in memory and in what it does next."""

from __future__ import annotations

import numpy as np
import pytest
from says import says
from snapshot_tools import CODECS, Writer, buffer, contents

from diffreplay.errors import CorruptDataError
from diffreplay.store.index import NO_ROW
from diffreplay.store.layout import LOG_EXTENT_BYTES, Counter
from diffreplay.store.state import (
    StoreState,
    adopt_rows,
    adopt_set,
    begin_adopting,
    export_rows,
    export_state,
    finish_adopting,
    reopen_streams,
)
from diffreplay.store.streams import Stream, Streams


def copy(store, into, run):
    """Take over all of a store in runs of so many rows."""
    state = export_state(store)
    begin_adopting(into, state)
    for number in store.sets[0].numbers():
        adopt_set(into, bytes(store.sets[0].frames(number)), store.sets[0].first_row(number))
    for first in range(store.tail, store.head, run):
        rows = export_rows(store, first, min(first + run, store.head))
        assert len(rows.coded) <= 2 and sum(map(len, rows.coded)) == rows.lengths.sum()
        adopt_rows(into, rows)
    finish_adopting(into, state.head)
    reopen_streams(into, state.next_checks, state.streams)


@pytest.mark.parametrize("run", [1, 37, 5000])
@pytest.mark.parametrize("codec", CODECS)
def test_a_copy_is_the_same_and_goes_on_the_same(codec, run):
    """After the rings have gone round several times, with streams in the middle of episodes."""
    replay = buffer(codec=CODECS[codec](), capacity=90, nstep=2)
    writer = Writer(replay)
    for count in (5, 500, 7):
        writer.add(count)
        twin = buffer(codec=CODECS[codec](), capacity=90, nstep=2)
        copy(replay.store, twin.store, run)
        twin.check_invariants()
        assert contents(twin) == contents(replay)
        rows = np.arange(replay.store.tail, replay.store.head)
        assert np.array_equal(twin.store.locate(rows), replay.store.locate(rows))
        assert twin.stats() == replay.stats()
    Writer(twin, writer.steps).add(150)
    writer.add(150)
    assert contents(twin) == contents(replay) and twin.stats() == replay.stats()


def test_rows_that_are_there_already_are_left_out():
    replay, twin = (buffer(codec=CODECS["zstd"](), capacity=90) for _ in range(2))
    Writer(replay).add(60)
    store, into = replay.store, twin.store
    begin_adopting(into, export_state(store))
    adopt_rows(into, export_rows(store, 0, 40))
    adopt_rows(into, export_rows(store, 25, 50))
    adopt_rows(into, export_rows(store, 10, 45))
    assert into.head == 50
    assert np.array_equal(into.read(np.arange(50)), store.read(np.arange(50)))


def test_more_coded_bytes_than_the_log_holds_are_refused():
    replay = buffer(codec=CODECS["raw"](), capacity=3000)
    Writer(replay).add(2500)
    rows = export_rows(replay.store, 0, replay.store.head)
    small = buffer(codec=CODECS["raw"](), capacity=3000, max_bytes=400_000).store
    begin_adopting(small, StoreState(0, 0, 0, [0], [0], []))
    with pytest.raises(CorruptDataError) as info:
        adopt_rows(small, rows)
    says(info, f"at most {small.layout.log_bytes - LOG_EXTENT_BYTES} bytes", "log")
    assert small.head == small.counter(Counter.PAYLOAD_BYTES) == 0


def test_streams_go_back_to_where_they_were():
    streams = Streams()
    assert streams.mark("a") is None and not streams.is_open("a")
    streams["a"] = Stream((np.zeros((3, 2, 2, 1), np.uint8),), 7, 5, (), 2, True)
    mark = streams.mark("a")
    streams["a"].row, streams["a"].is_open, streams["a"].group_size = 9, False, 0
    streams["b"] = Stream((np.zeros((3, 2, 2, 1), np.uint8),))
    assert streams.open_rows() == []
    assert streams.go_back("a", mark) is streams["a"] and streams.go_back("b", None) is None
    assert (streams["a"].row, streams["a"].group_size, streams.open_rows()) == (7, 2, [7])
    assert list(streams) == ["a"] and Stream(streams["a"].stack).row == NO_ROW

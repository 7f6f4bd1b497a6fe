"""Rows by number: across blocks, and round the ring many times."""

from __future__ import annotations

import numpy as np
import pytest

from diffreplay.store.arena import Arena
from diffreplay.store.index import Index, OverrunError
from diffreplay.store.layout import BLOCK_ROWS, END, FLAGS, LINK, REFERENCE, Column, Flag, Layout, Memory

ACTION = Column("action", "<f4", (2,))


def make(index=(END, LINK, FLAGS, REFERENCE), max_rows=2 * BLOCK_ROWS):
    layout = Layout((4, 4, 1), 3, max_rows, index, (ACTION,), 0)
    return layout, Index(layout, Memory(layout, Arena(layout.nbytes)))


def test_every_value_comes_back_at_any_turn_of_the_ring():
    layout, index = make()
    rng, kept, log_end = np.random.default_rng(0), {}, 0
    for row in range(3 * layout.blocks * BLOCK_ROWS):
        nbytes = int(rng.integers(0, 17))
        values = {"link": row % 1000, "flags": row % 128, "reference": row % 777, "action": (row, -row)}
        index.write(row, log_end, log_end + nbytes, row % 1000, row % 128, row % 777, (np.array(values["action"]),))
        log_end += nbytes
        kept[row] = values | {"end": log_end, "nbytes": nbytes}
        kept.pop(row - layout.max_rows, None)
        if row % 911 == 0:
            rows = rng.permutation(list(kept))[:50]
            for name in ("link", "flags", "reference"):
                assert index.get(name, rows).tolist() == [kept[r][name] for r in rows]
            assert index.get("action", rows).tolist() == [list(map(float, kept[r]["action"])) for r in rows]
            first, end = min(kept), max(kept) + 1
            assert index.run("link", first, end).tolist() == [kept[r]["link"] for r in range(first, end)]
            assert index.run("action", first, end)[:, 0].tolist() == list(range(first, end))
            assert [index.end(int(r)) for r in rows] == [kept[r]["end"] for r in rows]
            assert index.value("reference", int(rows[0])) == kept[rows[0]]["reference"]
            assert index.locate(rows)[1].tolist() == [kept[r]["nbytes"] for r in rows]


def test_filling_many_rows_is_writing_each():
    (_, one), (_, many) = make(), make()
    ends = np.cumsum(np.arange(3 * BLOCK_ROWS) % 17)
    columns = {"link": np.arange(len(ends)) % 99, "flags": np.arange(len(ends)) % 5}
    first, before = 5 * BLOCK_ROWS - 3, 0
    for begin, end in ((0, 7), (7, 2000), (2000, len(ends))):
        log_end = int(ends[begin - 1]) if begin else 0
        many.fill(first + begin, log_end, ends[begin:end], {name: v[begin:end] for name, v in columns.items()})
    for k, end in enumerate(ends.tolist()):
        one.write(first + k, before, end, k % 99, k % 5, 0, (np.zeros(2),))
        before = end
    rows = np.arange(first + BLOCK_ROWS, first + len(ends))
    assert np.array_equal(one.spans(rows), many.spans(rows))
    assert all(np.array_equal(one.get(name, rows), many.get(name, rows)) for name in ("link", "flags"))


def test_writing_a_column_and_a_flag_touches_no_other_row():
    _, index = make()
    for row in range(5):
        index.write(row, 0, 0, 1, Flag.CONTEXT, 0, (np.zeros(2),))
    index.put("link", np.array([1, 3]), [7, 8])
    index.add_flag(2, Flag.STARTS)
    assert index.get("link", np.arange(5)).tolist() == [1, 7, 1, 8, 1]
    assert index.get("flags", np.arange(5)).tolist() == [4, 4, 4 | Flag.STARTS, 4, 4]


def test_an_index_without_reference_frames_has_no_place_for_them():
    _, index = make((END, LINK, FLAGS))
    index.write(0, 0, 5, 1, 0, 3, (np.zeros(2),))
    with pytest.raises(KeyError):
        index.get("reference", np.arange(1))


def test_lengths_that_no_frame_has_are_an_overrun():
    _, index = make()
    index.write(0, 0, 5, 1, 0, 0, (np.zeros(2),))
    index.write(1, 0, 5 + 17, 1, 0, 0, (np.zeros(2),))
    with pytest.raises(OverrunError):
        index.locate(np.arange(2))

"""Rows by number: across blocks, and round the ring many times."""

from __future__ import annotations

import numpy as np
import pytest

from diffreplay.errors import CorruptDataError
from diffreplay.store.arena import Arena
from diffreplay.store.index import Index, OverrunError
from diffreplay.store.layout import (
    BLOCK_ROWS,
    END,
    FLAGS,
    LINK,
    NO_SET,
    RANGES,
    REFERENCE,
    Column,
    Flag,
    Image,
    Layout,
    Memory,
    end_columns,
)
from diffreplay.store.log import Log

ACTION = Column("action", "<f4", (2,))


def make(index=(END, LINK, FLAGS, REFERENCE), max_rows=2 * BLOCK_ROWS):
    layout = Layout((Image((4, 4, 1)),), 3, max_rows, index, (ACTION,))
    return layout, Index(layout, Memory(layout, Arena(layout.nbytes)))


def test_every_value_comes_back_at_any_turn_of_the_ring():
    layout, index = make()
    rng, kept, log_end = np.random.default_rng(0), {}, 0
    for row in range(3 * layout.blocks * BLOCK_ROWS):
        nbytes = int(rng.integers(0, 17))
        values = {"link": row % 1000, "flags": row % 128, "reference": row % 777, "action": (row, -row)}
        index.write(row, log_end, [log_end + nbytes], row % 1000, row % 128, row % 777, (np.array(values["action"]),))
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
            assert index.locate(rows, 0)[1].tolist() == [kept[r]["nbytes"] for r in rows]


def test_filling_many_rows_is_writing_each():
    (_, one), (_, many) = make(), make()
    ends = np.cumsum(np.arange(3 * BLOCK_ROWS) % 17)
    columns = {"link": np.arange(len(ends)) % 99, "flags": np.arange(len(ends)) % 5}
    slots = np.arange(len(ends)) // 300 % 5
    first, before = 5 * BLOCK_ROWS - 3, 0
    for begin, end in ((0, 7), (7, 2000), (2000, len(ends))):
        log_end = int(ends[begin - 1]) if begin else 0
        some = {name: v[begin:end] for name, v in columns.items()}
        many.fill(first + begin, log_end, ends[begin:end, None], slots[begin:end, None], some)
    for k, end in enumerate(ends.tolist()):
        one.begin_range(first + k, 0, int(slots[k]))
        one.write(first + k, before, [end], k % 99, k % 5, 0, (np.zeros(2),))
        before = end
    rows = np.arange(first + BLOCK_ROWS, first + len(ends))
    assert np.array_equal(one.spans(rows), many.spans(rows))
    assert np.array_equal(one.slots(rows, 0), many.slots(rows, 0))
    assert np.array_equal(one.slots(rows, 0), slots[BLOCK_ROWS:])
    assert all(np.array_equal(one.get(name, rows), many.get(name, rows)) for name in ("link", "flags"))


def test_writing_a_column_and_a_flag_touches_no_other_row():
    _, index = make()
    for row in range(5):
        index.write(row, 0, [0], 1, Flag.CONTEXT, 0, (np.zeros(2),))
    index.put("link", np.array([1, 3]), [7, 8])
    index.add_flag(2, Flag.STARTS)
    assert index.get("link", np.arange(5)).tolist() == [1, 7, 1, 8, 1]
    assert index.get("flags", np.arange(5)).tolist() == [4, 4, 4 | Flag.STARTS, 4, 4]


def test_an_index_without_reference_frames_has_no_place_for_them():
    _, index = make((END, LINK, FLAGS))
    index.write(0, 0, [5], 1, 0, 3, (np.zeros(2),))
    with pytest.raises(KeyError):
        index.get("reference", np.arange(1))


def test_lengths_that_no_frame_has_are_an_overrun():
    _, index = make()
    index.write(0, 0, [5], 1, 0, 0, (np.zeros(2),))
    index.write(1, 0, [5 + 17], 1, 0, 0, (np.zeros(2),))
    with pytest.raises(OverrunError):
        index.locate(np.arange(2), 0)


def test_frames_of_several_images_lie_one_after_the_other():
    """Each where the one before it ends; all of a row at the ring's start where they would straddle its end."""
    images, ends = (Image((4, 4, 1)), Image((2, 2, 1)), Image((1, 1, 3))), end_columns(3, 23)
    layout = Layout(images, 1, 20_000, (*ends, LINK, FLAGS), ())
    memory = Memory(layout, Arena(layout.nbytes))
    index, log = Index(layout, memory), Log(layout, memory, Arena(layout.nbytes))
    rng, log_end, kept = np.random.default_rng(0), 0, []
    for row in range(80_000):
        sizes = [int(rng.integers(0, image.frame_bytes + 1)) for image in images]
        start = log.place(log_end, sum(sizes))
        places = start + np.cumsum(sizes)
        index.write(row, log_end, places.tolist(), 1, 0, 0, ())
        kept.append([start, *places.tolist()])
        log_end = int(places[-1])
    assert log_end > 1.2 * layout.log_bytes > 0, "goes round"
    rows = np.arange(65_000, 80_000)
    for image in range(3):
        start, length = index.locate(rows, image)
        begin, end = (np.array([kept[row][image + k] for row in rows]) for k in (0, 1))
        assert np.array_equal(start, begin % layout.log_bytes) and np.array_equal(length, end - begin)
    start, end = index.spans(rows)
    assert np.array_equal(start, [kept[row][0] for row in rows]) and np.array_equal(end, [kept[r][3] for r in rows])


def test_ranges_of_sets():
    """Rows have the set that was begun last before them; what was begun for rows that then were not written is gone."""
    layout, index = make()
    rows = np.arange(4 * BLOCK_ROWS)
    wanted = np.full(len(rows), NO_SET)
    for row, slot in ((0, NO_SET), (5, 1), (900, 2), (700, 3), (700, 4), (BLOCK_ROWS, 4), (BLOCK_ROWS + 9, 5)):
        index.begin_range(row, 0, slot)
        wanted[row : (row // BLOCK_ROWS + 1) * BLOCK_ROWS] = slot
    assert np.array_equal(index.slots(rows[: 2 * BLOCK_ROWS], 0), wanted[: 2 * BLOCK_ROWS])
    first = 2 * BLOCK_ROWS
    for k in range(RANGES):
        assert index.has_range(first + k)
        index.begin_range(first + k, 0, k)
    assert not index.has_range(first + RANGES) and index.has_range(first + BLOCK_ROWS)
    index.begin_range(first + RANGES, 0, RANGES - 1)  # that is no other one
    with pytest.raises(CorruptDataError):
        index.begin_range(first + RANGES, 0, 60)
    index.begin_range(first + layout.blocks * BLOCK_ROWS, 0, 7)
    assert set(index.slots(first + layout.blocks * BLOCK_ROWS + np.arange(BLOCK_ROWS), 0).tolist()) == {7}

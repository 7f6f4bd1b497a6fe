"""Reference sets: which serves which rows, what they take, and when they may be believed."""

from __future__ import annotations

import numpy as np
import pytest

from diffreplay import codecs
from diffreplay.store.arena import PAGE, Arena
from diffreplay.store.index import NO_ROW, Index, OverrunError
from diffreplay.store.layout import END, FLAGS, LINK, SET_SLOTS, Image, Layout, Memory
from diffreplay.store.sets import ReferenceSets, SetWriter

SHAPE, NBYTES = (8, 8, 1), 64


def make():
    codec = codecs.ZstdCodec(set_frames=4)
    layout = Layout((Image(SHAPE, 4 * NBYTES),), 3, 1000, (END, LINK, FLAGS), ())
    arena = Arena(layout.nbytes)
    memory = Memory(layout, arena)
    index = Index(layout, memory)
    return codec, index, SetWriter(layout, memory, index, 0, arena, codec), ReferenceSets(layout, memory, index, 0)


def frames(k, count=2):
    return np.full(count * NBYTES, k, np.uint8).tobytes()


def test_readers_find_each_row_its_set():
    _, index, writer, reader = make()
    index.begin_range(0, 0, writer.coding_slot)
    assert reader.serving(np.array([5])) == NO_ROW
    for number, first_row in enumerate((10, 20, 35)):
        writer.add(frames(number), first_row)
        index.begin_range(first_row, 0, number)
    assert list(reader.numbers()) == [0, 1, 2]
    rows = np.array([9, 10, 19, 20, 34, 35, 99])
    assert reader.serving(rows).tolist() == [-1, 0, 0, 1, 1, 2, 2]
    starts, nbytes = reader.locate(rows)
    assert starts.tolist() == [0] + [PAGE * number for number in (0, 0, 1, 1, 2, 2)]
    assert nbytes.tolist() == [0] + [2 * NBYTES] * 6
    assert [bytes(reader.frames(number)) for number in range(3)] == [frames(0), frames(1), frames(2)]
    rows = np.array([36, 5, 20, 10, 19, 35, 22])
    parts = {number: rows[places].tolist() for number, places in reader.split(rows, np.arange(len(rows)))}
    assert parts == {-1: [5], 0: [10, 19], 1: [20, 22], 2: [35, 36]}


def test_slots_are_used_again_and_bytes_counted():
    _, _, writer, reader = make()
    for number in range(3 * SET_SLOTS):
        if writer.is_full:
            oldest = writer.oldest_serving(10 * number - 20)
            writer.drop_before(oldest)
            writer.ring.release(oldest)
        writer.add(frames(number % 251, 1 + number % 4), 10 * number)
        live = reader.numbers()
        assert writer.nbytes == sum(len(reader.frames(n)) for n in live)
        assert writer.page_bytes == writer.nbytes + len(live) * PAGE
        assert bytes(reader.frames(number)) == frames(number % 251, 1 + number % 4)
    assert reader.numbers().start == 2 * SET_SLOTS + SET_SLOTS - len(reader.numbers())


def test_a_set_that_was_given_up_meanwhile_is_not_opened():
    codec, _, writer, reader = make()
    for number in range(3):
        writer.add(frames(number), 10 * number)
    opened = reader.opened(1, codec)
    assert reader.opened(1, codec) is opened
    writer.drop_before(2)
    with pytest.raises(OverrunError):
        ReferenceSets.opened(reader, 0, codec)
    assert reader.opened(2, codec) is not opened


def test_coding_goes_on_with_the_newest_set():
    codec, _, writer, _ = make()
    assert writer.coding_set == NO_ROW
    writer.add(frames(3), 0)
    writer.code_against_newest(codec)
    assert writer.coding_set == 0 and writer.opened(0, codec) is writer.reference
    writer.add(frames(4), 7)
    writer.code_against_newest(codec)
    assert writer.coding_set == 1 and writer.opened(0, codec) is not writer.opened(1, codec)


def test_the_newest_set_stays_for_rows_to_come():
    _, _, writer, _ = make()
    assert writer.oldest_serving(1000) == 0
    for number in range(3):
        writer.add(frames(number), 10 * number)
    assert [writer.oldest_serving(row) for row in (0, 9, 10, 19, 20, 500)] == [0, 0, 1, 1, 2, 2]

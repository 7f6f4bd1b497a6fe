"""The whole state of a store, as it leaves one and comes into another: for snapshots and for pickles.

Everything stays coded. Rows leave in runs that their reader may check by a checksum of their parts; they come into an
empty store of the same layout, each to the place it had: what is evicted when depends on the places. `begin_adopting`,
then `adopt_set` and `adopt_rows` in order, then `finish_adopting` and `reopen_streams`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Buffer
from diffreplay.errors import CorruptDataError
from diffreplay.store.layout import BLOCK_ROWS, END, LOG_EXTENT_BYTES, Counter
from diffreplay.store.recount import count_transitions
from diffreplay.store.streams import Stream
from diffreplay.store.writer import FrameStore


class StoreState(NamedTuple):
    """All of a store but its rows and reference sets.

    It stands in pickles: fields are added at the end, with a default.

    Attributes:
        tail, head: the rows that it holds.
        log_tail: where in the log the oldest one begins.
        first_set: number of the oldest reference set.
        next_check: rows written when the planner is asked next.
        streams: of each stream its name, its newest row, whether its episode goes on, and its reference frame's row and
            group size.
    """

    tail: int
    head: int
    log_tail: int
    first_set: int
    next_check: int
    streams: list[tuple[Any, int, bool, int, int]]


class StoredRows(NamedTuple):
    """A run of rows.

    Attributes:
        first: the first row.
        columns: values of each column but `end`.
        lengths: (N,) uint32, coded bytes of each.
        coded: the coded frames, end to end, in one part or several; views of the store that they leave.
    """

    first: int
    columns: dict[str, NDArray[Any]]
    lengths: NDArray[np.uint32]
    coded: list[Buffer]


def export_state(store: FrameStore) -> StoreState:
    """What `begin_adopting` and `reopen_streams` need, between two changes."""
    return StoreState(
        store.tail,
        store.head,
        store.rows.log.tail % store.layout.log_bytes,
        store.sets.numbers().start,
        store.planner.next_check,
        [
            (name, stream.row, stream.is_open, stream.reference_row, stream.group_size)
            for name, stream in store.streams.items()
        ],
    )


def export_rows(store: FrameStore, first: int, end: int) -> StoredRows:
    """Rows [first, end) as they lie in memory."""
    rows = np.arange(first, end)
    start, length = store.locate(rows)
    columns = {
        column.name: store.column(column.name, rows)
        for column in store.layout.index + store.layout.scalars
        if column is not END
    }
    breaks = np.flatnonzero(start[1:] != (start + length)[:-1]) + 1  # where the ring begins anew
    parts = [(part[0], part[-1]) for part in np.split(np.arange(len(rows)), breaks) if len(part)]
    log = store.memory.log
    coded: list[Buffer] = [log[int(start[a]) : int(start[b] + length[b])] for a, b in parts]
    return StoredRows(first, columns, length.astype(np.uint32), coded)


def begin_adopting(store: FrameStore, state: StoreState) -> None:
    """Have an empty store go on from where the state's first row is, as if all before were evicted."""
    row, log_tail = state.tail, state.log_tail % store.layout.log_bytes
    counters, rows = store.memory.counters, store.rows
    for which in (Counter.HEAD, Counter.TAIL, Counter.FREED):
        counters[which] = rows.next = row
    counters[Counter.LOG_HEAD] = rows.log.tail = log_tail
    rows.log.ring.first = rows.log.ring.end = log_tail // LOG_EXTENT_BYTES
    rows.blocks.first = rows.blocks.end = row // BLOCK_ROWS
    if row % BLOCK_ROWS:  # the block has begun; the end of the row before is 0 as in all new memory
        rows.blocks.end += 1
        store.index.begin_block(row, log_tail)
    store.sets.begin_at(state.first_set)


def adopt_set(store: FrameStore, frames: Buffer, first_row: int) -> None:
    """Store the reference set that follows the ones before, for the rows from `first_row` on."""
    store.sets.add(frames, first_row)


def adopt_rows(store: FrameStore, rows: StoredRows) -> None:
    """Store rows that follow the ones before, leaving out those that are there already.

    Raises:
        CorruptDataError: rows before them are missing, or they are more than the log holds.
    """
    if rows.first > store.head:
        raise CorruptDataError(f"expected rows from row {store.head} on, got rows from row {rows.first} on")
    skip = store.head - rows.first
    lengths = rows.lengths[skip:].astype(np.int64)
    if not len(lengths):
        return
    writer, counters = store.rows, store.memory.counters
    coded = memoryview(rows.coded[0] if len(rows.coded) == 1 else b"".join(rows.coded))
    coded = coded[int(rows.lengths[:skip].sum(dtype=np.int64)) :]
    log_end = writer.log_end()
    ends = writer.log.place_many(log_end, lengths)
    if writer.log.reaches_round(int(ends[-1])):
        room = store.layout.log_bytes - LOG_EXTENT_BYTES
        raise CorruptDataError(f"expected coded frames of at most {room} bytes, which the log has room for, got more")
    writer.log.write_many(log_end, ends, lengths, coded)
    writer.index.fill(writer.next, log_end, ends, {name: values[skip:] for name, values in rows.columns.items()})
    writer.next += len(lengths)
    writer.blocks.end = -(-writer.next // BLOCK_ROWS)
    writer.log.ring.end = max(writer.log.ring.end, -(-int(ends[-1]) // LOG_EXTENT_BYTES))
    counters[Counter.LOG_HEAD] = int(ends[-1])
    counters[Counter.PAYLOAD_BYTES] += len(coded)
    counters[Counter.HEAD] = writer.next


def finish_adopting(store: FrameStore, head: int) -> None:
    """After the last row, `head` - 1: count transitions, code against the newest set, and evict what is over the cap.

    Raises:
        CorruptDataError: rows are missing.
    """
    if store.head != head:
        raise CorruptDataError(f"expected rows up to row {head}, got rows up to row {store.head}")
    if store.sets.numbers():
        store.sets.code_against_newest(store.codec)
    count_transitions(store)
    store.make_room(0)
    store.budget.publish()


def reopen_streams(store: FrameStore, next_check: int, streams: list[tuple[Any, int, bool, int, int]]) -> None:
    """Have the planner and the streams of a state go on; a stream begins anew if its observation is not whole."""
    store.planner.next_check = next_check
    for stream in streams:
        _reopen(store, *stream)
    store.find_ends()


def _reopen(store: FrameStore, name: Any, row: int, is_open: bool, reference_row: int, group_size: int) -> None:
    """It begins anew, too, where a cap that was set before reference frames counted leaves no room for it."""
    stack = store.readable_stack(row)
    if (stack is None and not is_open) or not store.budget.holds(len(store.streams) + 1):
        return
    stream = store.open_stream(name)
    stream.is_open = is_open
    if stack is None:
        return
    np.copyto(stream.stack, stack)
    stream.row, stream.needed = row, store.needed_rows(row)
    if store.tail <= reference_row < store.head and len(store.present(np.array([reference_row]))):
        stream.reference, stream.reference_row = store.read(np.array([reference_row]))[0], reference_row
        stream.group_size = group_size


def adopt_pages(
    store: FrameStore, rings: list[tuple[int, int]], log_tail: int, streams: dict[Any, Stream], next_check: int
) -> None:
    """Go on with what a pickle of an earlier version has put into an empty store's arena, page by page.

    Args:
        store: whose arena that is.
        rings: extents [first, end) of the rings of sets, row blocks and log.
        log_tail: where in the log the oldest row begins.
        streams: by name.
        next_check: rows written when the planner is asked next.
    """
    writer = store.rows
    for ring, (first, end) in zip((store.sets.ring, writer.blocks, writer.log.ring), rings, strict=True):
        ring.first, ring.end = first, end
    writer.log.tail, writer.next = log_tail, store.head
    store.streams.update(streams)
    store.planner.next_check = next_check
    if store.sets.numbers():
        store.sets.code_against_newest(store.codec)
    store.budget.publish()

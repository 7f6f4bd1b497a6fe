"""The whole state of a store, as it leaves one and comes into another: for snapshots and for pickles.

Everything stays coded. Rows leave in runs that their reader may check by a checksum of their parts; they come into an
empty store of the same layout, each to the place it had: what is evicted when depends on the places. `begin_adopting`,
then `adopt_set` and `adopt_rows` in order, then `finish_adopting` and `reopen_streams`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Buffer
from diffreplay.errors import CorruptDataError
from diffreplay.store.index import NO_ROW, Rows
from diffreplay.store.layout import BLOCK_ROWS, LOG_EXTENT_BYTES, NO_SET, SET_SLOTS, VERSION, Counter
from diffreplay.store.recount import count_transitions
from diffreplay.store.streams import Stack, Stream
from diffreplay.store.writer import FrameStore


class StoreState(NamedTuple):
    """All of a store but its rows and reference sets.

    It stands in pickles: fields are added at the end, with a default.

    Attributes:
        tail, head: the rows that it holds.
        log_tail: where in the log the oldest one begins.
        first_sets: number of the oldest reference set of each image.
        next_checks: rows written when the planner of each image is asked next.
        streams: of each stream its name, its newest row, whether its episode goes on, and the row of its reference
            frames and their group's size.
        ranges: for each image, what the block of the oldest row says of the sets of rows before it: how many more it
            may tell follows from that.
    """

    tail: int
    head: int
    log_tail: int
    first_sets: list[int]
    next_checks: list[int]
    streams: list[tuple[Any, int, bool, int, int]]
    ranges: list[list[tuple[int, int]]] | None = None


class StoredRows(NamedTuple):
    """A run of rows.

    Attributes:
        first: the first row.
        columns: values of each column but those of ends.
        lengths: (N, images) uint32, coded bytes of each frame.
        coded: the coded frames, end to end, in one part or several; views of the store that they leave.
        sets: (N, images) int64, numbers of the reference sets, NO_ROW for none; None where each serves the rows
            up to the next one's first, as in version 1.
    """

    first: int
    columns: dict[str, NDArray[Any]]
    lengths: NDArray[np.uint32]
    coded: list[Buffer]
    sets: NDArray[np.int64] | None = None

    @property
    def named(self) -> NDArray[np.int64]:
        """`sets`, of rows that tell them; else none for each."""
        return np.full(self.lengths.shape, NO_ROW) if self.sets is None else self.sets


def export_state(store: FrameStore) -> StoreState:
    """What `begin_adopting` and `reopen_streams` need, between two changes."""
    return StoreState(
        store.tail,
        store.head,
        store.rows.log.tail % store.layout.log_bytes,
        [sets.numbers().start for sets in store.sets],
        [planner.next_check for planner in store.planning.planners],
        [
            (name, stream.row, stream.is_open, stream.reference_row, stream.group_size)
            for name, stream in store.streams.items()
        ],
        [store.index.ranges_before(store.tail, image) for image in range(len(store.layout.images))],
    )


def export_rows(store: FrameStore, first: int, end: int) -> StoredRows:
    """Rows [first, end) as they lie in memory."""
    rows, layout = np.arange(first, end), store.layout
    columns = {
        column.name: store.column(column.name, rows) for column in layout.columns if column.name not in layout.ends
    }
    images = range(len(layout.images))
    lengths = _side_by_side([store.lengths(rows, image) for image in images], len(rows)).astype(np.uint32)
    sets = _side_by_side([sets.serving(rows) for sets in store.sets], len(rows))
    begins, ends = store.index.spans(rows)
    start, length = begins % layout.log_bytes, ends - begins
    breaks = np.flatnonzero(start[1:] != (start + length)[:-1]) + 1  # where the ring begins anew
    parts = [(part[0], part[-1]) for part in np.split(np.arange(len(rows)), breaks) if len(part)]
    log = store.memory.log
    coded: list[Buffer] = [log[int(start[a]) : int(start[b] + length[b])] for a, b in parts]
    return StoredRows(first, columns, lengths, coded, sets)


def _side_by_side(columns: Sequence[NDArray[np.int64]], count: int) -> NDArray[np.int64]:
    """(count, N) of N arrays (count,)."""
    return np.stack(columns, axis=1) if columns else np.empty((count, 0), np.int64)


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
        ranges: list[list[tuple[int, int]]] = [[] for _ in store.layout.images]
        store.index.begin_block(row, log_tail, state.ranges or ranges)
    for sets, first in zip(store.sets, state.first_sets, strict=True):
        sets.begin_at(first)


def adopt_set(store: FrameStore, frames: Buffer, first_row: int, image: int = 0) -> None:
    """Store the reference set of an image that follows the ones before, for the rows from `first_row` on."""
    store.sets[image].add(frames, first_row)


def serving_by_first_row(store: FrameStore, rows: Rows) -> NDArray[np.int64]:
    """(N, images) numbers of the sets that rows are coded against, if each serves those up to the next one's first."""
    found = []
    for sets in store.sets:
        numbers = sets.numbers()
        firsts = np.array([sets.first_row(number) for number in numbers], np.int64)
        which = np.searchsorted(firsts, rows, side="right")
        found.append(np.array([NO_ROW, *numbers], np.int64)[which])
    return _side_by_side(found, len(rows))


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
    writer, counters, totals = store.rows, store.memory.counters, lengths.sum(axis=1)
    coded = memoryview(rows.coded[0] if len(rows.coded) == 1 else b"".join(rows.coded))
    coded = coded[int(rows.lengths[:skip].sum(dtype=np.int64)) :]
    log_end = writer.log_end()
    ends = writer.log.place_many(log_end, totals)
    if writer.log.reaches_round(int(ends[-1])):
        room = store.layout.log_bytes - LOG_EXTENT_BYTES
        raise CorruptDataError(f"expected coded frames of at most {room} bytes, which the log has room for, got more")
    sets = _named_sets(store, rows, skip)
    writer.log.write_many(log_end, ends, totals, coded)
    slots = np.where(sets == NO_ROW, NO_SET, sets % SET_SLOTS)
    image_ends = (ends - totals)[:, None] + np.cumsum(lengths, axis=1) if lengths.shape[1] else ends[:, None]
    columns = {name: values[skip:] for name, values in rows.columns.items()}
    writer.index.fill(writer.next, log_end, image_ends, slots, columns)
    writer.next += len(lengths)
    writer.blocks.end = -(-writer.next // BLOCK_ROWS)
    writer.log.ring.end = max(writer.log.ring.end, -(-int(ends[-1]) // LOG_EXTENT_BYTES))
    counters[Counter.LOG_HEAD] = int(ends[-1])
    counters[Counter.PAYLOAD_BYTES] += len(coded)
    for its, numbers in zip(store.sets, sets.T, strict=True):
        its.note_rows(numbers, store.head)
    counters[Counter.HEAD] = writer.next


def _named_sets(store: FrameStore, rows: StoredRows, skip: int) -> NDArray[np.int64]:
    """(N, images) numbers of the sets that the rows after the first `skip` are coded against.

    Raises:
        CorruptDataError: there are no such sets, or only for later rows.
    """
    numbers = np.arange(rows.first + skip, rows.first + len(rows.lengths))
    if rows.sets is None:
        return serving_by_first_row(store, numbers)
    sets = rows.sets[skip:]
    for its, named in zip(store.sets, sets.T, strict=True):
        known = its.numbers()
        firsts = np.array([its.first_row(number) for number in known] or [0], np.int64)
        if not its.holds(named).all() or np.any(
            (named != NO_ROW) & (firsts[np.maximum(named - known.start, 0)] > numbers)
        ):
            raise CorruptDataError(f"expected rows from row {numbers[0]} on to be coded against sets from before them")
    return sets


def finish_adopting(store: FrameStore, head: int) -> None:
    """After the last row, `head` - 1: count transitions, code against the newest set, and evict what is over the cap.

    Raises:
        CorruptDataError: rows are missing.
    """
    if store.head != head:
        raise CorruptDataError(f"expected rows up to row {head}, got rows up to row {store.head}")
    store.code_against_newest()
    count_transitions(store)
    store.make_room(0)
    store.budget.publish()


def reopen_streams(
    store: FrameStore, next_checks: Sequence[int], streams: list[tuple[Any, int, bool, int, int]]
) -> None:
    """Have the planners and the streams of a state go on; a stream begins anew if its observation is not whole."""
    store.planning.check_next(next_checks)
    for stream in streams:
        _reopen(store, *stream)
    store.find_ends()


def _reopen(store: FrameStore, name: Any, row: int, is_open: bool, reference_row: int, group_size: int) -> None:
    """It begins anew, too, where a cap that was set before reference frames counted leaves no room for it."""
    stack = store.readable_stack(row)
    if (stack is None and not is_open) or not store.budget.holds(len(store.streams) + 1):
        return
    stream = store.open_stream(name, _zeros(store) if stack is None else stack)
    stream.is_open = is_open
    if stack is None:
        return
    stream.row, stream.needed = row, store.needed_rows(row)
    if store.tail <= reference_row < store.head and len(store.present(np.array([reference_row]))):
        images = range(len(store.codings))
        stream.references = [store.read(np.array([reference_row]), image)[0] for image in images]
        stream.reference_row, stream.group_size = reference_row, group_size


def _zeros(store: FrameStore) -> Stack:
    """An observation of zeros."""
    layout = store.layout
    frames = []
    for image, planar in zip(layout.images, store.planar, strict=True):
        height, width, channels = image.frame_shape
        shape = (channels, height, width) if planar else image.frame_shape
        frames.append(np.zeros((layout.frame_stack, *shape), np.uint8))
    columns = layout.scalars[: layout.stacked]
    return (*frames, *(np.zeros((layout.frame_stack, *column.shape), column.dtype) for column in columns))


def adopt_pages(
    store: FrameStore, rings: list[tuple[int, int]], log_tail: int, streams: dict[Any, Any], next_check: int
) -> None:
    """Go on with what a pickle of format version 1 has put into an empty store's arena, page by page.

    It is what version 2 is for one image, but for where the header counts sets, and that rows tell nothing of theirs.

    Args:
        store: whose arena that is.
        rings: extents [first, end) of the rings of sets, row blocks and log.
        log_tail: where in the log the oldest row begins.
        streams: by name, with the attributes that they had.
        next_check: rows written when the planner is asked next.
    """
    writer, counters, (sets,) = store.rows, store.memory.counters, store.sets
    for ring, (first, end) in zip((sets.ring, writer.blocks, writer.log.ring), rings, strict=True):
        ring.first, ring.end = first, end
    counters[Counter.VERSION] = VERSION
    for was, now in ((5, Counter.set_head(0)), (6, Counter.set_tail(0))):
        counters[was], counters[now] = 0, counters[was]
    sets.count_bytes()
    writer.log.tail, writer.next = log_tail, store.head
    rows = np.arange(store.tail // BLOCK_ROWS * BLOCK_ROWS, store.head)
    slots = serving_by_first_row(store, rows)[:, 0] % SET_SLOTS
    slots[serving_by_first_row(store, rows)[:, 0] == NO_ROW] = NO_SET
    for begin in np.flatnonzero((rows % BLOCK_ROWS == 0) | (np.diff(slots, prepend=-1) != 0)).tolist():
        store.index.begin_range(int(rows[begin]), 0, int(slots[begin]))
    for name, was in streams.items():
        stack, state = np.asarray(was.stack), Stream(())
        state.keep((stack if store.planar[0] else np.ascontiguousarray(stack.transpose(0, 2, 3, 1)),))
        state.row, state.is_open = was.row, was.is_open
        state.needed = store.needed_rows(was.row) if was.row >= store.tail else ()
        if was.reference is not None:
            state.references, state.reference_row, state.group_size = [was.reference], was.reference_row, was.group_size
        store.streams[name] = state
    store.planning.check_next([next_check])
    store.code_against_newest()
    store.budget.publish()

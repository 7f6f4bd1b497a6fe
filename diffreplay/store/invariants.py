"""What must hold of a store after every change; `check_invariants` recounts all of it from the rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffreplay.errors import CorruptDataError
from diffreplay.store.index import NO_ROW, OverrunError, Rows
from diffreplay.store.layout import (
    BLOCK_ROWS,
    LOG_EXTENT_BYTES,
    MAGIC,
    REFERENCE,
    SET_SLOTS,
    VERSION,
    Counter,
    Flag,
)
from diffreplay.store.sets import SetWriter
from diffreplay.store.streams import same
from diffreplay.store.writer import FrameStore

CHUNK_ROWS = 256
ALL_FLAGS = Flag.FIRST | Flag.ZEROS | Flag.CONTEXT | Flag.RESTART | Flag.STARTS | Flag.LOST | Flag.LAST


class _Index(NamedTuple):
    """The index of all live rows, oldest first, as absolute numbers."""

    rows: Rows
    start: NDArray[np.int64]  # where in the log the coded frame begins
    end: NDArray[np.int64]  # and ends
    flags: NDArray[np.uint8]
    link: NDArray[np.int64]  # rows back to the previous frame

    @property
    def tail(self) -> int:
        return int(self.rows[0])

    def has(self, flag: int) -> NDArray[np.bool_]:
        return (self.flags & flag) != 0

    def flags_of(self, rows: Rows) -> NDArray[np.uint8]:
        """Flags of live rows."""
        return self.flags[rows - self.tail]


def check_invariants(store: FrameStore, capacity: int | None = None) -> None:
    """Recount and decode all that `store` holds, in the writer's process, between two additions.

    Takes time in proportion to the frames held, as every one of them is decoded.

    Args:
        store: the writer's store.
        capacity: transitions held at most.

    Raises:
        CorruptDataError: names the invariant that does not hold, and what was found.
    """
    _check_bounds(store, capacity)
    index = _read_index(store)
    _check_sets(store, index.rows)
    _check_memory(store)
    if len(index.rows):
        _check_spans(store, index)
        _check_flags(store, index)
        _check_links(store, index)
        _check_references(store, index)
        _check_frames(store, index)
    _check_totals(store, index)


def _require(holds: bool | np.bool_, invariant: str, found: object) -> None:
    if not holds:
        raise CorruptDataError(f"invariant broken: expected {invariant}, found {found}")


def _require_all(holds: NDArray[np.bool_], rows: Rows, invariant: str) -> None:
    if not holds.all():
        wrong = rows[~holds]
        _require(False, invariant, f"{len(wrong)} rows from {wrong[0]} on where that is not so")


def _check_bounds(store: FrameStore, capacity: int | None) -> None:
    counter = store.counter
    magic, version = counter(Counter.MAGIC), counter(Counter.VERSION)
    _require((magic, version) == (MAGIC, VERSION), f"magic number {MAGIC} and version {VERSION}", (magic, version))
    freed, tail, head = counter(Counter.FREED), store.tail, store.head
    _require(freed <= tail <= head, "freed <= tail <= head", (freed, tail, head))
    _require(head - tail <= store.layout.max_rows, f"at most {store.layout.max_rows} rows", head - tail)
    transitions = counter(Counter.TRANSITIONS)
    _require(capacity is None or transitions <= capacity, f"at most {capacity} transitions", transitions)


def _read_index(store: FrameStore) -> _Index:
    rows = np.arange(store.tail, store.head)
    start, end = store.index.spans(rows)
    return _Index(rows, start, end, store.column("flags", rows), store.column("link", rows).astype(np.int64))


def _check_memory(store: FrameStore) -> None:
    """The rings hold exactly what the rows need, and the byte counters say so."""
    blocks, log = store.rows.blocks, store.rows.log.ring
    log_head, log_tail = store.counter(Counter.LOG_HEAD), store.rows.log.tail
    for name, ring in (*(("sets", sets.ring) for sets in store.sets), ("row blocks", blocks), ("log", log)):
        taken = ring.end - ring.first
        _require(0 <= taken <= ring.extents, f"0 to {ring.extents} extents of the ring of {name}", taken)
    _require(blocks.first == store.tail // BLOCK_ROWS, "no row block from before the oldest row", blocks.first)
    _require(blocks.end * BLOCK_ROWS >= store.head, "row blocks up to the newest row", blocks.end)
    _require(log.first == log_tail // LOG_EXTENT_BYTES, "no log extent from before the oldest frame", log.first)
    _require(log.end * LOG_EXTENT_BYTES >= log_head, "log extents up to the newest frame", log.end)
    # With this slack no extent holds both the oldest and the newest bytes of the ring.
    room = store.layout.log_bytes - LOG_EXTENT_BYTES
    _require(log_tail <= log_head <= log_tail + room, f"at most {room} live log bytes", log_head - log_tail)
    allocated, published = store.allocated_bytes(), store.counter(Counter.ALLOCATED_BYTES)
    rings = store.layout.header_bytes + store.counter(Counter.REFERENCE_BYTES) + blocks.allocated + log.allocated
    _require(published == allocated >= rings, f"{allocated} allocated bytes, {rings} of them shared", published)
    cap = store.max_bytes
    _require(cap is None or allocated <= cap, f"at most {cap} allocated bytes", allocated)


def _check_sets(store: FrameStore, rows: Rows) -> None:
    tables = store.memory.set_tables
    total = 0
    for sets, image, all_entries in zip(store.sets, store.layout.images, tables, strict=True):
        numbers = sets.numbers()
        _require(len(numbers) == numbers.stop - numbers.start <= SET_SLOTS, f"0 to {SET_SLOTS} live sets", numbers)
        _require(sets.ring.first == numbers.start, "memory for live sets alone", (sets.ring.first, numbers.start))
        table = all_entries[np.array(numbers, np.int64) % SET_SLOTS]
        first_row, nbytes = table["first_row"].astype(np.int64), table["nbytes"].astype(np.int64)
        _require(np.all(np.diff(first_row) > 0), "each set to serve later rows than the one before", first_row.tolist())
        _require(numbers.start == 0 or first_row[0] <= store.tail, "a set for the oldest row", first_row[:1].tolist())
        _require(np.all(first_row <= store.head), "no set for rows that are not there", first_row.tolist())
        _require(np.all(nbytes <= image.set_slot), f"sets of at most {image.set_slot} bytes", nbytes.tolist())
        _require(not np.any(nbytes % image.frame_bytes), "sets of whole frames", nbytes.tolist())
        total += int(nbytes.sum())
        _check_ranges(store, sets, rows, numbers, first_row)
    reference_bytes = store.counter(Counter.REFERENCE_BYTES)
    _require(reference_bytes == total, f"{total} reference bytes", reference_bytes)


def _check_ranges(store: FrameStore, sets: SetWriter, rows: Rows, numbers: range, first_row: NDArray[np.int64]) -> None:
    """Every row names a live set that was there before it, or none."""
    try:
        serving = sets.serving(rows)
    except OverrunError:
        _require(False, f"rows to name sets of {numbers}", "others")
    named = serving != NO_ROW
    _require_all(first_row[serving[named] - numbers.start] <= rows[named], rows[named], "sets from before their rows")


def _check_spans(store: FrameStore, index: _Index) -> None:
    """Coded frames lie in the live log, in the rows' order, without overlap."""
    rows, length, ring = index.rows, index.end - index.start, store.layout.log_bytes
    _require_all((length >= 0) & (length <= store.layout.row_bytes), rows, f"0 to {store.layout.row_bytes} coded bytes")
    try:
        images = [store.lengths(rows, image) for image in range(len(store.layout.images))]
    except OverrunError:
        _require(False, "no coded frame to be longer than a raw one", "others")
    _require_all(sum(images, np.zeros_like(length)) == length, rows, "coded frames of a row one after the other")
    _require(
        index.start[0] >= store.rows.log.tail, f"the oldest frame at {store.rows.log.tail} or later", index.start[0]
    )
    log_head = store.counter(Counter.LOG_HEAD)
    _require(index.end[-1] == log_head, f"the newest frame to end at {log_head}", index.end[-1])
    _require_all(index.start[1:] >= index.end[:-1], rows[1:], "each frame to begin where the one before ends, or later")
    straddles = index.start // ring != np.maximum(index.end - 1, index.start) // ring
    _require_all(~straddles, rows, "no frame across the end of the log's ring")
    begins = np.flatnonzero(rows[1:] % BLOCK_ROWS == 0) + 1
    base = np.array([store.index.block_begin(row) for row in rows[begins].tolist()], np.int64)
    _require_all(base == index.end[begins - 1], rows[begins], "a row block's base to be the end of the block before")


def _check_flags(store: FrameStore, index: _Index) -> None:
    rows, older, lost = index.rows, store.layout.frame_stack - 1, index.has(Flag.LOST)
    first, context, restart = index.has(Flag.FIRST), index.has(Flag.CONTEXT), index.has(Flag.RESTART) & ~lost
    _require_all((index.flags & ~np.uint8(ALL_FLAGS)) == 0, rows, "known flags only")
    _require_all(~context | (index.flags == Flag.CONTEXT) | lost, rows, "no other flag beside CONTEXT")
    _require_all(~lost | (context != index.has(Flag.RESTART)), rows, "LOST beside either CONTEXT or RESTART")
    _require_all(~index.has(Flag.ZEROS) | (first & ~restart), rows, "ZEROS with FIRST and without RESTART only")
    _require_all(~restart | (older > 0), rows, "no RESTART where an observation is one frame")
    # Every CONTEXT row belongs to one RESTART row, and every RESTART row has all of its CONTEXT rows.
    owned = np.zeros(len(rows), int)
    for k in range(1, older + 1):
        places = np.flatnonzero(restart) - k
        np.add.at(owned, places[places >= 0], 1)
    _require_all(owned == (context & ~lost), rows, f"{older} CONTEXT rows before each RESTART row, and no others")
    stood_in = index.has(Flag.RESTART) & lost & ~first
    for k in range(1, older + 1):
        places = np.flatnonzero(stood_in) - k
        empty = index.flags[places[places >= 0]] == Flag.CONTEXT | Flag.LOST
        _require_all(empty, rows[places[places >= 0]], "rows without frames before a RESTART row with LOST")


def _check_links(store: FrameStore, index: _Index) -> None:
    rows, target, older = index.rows, index.rows - index.link, store.layout.frame_stack - 1
    lost, context = index.has(Flag.LOST), index.has(Flag.CONTEXT)
    first, restart = index.has(Flag.FIRST), index.has(Flag.RESTART) & ~lost
    _require_all(target >= 0, rows, "links to rows that were written")
    _require_all(~restart | (index.link == 1), rows, "RESTART to link to the row before")
    _require_all(~(first & ~restart) | (index.link == 0) | lost, rows, "FIRST to link to itself")
    live = target >= index.tail
    plain = ~first & ~context & ~restart
    _require_all(~plain | (index.link > 0), rows, "a step in mid-episode to link to an earlier row")
    to_step = plain & live
    is_step = (index.flags_of(target[to_step]) & Flag.CONTEXT) == 0
    _require_all(is_step, rows[to_step], "a step in mid-episode to link to a step")
    # Only the oldest CONTEXT row of a stack links past it: to the step before, or nowhere at an episode's start.
    restarts = rows[restart & (rows - older >= index.tail)]
    for k in range(1, older):
        inner = store.column("link", restarts - k)
        _require_all(inner == 1, restarts - k, "CONTEXT rows of a stack to link to one another")
    oldest = restarts - older
    ends_here = store.column("link", oldest) == 0
    _require_all(ends_here == ((index.flags_of(restarts) & Flag.FIRST) != 0), oldest, "an episode to end at FIRST only")
    previous = store.previous_steps(rows[~context])
    previous = previous[previous >= index.tail]
    _require(len(np.unique(previous)) == len(previous), "at most one step after each", f"{len(previous)} links")
    _require_all((index.flags_of(previous) & Flag.CONTEXT) == 0, previous, "steps to follow steps")
    starts = np.zeros(len(rows), bool)
    starts[previous - index.tail] = True
    _require_all(starts == index.has(Flag.STARTS), rows, "STARTS where a step follows, and only there")
    ends = ~starts & ~context & store.marks_ends
    for stream in store.streams.values():
        if stream.is_open and stream.row >= index.tail:
            ends[stream.row - index.tail] = False
    _require_all(ends == index.has(Flag.LAST), rows, "LAST where an episode ended, and only there")


def _check_references(store: FrameStore, index: _Index) -> None:
    """Where rows name a reference frame: coded ones do, and that frame is raw."""
    empty = index.has(Flag.LOST) & index.has(Flag.CONTEXT)
    coded = (index.end - index.start < store.layout.row_bytes) & ~empty
    if REFERENCE not in store.layout.index:
        return
    back = np.where(empty, 0, store.column("reference", index.rows).astype(np.int64))
    _require_all(coded == (back > 0), index.rows, "a reference frame for coded rows, and only for them")
    target = index.rows - back
    live = target >= index.tail
    _require_all(~coded[target[live] - index.tail], index.rows[live], "reference frames to be raw")


def _check_frames(store: FrameStore, index: _Index) -> None:
    """Every live row that has a frame decodes, and each stream's newest observation comes back."""
    empty = index.has(Flag.LOST) & index.has(Flag.CONTEXT)
    rows = index.rows[(store.oldest_needed(index.rows) >= index.tail) & ~empty]
    for chunk in np.split(rows, range(CHUNK_ROWS, len(rows), CHUNK_ROWS)):
        _decode(store, chunk)
    for number, stream in store.streams.items():
        if stream.row < index.tail:
            continue
        stack = store.stacks(np.array([stream.row]))[0]
        needed = store.oldest_needed(stack)
        if np.all((stack == NO_ROW) | (needed >= index.tail)):
            _decode(store, stack)
            whole = store.readable_stack(stream.row)
            is_same = whole is not None and same(whole, stream.stack)
            _require(is_same, f"stream {number}'s newest observation as it came", f"another one at row {stream.row}")


def _decode(store: FrameStore, rows: Rows) -> None:
    try:
        for image in range(len(store.layout.images)):
            store.read(rows, image)
    except (CorruptDataError, OverrunError) as error:
        found = f"one of {rows[0]} to {rows[-1]} that does not: {error}"
        raise CorruptDataError(f"invariant broken: expected every live row to decode, found {found}") from error


def _check_totals(store: FrameStore, index: _Index) -> None:
    payload, starts = int((index.end - index.start).sum()), int(index.has(Flag.STARTS).sum())
    for which, name, counted in (
        (Counter.PAYLOAD_BYTES, "payload bytes", payload),
        (Counter.TRANSITIONS, "transitions", starts),
    ):
        _require(store.counter(which) == counted, f"{counted} {name}", store.counter(which))

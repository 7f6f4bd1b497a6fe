"""Fills a fresh store from a snapshot. Coded frames go from file to memory as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.errors import CorruptDataError
from diffreplay.frames import FrameStore
from diffreplay.layout import BLOCK_ROWS, LOG_SEGMENT_BYTES, SET_SLOTS, Counter, Flag
from diffreplay.reader import NO_ROW
from diffreplay.segments import FileEntry, Rows, read_file, read_segment
from diffreplay.snapshot import Manifest


def restore(store: FrameStore, directory: Path, manifest: Manifest, skip_damaged: bool) -> list[str]:
    """Fill an empty store; return what was damaged and left out.

    Raises:
        CorruptDataError: a file is damaged or missing, and `skip_damaged` is False.
    """
    damage: list[str] = []
    lost: list[tuple[int, int]] = []
    _check_order(manifest)
    first = manifest.segments[0].first if manifest.segments else manifest.head
    _begin(store, max(first, manifest.tail), manifest.sets[0].first if manifest.sets else 0)
    for k, entry in enumerate(manifest.sets):
        try:
            data = read_file(directory, entry)
            if len(data) > store.layout.set_slot_bytes:
                raise CorruptDataError(f"{directory / entry.name}: got a reference set of {len(data)} bytes, too large")
        except CorruptDataError as error:
            damage.append(_report(error, skip_damaged))
            lost.append((entry.end, manifest.sets[k + 1].end if k + 1 < len(manifest.sets) else manifest.head))
            data = b""
        store.write_set(data, entry.end)
    for entry in manifest.segments:
        try:
            rows = read_segment(directory, entry, store.layout)
        except CorruptDataError as error:
            damage.append(_report(error, skip_damaged))
            lost.append((entry.first, entry.end))
            rows = _no_rows(store, entry)
        _append_rows(store, rows)
    for begin, end in lost:
        _cut_out(store, max(begin, store.tail), end)
    _count_transitions(store)
    store.make_room(0)
    store._publish_allocated()
    return damage


def _report(error: CorruptDataError, skip_damaged: bool) -> str:
    if not skip_damaged:
        raise CorruptDataError(f"{error}; load with skip_damaged=True to keep the rest") from error
    return str(error)


def _check_order(manifest: Manifest) -> None:
    """Refuse a manifest whose parts do not fit together."""
    ends = [entry.end for entry in manifest.segments]
    firsts = [entry.first for entry in manifest.segments]
    numbers = [entry.first for entry in manifest.sets]
    in_order = (
        firsts[1:] == ends[:-1]
        and all(a < b for a, b in zip(firsts, ends, strict=True))
        and (not ends or (ends[-1] == manifest.head and firsts[0] <= manifest.tail))
        and numbers == list(range(numbers[0], numbers[0] + len(numbers)) if numbers else [])
        and 0 <= manifest.tail <= manifest.head
        and len(numbers) <= SET_SLOTS
    )
    if not in_order:
        raise CorruptDataError("expected a manifest whose segments follow each other, got one that contradicts itself")


def _begin(store: FrameStore, row: int, first_set: int) -> None:
    """Have an empty store go on from `row`, as if all before were evicted."""
    counters = store.memory.counters
    counters[[Counter.HEAD, Counter.TAIL, Counter.FREED]] = row
    counters[[Counter.SET_HEAD, Counter.SET_TAIL]] = first_set
    store._sets.first = store._sets.end = first_set
    store._blocks.first = store._blocks.end = row // BLOCK_ROWS
    if row % BLOCK_ROWS:  # the block's base, and the end of the row before, are 0 as in all new memory
        store._blocks.end += 1


def _put_rows(
    store: FrameStore, lengths: NDArray[np.int64], columns: dict[str, NDArray[Any]], payload: memoryview
) -> None:
    """Append rows whose coded frames lie end to end in `payload`."""
    begin, head = store._log_end(), store.head
    ends = begin + np.cumsum(lengths)
    store._log.end = max(store._log.end, -(-int(ends[-1]) // LOG_SEGMENT_BYTES))
    store.memory.log[begin : int(ends[-1])] = payload
    rows = np.arange(head, head + len(lengths))
    block, within = rows // BLOCK_ROWS % store.layout.blocks, rows % BLOCK_ROWS
    fresh = within == 0
    store.memory.base[block[fresh]] = (ends - lengths)[fresh]
    store.memory.columns["end"][block, within] = ends - store.memory.base[block].astype(np.int64)
    for name, values in columns.items():
        store.memory.columns[name][block, within] = values
    store._blocks.end = int(rows[-1]) // BLOCK_ROWS + 1
    store._count(Counter.LOG_HEAD, int(ends[-1]))
    store._add(Counter.PAYLOAD_BYTES, len(payload))
    store._count(Counter.HEAD, int(rows[-1]) + 1)


def _no_rows(store: FrameStore, entry: FileEntry) -> Rows:
    """Rows in the place of a segment that is damaged: nothing is stored for them."""
    count = entry.end - entry.first
    columns = {
        column.name: np.zeros((count, *column.shape), column.dtype)
        for column in store.layout.index + store.layout.scalars
        if column.name != "end"
    }
    return Rows(entry.first, columns, np.zeros(count, np.uint32), memoryview(b""))


def _append_rows(store: FrameStore, rows: Rows) -> None:
    """Write rows that are coded already, leaving out those that were evicted."""
    skip = max(store.head - rows.first, 0)
    lengths = rows.lengths[skip:].astype(np.int64)
    if not len(lengths):
        return
    payload = rows.payload[int(rows.lengths[:skip].sum(dtype=np.int64)) :]
    _put_rows(store, lengths, {name: values[skip:] for name, values in rows.columns.items()}, payload)


def _cut_out(store: FrameStore, begin: int, end: int) -> None:
    """Make rows [begin, end) as if they had never been, so that no window needs or bridges them.

    The rows after them that miss a frame of their stack become context for later ones, and a step that
    misses the step before it becomes the first of an episode.
    """
    rows = np.arange(begin, store.head)
    if begin >= end:
        return
    gone = rows < end
    if store.codec.reference == "frame":
        gone |= gone[np.maximum(rows - store.column("reference", rows) - begin, 0)] & (
            rows - store.column("reference", rows) >= begin
        )
    flags, frame_stack = store.column("flags", rows), store.layout.frame_stack
    follows = (flags & (Flag.FIRST | Flag.RESTART)) != Flag.FIRST
    oldest = np.flatnonzero((flags & Flag.RESTART) != 0) - (frame_stack - 1)
    if frame_stack > 1:
        follows[oldest[oldest >= 0]] = False  # the oldest frame of a stack that was stored anew follows no other
    before = np.where(follows, rows - store.column("link", rows) - begin, NO_ROW)
    context, missing = (flags & Flag.CONTEXT) != 0, gone
    for _ in range(frame_stack - 1):  # after as many frames, a stack is whole again
        missing = (before >= 0) & missing[np.maximum(before, 0)]
        context |= missing
        flags[missing] = Flag.CONTEXT | Flag.LOST
    flags[gone] = Flag.CONTEXT | Flag.LOST
    _set_flags(store, rows, flags)
    step_before = store.previous_steps(rows) - begin
    orphan = (step_before >= 0) & ((flags[np.maximum(step_before, 0)] & Flag.CONTEXT) != 0) & ~context & ~gone
    whole = orphan & ((flags & Flag.RESTART) != 0)  # its stack was stored anew, behind a link to what is lost
    if whole.any():
        oldest_rows = rows[whole] - (frame_stack - 1)
        store.memory.columns["link"][oldest_rows // BLOCK_ROWS % store.layout.blocks, oldest_rows % BLOCK_ROWS] = 0
    flags[orphan] = Flag.FIRST | Flag.RESTART | Flag.LOST
    flags[whole] = Flag.FIRST | Flag.RESTART
    _set_flags(store, rows, flags)


def _count_transitions(store: FrameStore) -> None:
    """Mark the steps at which transitions start, and count them."""
    rows = np.arange(store.tail, store.head)
    flags = store.column("flags", rows) & np.uint8(~Flag.STARTS & 255)
    starts = store.previous_steps(rows[(flags & Flag.CONTEXT) == 0])
    starts = starts[starts >= store.tail]
    flags[starts - store.tail] |= Flag.STARTS
    _set_flags(store, rows, flags)
    store._count(Counter.TRANSITIONS, len(starts))


def _set_flags(store: FrameStore, rows: NDArray[np.int64], flags: NDArray[np.uint8]) -> None:
    store.memory.columns["flags"][rows // BLOCK_ROWS % store.layout.blocks, rows % BLOCK_ROWS] = flags

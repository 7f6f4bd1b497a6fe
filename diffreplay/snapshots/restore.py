"""Fills a fresh store from a snapshot. Coded frames go from file to memory as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffreplay.errors import CorruptDataError
from diffreplay.snapshots.manifest import FileEntry, Manifest
from diffreplay.snapshots.segments import CodedRows, check_segment, check_set, read_file, read_segment
from diffreplay.store import (
    BLOCK_ROWS,
    LOG_SEGMENT_BYTES,
    NO_ROW,
    Counter,
    Flag,
    FrameStore,
    count_transitions,
    round_up,
    set_flags,
)

LOST_ROWS = 1 << 19  # that may be claimed of files that are missing,
LOST_TIMES = 10  # or so many times those that are there
Mask = NDArray[np.bool_]


def restore(store: FrameStore, directory: Path, manifest: Manifest, skip_damaged: bool) -> list[str]:
    """Fill an empty store; return what was damaged or missing and is left out, a sentence each.

    Where files are missing or of a wrong size, and `skip_damaged` is not set, nothing is filled and these are all.

    Raises:
        CorruptDataError: the manifest is of more rows than the store can hold, or nearly all of them are gone.
    """
    if manifest.head - manifest.tail > store.layout.max_rows:
        raise CorruptDataError(
            f"{directory}: expected a manifest of at most {store.layout.max_rows} rows, got {manifest.tail} to "
            f"{manifest.head}"
        )
    damage = _look(store, directory, manifest)
    if damage and not skip_damaged:
        return list(damage.values())
    _check_rest(directory, manifest, damage)
    _begin(store, manifest)
    lost_sets = _read_sets(store, directory, manifest, damage)
    lost_rows = []
    for entry in manifest.segments:
        rows = None
        if entry.name not in damage:
            try:
                rows = read_segment(directory, entry, store.layout)
            except CorruptDataError as error:
                damage[entry.name] = str(error)
        if rows is None:
            lost_rows.append((entry.first, entry.end))
            rows = _no_rows(entry)
        _append_rows(store, rows)
    if damage:
        _cut_out(store, _gone(store, lost_rows, lost_sets))
    count_transitions(store)
    store.make_room(0)
    store._publish_allocated()
    return list(damage.values())


def _look(store: FrameStore, directory: Path, manifest: Manifest) -> dict[str, str]:
    """What is wrong with each file whose size already tells."""
    damage = {}
    for check, entries in ((check_set, manifest.sets), (check_segment, manifest.segments)):
        for entry in entries:
            try:
                check(directory, entry, store.layout)
            except CorruptDataError as error:
                damage[entry.name] = str(error)
    return damage


def _check_rest(directory: Path, manifest: Manifest, damage: dict[str, str]) -> None:
    """Refuse a manifest that claims many rows and has few, as each takes its place in the index."""
    gone = sum(entry.end - entry.first for entry in manifest.segments if entry.name in damage)
    rest = manifest.head - manifest.tail - gone
    if gone > max(LOST_ROWS, LOST_TIMES * rest):
        raise CorruptDataError(
            f"{directory}: expected files of at least one in {LOST_TIMES + 1} rows, got {max(rest, 0)} of "
            f"{manifest.head - manifest.tail}; {next(iter(damage.values()))}"
        )


def _read_sets(store: FrameStore, directory: Path, manifest: Manifest, damage: dict[str, str]) -> list[tuple[int, int]]:
    """Store all reference sets; return the rows that were coded against what is damaged, which goes into `damage`."""
    lost, data = [], b""
    for entry, end in zip(manifest.sets, [e.end for e in manifest.sets[1:]] + [manifest.head], strict=False):
        data = b""
        if entry.name not in damage:
            try:
                data = read_file(directory, entry)
            except CorruptDataError as error:
                damage[entry.name] = str(error)
        if entry.name in damage:
            lost.append((entry.end, end))
        store.store_set(data, entry.end)
    if manifest.sets:
        store.code_against(data)
    return lost


def _begin(store: FrameStore, manifest: Manifest) -> None:
    """Have an empty store go on from where the manifest's first row is, as if all before were evicted.

    Every row lands in the place it had, unless the log was larger: what is evicted when depends on the places.
    """
    row, log_tail = manifest.tail, manifest.log_tail % store.layout.log_bytes
    first_set = manifest.sets[0].first if manifest.sets else 0
    counters = store.memory.counters
    for which in (Counter.HEAD, Counter.TAIL, Counter.FREED):
        counters[which] = store._next = row
    counters[Counter.SET_HEAD] = counters[Counter.SET_TAIL] = first_set
    counters[Counter.LOG_HEAD] = store._log_tail = log_tail
    store._sets.first = store._sets.end = first_set
    store._log.first = store._log.end = log_tail // LOG_SEGMENT_BYTES
    store._blocks.first = store._blocks.end = row // BLOCK_ROWS
    if row % BLOCK_ROWS:  # the block has begun; the end of the row before is 0 as in all new memory
        store._blocks.end += 1
        store.memory.base[row // BLOCK_ROWS % store.layout.blocks] = log_tail


def _append_rows(store: FrameStore, rows: CodedRows) -> None:
    """Write rows that are coded already, leaving out those that were evicted."""
    skip = max(store.head - rows.first, 0)
    lengths = rows.lengths[skip:].astype(np.int64)
    if not len(lengths):
        return
    payload = rows.payload[int(rows.lengths[:skip].sum(dtype=np.int64)) :]
    begin, numbers = store.head, np.arange(store.head, store.head + len(lengths))
    ends = _place_payload(store, lengths, payload)
    block, within = numbers // BLOCK_ROWS % store.layout.blocks, numbers % BLOCK_ROWS
    fresh = within == 0
    store.memory.base[block[fresh]] = np.concatenate([[store._log_end()], ends[:-1]])[fresh]
    store.memory.columns["end"][block, within] = ends - store.memory.base[block].astype(np.int64)
    for name, values in rows.columns.items():
        store.memory.columns[name][block, within] = values[skip:]
    store._blocks.end = int(numbers[-1]) // BLOCK_ROWS + 1
    store._count(Counter.LOG_HEAD, int(ends[-1]))
    store._add(Counter.PAYLOAD_BYTES, len(payload))
    store._next = begin + len(lengths)
    store._count(Counter.HEAD, store._next)


def _place_payload(store: FrameStore, lengths: NDArray[np.int64], payload: memoryview) -> NDArray[np.int64]:
    """Copy coded frames into the log as the writer would have placed them; return where each one ends."""
    ring, begin = store.layout.log_bytes, store._log_end()
    ends = begin + np.cumsum(lengths)
    past = np.flatnonzero(ends > round_up(begin + 1, ring))  # from the first frame that would straddle the ring's end
    fitting = int(lengths[: past[0]].sum()) if len(past) else len(payload)
    if len(past):
        ends[past[0] :] += round_up(begin + 1, ring) - (begin + fitting)
    if ends[-1] - store._log_tail > ring - LOG_SEGMENT_BYTES:
        raise CorruptDataError(f"expected coded frames of at most {store.max_bytes} bytes, which is the cap, got more")
    rest = len(payload) - fitting
    place = begin % ring
    store.memory.log[place : place + fitting] = payload[:fitting]
    store.memory.log[:rest] = payload[fitting:]
    store._log.end = max(store._log.end, -(-int(ends[-1]) // LOG_SEGMENT_BYTES))
    return ends


def _no_rows(entry: FileEntry) -> CodedRows:
    """Rows in the place of a segment that is damaged: all that is stored for them is that they end where they begin."""
    return CodedRows(entry.first, {}, np.zeros(entry.end - entry.first, np.uint32), memoryview(b""))


def _gone(store: FrameStore, lost_rows: list[tuple[int, int]], lost_sets: list[tuple[int, int]]) -> Mask:
    """Which live rows cannot be decoded any more: lost ones, and those coded against something lost."""
    tail, rows = store.tail, np.arange(store.tail, store.head)
    gone = np.zeros(len(rows), bool)
    coded = store.lengths(rows) < store.layout.frame_bytes
    for begin, end in lost_rows:
        gone[max(begin - tail, 0) : max(end - tail, 0)] = True
    for begin, end in lost_sets:
        part = slice(max(begin - tail, 0), max(end - tail, 0))
        gone[part] |= coded[part]
    if store.codec.reference == "frame":
        reference = rows - store.column("reference", rows) - tail
        gone |= (reference >= 0) & gone[np.maximum(reference, 0)]
    return gone


def _cut_out(store: FrameStore, gone: Mask) -> None:
    """Make rows as if they had never been, so that no window needs or bridges them.

    The rows after them that miss a frame of their stack become context for later ones, and a step that misses the
    step before it becomes the first of an episode.
    """
    tail, rows = store.tail, np.arange(store.tail, store.head)
    flags, older = store.column("flags", rows), store.layout.frame_stack - 1
    restart = (flags & (Flag.RESTART | Flag.LOST)) == Flag.RESTART
    step_before = store.previous_steps(rows) - tail
    follows = (flags & (Flag.FIRST | Flag.RESTART)) != Flag.FIRST
    oldest = np.flatnonzero(restart) - older
    follows[oldest[oldest >= 0]] = False  # the oldest frame of a stack that was stored anew follows no other
    before = np.where(follows, rows - store.column("link", rows) - tail, NO_ROW)
    broken = gone.copy()  # rows that cannot be steps, as they miss a frame of their stack
    for _ in range(older):  # after as many frames, a stack is whole again
        broken |= (before >= 0) & broken[np.maximum(before, 0)]
    context = (flags & Flag.CONTEXT) != 0
    orphan = (step_before >= 0) & broken[np.maximum(step_before, 0)] & ~broken & ~context
    _unlink(store, rows[orphan & restart] - older)
    owned = np.zeros(len(rows), bool)
    for k in range(1, older + 1):
        places = np.flatnonzero(restart & ~broken) - k
        owned[places[places >= 0]] = True
    flags[context & ~owned] |= Flag.LOST
    flags[orphan & restart] = Flag.FIRST | Flag.RESTART
    flags[orphan & ~restart] = Flag.FIRST | Flag.RESTART | Flag.LOST
    flags[broken] = Flag.CONTEXT | Flag.LOST
    set_flags(store, rows, flags)


def _unlink(store: FrameStore, rows: NDArray[np.int64]) -> None:
    """Have rows, the oldest frames of stacks that were stored anew, follow no step."""
    store.memory.columns["link"][rows // BLOCK_ROWS % store.layout.blocks, rows % BLOCK_ROWS] = 0

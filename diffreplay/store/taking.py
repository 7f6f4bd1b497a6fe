"""Rows that another store coded, taken in as they are: a run of them at a time, nothing of it decoded.

The other store writes on its own, and rows of further ones come between two runs of its rows. So links from one run to
an older one are made longer here, and what follows from several rows (where transitions start, where episodes have
ended) is found anew. Frames stay as they came, each coded against the reference set that its row names.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.errors import CorruptDataError, InputError
from diffreplay.store.coding import MAX_LINK
from diffreplay.store.cutting import cut_out
from diffreplay.store.index import NO_ROW, Rows
from diffreplay.store.layout import NO_SET, REFERENCE, SET_SLOTS, Flag
from diffreplay.store.recoding import fit_ranges
from diffreplay.store.state import StoredRows
from diffreplay.store.streams import Stream
from diffreplay.store.writer import FrameStore

KEPT_RUNS = 1024  # of each origin, into which later rows may link
EMPTY = Flag.CONTEXT | Flag.LOST
StreamEnd = tuple[Any, int, bool]  # name, its newest row, and whether its episode goes on


@dataclass(frozen=True)
class Origin:
    """A store that rows come from: how far it is, and where here its newest ones lie.

    Attributes:
        next: its row that comes next.
        runs: (first, end, place) of rows [first, end) of it, which lie from row `place` on here; the newest last.
    """

    next: int = 0
    runs: tuple[tuple[int, int, int], ...] = ()

    def place(self, row: int) -> int:
        """Where here a row of it lies; NO_ROW where that is not known."""
        k = bisect_right(self.runs, row, key=itemgetter(0)) - 1
        if k < 0 or row >= self.runs[k][1]:
            return NO_ROW
        return self.runs[k][2] + row - self.runs[k][0]

    def after(self, first: int, end: int, place: int) -> Origin:
        """The same when rows [first, end) have been taken in, and lie from `place` on."""
        runs = self.runs
        if runs and runs[-1][1] == first and runs[-1][2] + first - runs[-1][0] == place:
            runs, first, place = runs[:-1], runs[-1][0], runs[-1][2]
        return Origin(end, (*runs, (first, end, place))[-KEPT_RUNS:])


def check_origin(store: FrameStore) -> None:
    """Refuse a store that cannot take rows in, or whose rows no other can.

    Raises:
        InputError: frames are coded against others of their episode.
    """
    if REFERENCE in store.layout.index:
        raise InputError(
            f"codec: expected delta, zstd, raw or one that codes against reference sets or nothing, got "
            f"{store.codec.name!r}, whose frames need others of their episode beside them"
        )


def stream_ends(store: FrameStore, first: int) -> list[StreamEnd]:
    """The streams of which there are rows from `first` on."""
    return [(name, stream.row, stream.is_open) for name, stream in store.streams.items() if stream.row >= first]


def take_in(
    store: FrameStore, origin: Origin, rows: StoredRows, streams: Sequence[StreamEnd], capacity: int
) -> tuple[Origin, int]:
    """Take in rows as a change of its own.

    Args:
        store: where to.
        origin: of the rows, as it was after those before.
        rows: as `export_rows` gave them, numbered as there, of whole changes; but `sets` are numbered as here.
        streams: what `stream_ends` told of them, with the names that they have here.
        capacity: transitions held at most.

    Returns:
        The origin as it is now, and how many of the rows do not follow the step that they should, as it is not here.
        These begin an episode, and frame_stack - 1 steps of each go before one can be sampled.

    Raises:
        CorruptDataError: the rows make no sense; nothing was taken in.
        InputError: they are more than the store holds; nothing was taken in.
    """
    count = len(rows.lengths)
    _check_rows(store, rows, streams)
    if count > min(capacity, store.layout.max_rows // 2):
        raise InputError(f"rows: expected at most {capacity}, as many as the buffer holds, got {count}")
    new = sum(name not in store.streams for name, _, _ in streams)
    # Twice, as what goes round the log's end leaves a gap there.
    store.budget.check_batch(len(store.streams) + new, 2 * count, "chunk", "send fewer steps in one, of fewer streams")
    found: list[tuple[Origin, int]] = []
    store.change(_take_in, None, store, origin, rows, streams, capacity, found)
    return found[0]


def _check_rows(store: FrameStore, rows: StoredRows, streams: Sequence[StreamEnd]) -> None:
    """Refuse what cannot be rows of a store like this one."""
    link, flags = rows.columns["link"].astype(np.int64), rows.columns["flags"]
    numbers = rows.first + np.arange(len(link))
    if np.any(link > numbers):
        raise CorruptDataError("expected rows that link to rows before them, got links to before the first one of all")
    older, restart = store.layout.frame_stack - 1, (flags & (Flag.RESTART | Flag.LOST)) == Flag.RESTART
    for k in range(1, older + 1):
        places = np.flatnonzero(restart) - k
        if np.any(places < 0) or np.any((flags[places] & Flag.CONTEXT) == 0):
            raise CorruptDataError("expected whole observations, got one whose older frames are not before it")
    for _, row, _ in streams:
        if not rows.first <= row < rows.first + len(link) or flags[row - rows.first] & Flag.CONTEXT:
            raise CorruptDataError(f"expected streams that end at one of the rows from {rows.first} on, got row {row}")
    if rows.sets is None or not all(its.holds(named).all() for its, named in zip(store.sets, rows.sets.T, strict=True)):
        raise CorruptDataError("expected rows that name reference sets which are held, got others")


def _take_in(
    store: FrameStore,
    origin: Origin,
    rows: StoredRows,
    streams: Sequence[StreamEnd],
    capacity: int,
    found: list[tuple[Origin, int]],
) -> None:
    _keep_sets(store, rows)
    _open_streams(store, [name for name, _, _ in streams])
    store.renew_sets()
    columns = dict(rows.columns)
    columns["flags"] = columns["flags"] & np.uint8(~Flag.STARTS & 255)
    first, end, place = rows.first, rows.first + len(rows.lengths), store.rows.next
    columns["link"], cut = _relinked(store, origin, rows, place)
    rows = rows._replace(columns=columns)
    if cut:
        rows = _after_nothing(rows)
    rows = fit_ranges(store, rows)
    _keep_sets(store, rows)
    store.eviction.leave_room(len(rows.lengths), capacity)
    _write(store, rows)
    if cut:
        cut_out(store, place, np.arange(len(rows.lengths)) == 0)
    origin = origin.after(first, end, store.rows.next - (end - first))
    _start_transitions(store, place)
    for name, row, is_open in streams:
        _go_on(store, name, origin.place(row), is_open)
    if cut:
        store.find_ends()
    found[:] = [(origin, cut)]


def _keep_sets(store: FrameStore, rows: StoredRows) -> None:
    """Have the sets that rows name stay while room is made for them."""
    last = store.rows.next + len(rows.lengths)  # one row more than there are, as one may come before all of them
    for its, named in zip(store.sets, rows.named.T, strict=True):
        its.keep_for(named, last)


def _relinked(store: FrameStore, origin: Origin, rows: StoredRows, place: int) -> tuple[NDArray[np.uint16], int]:
    """The links of rows that are to lie from row `place` on, and how many of them lead nowhere.

    These are links to a row that is not here, or too far back. Where there are such, a row that holds nothing comes
    before all of the rows, and they lead to that one.
    """
    link = rows.columns["link"].astype(np.int64)
    outside = np.flatnonzero(link > np.arange(len(link))).tolist()
    targets = [origin.place(rows.first + k - int(link[k])) for k in outside]
    cut = [k for k, target in zip(outside, targets, strict=True) if not _reaches(store, target, place + 1 + k)]
    begin = place + (len(cut) > 0)
    for k, target in zip(outside, targets, strict=True):
        link[k] = begin + k - target
    link[cut] = np.array(cut, np.intp) + 1
    return link.astype(np.uint16), len(cut)


def _reaches(store: FrameStore, target: int, row: int) -> bool:
    """Whether a row may link to a row that other steps' stacks need, or that has left."""
    if target == NO_ROW or row - target > MAX_LINK:
        return False
    return target < store.tail or store.index.value("flags", target) & EMPTY != EMPTY


def _after_nothing(rows: StoredRows) -> StoredRows:
    """The same after a row that holds nothing, for links that lead nowhere."""
    columns = {name: np.concatenate([np.zeros_like(values[:1]), values]) for name, values in rows.columns.items()}
    columns["flags"][0] = EMPTY
    lengths = np.concatenate([np.zeros_like(rows.lengths[:1]), rows.lengths])
    return StoredRows(rows.first - 1, columns, lengths, rows.coded, np.concatenate([rows.named[:1], rows.named]))


def _write(store: FrameStore, rows: StoredRows) -> None:
    lengths = rows.lengths.astype(np.int64)
    coded = rows.coded[0] if len(rows.coded) == 1 else b"".join(rows.coded)
    store.rows.touched = True
    start = store.eviction.reserve(len(coded), len(lengths))
    slots = np.where(rows.named == NO_ROW, NO_SET, rows.named % SET_SLOTS)
    store.rows.write_coded(start, coded, lengths, slots, rows.columns)


def _start_transitions(store: FrameStore, first: int) -> None:
    """Note where transitions start that end at rows from `first` on."""
    rows = np.arange(first, store.rows.next)
    steps: Rows = rows[(store.column("flags", rows) & Flag.CONTEXT) == 0]
    previous = store.previous_steps(steps)
    previous = previous[previous >= store.tail]
    if len(previous):
        store.rows.start_transitions(previous)


def _open_streams(store: FrameStore, names: Sequence[Any]) -> None:
    """Note where streams are; have those be there that are new, for which rows may leave."""
    new = [name for name in names if name not in store.streams]
    store.make_room(store.budget.stream_bytes * len(new))
    for name in names:
        store.note(name)
    for name in new:
        store.rows.touched = True
        store.streams[name] = Stream(())
    if new:
        store.budget.publish()


def _go_on(store: FrameStore, name: Any, row: int, is_open: bool) -> None:
    """Have a stream go on from a row; if that does not follow its last one, its episode was cut off there."""
    state = store.streams[name]
    if state.row >= store.tail and not store.index.value("flags", state.row) & Flag.STARTS:
        store.mark_end(state)
    is_step = (store.index.value("flags", row) & Flag.CONTEXT) == 0
    state.row, state.is_open = row if is_step else NO_ROW, is_open
    state.stack = ()  # which is in its rows, coded
    state.needed = store.needed_rows(row) if is_step else ()


def close_streams(store: FrameStore, names: Sequence[Any]) -> None:
    """As a change of its own, end the episodes of streams that will not go on."""

    def close() -> None:
        for name in names:
            if name in store.streams and store.streams[name].is_open:
                store.note(name)
                store.note_end(name, True)

    store.change(close, None)

"""Observations in, rows of frames out.

Each frame is stored once, as one row. The older frames of an observation are dropped only after comparing
their bytes with the observation before it; see `add_observation` for what happens where they differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.store.coding import MAX_LINK
from diffreplay.store.index import NO_ROW
from diffreplay.store.layout import Flag
from diffreplay.store.streams import Stream
from diffreplay.store.writer import FrameStore


def same(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Whether pixels are equal, for shapes that fit; `np.array_equal` swallows what a signal handler raises in it."""
    return bool((one == other).all())


def append(
    store: FrameStore, stack: NDArray[np.uint8], values: tuple[Any, ...] = (), stream: Any = 0, *, first: bool = False
) -> int:
    """Store an observation as a change of its own; see `add_observation`. Returns the row of its newest frame."""
    store.change(add_observation, stream, store, stack, values, stream, first)
    return store.streams[stream].row


def add_observation(
    store: FrameStore,
    stack: NDArray[np.uint8],
    values: tuple[Any, ...],
    stream: Any,
    first: bool,
    older_at: int = NO_ROW,
) -> None:
    """Within a change, store an observation: its newest frame alone where the rest is known, else all of it.

    - In mid-episode the older frames are dropped when they equal the newer ones of the observation
      before; where another step's newest frames equal them, the row says where they are; otherwise the whole
      stack is stored as it came.
    - At an episode's start they are dropped when they are copies of the newest frame, or zeros.

    Args:
        store: where to.
        stack: (frame_stack, C, H, W) uint8, oldest first; copied.
        values: one value for each of the further columns.
        stream: which sequence it continues.
        first: it begins an episode. So it does, too, when the step before it was evicted.
        older_at: a step whose newest frames are its older ones, if there is one besides the step before it.
    """
    state = store.open_stream(stream)
    first = first or state.row < store.tail
    if not first and store.rows.next - state.row > MAX_LINK - store.layout.frame_stack:
        add_observation(store, state.stack, _blank(store), stream, True)
    previous = state.row
    older, newest = stack[:-1], stack[-1]
    place = _begin_episode if first else _continue_episode
    link, flags = place(store, state, older, newest, older_at)
    state.row = _append_frame(store, state, newest, link, flags, values)
    if flags & Flag.LOST:
        state.needed = store.needed_rows(state.row)
    elif first and not flags & Flag.RESTART:  # its older frames are copies or zeros
        state.needed = state.needed[-1:] * len(stack)
    if not first and previous >= store.tail:
        store.rows.start_transition(previous)
    np.copyto(state.stack, stack)


def _begin_episode(
    store: FrameStore, state: Stream, older: NDArray[np.uint8], newest: NDArray[np.uint8], older_at: int
) -> tuple[int, int]:
    """Link and flags of an episode's first step, after storing what is to be before it."""
    if state.is_open:
        store.mark_end(state)  # it is cut off there
    state.group_size = 0
    if same(older, newest):
        return 0, Flag.FIRST
    if not older.any():
        return 0, Flag.FIRST | Flag.ZEROS
    if older_at >= store.tail:
        return store.rows.next - older_at, Flag.FIRST | Flag.RESTART | Flag.LOST
    return 1, Flag.FIRST | _append_context(store, state, older, 0)


def _continue_episode(
    store: FrameStore, state: Stream, older: NDArray[np.uint8], newest: NDArray[np.uint8], older_at: int
) -> tuple[int, int]:
    """Link and flags of a step in mid-episode, after storing what is to be before it."""
    link = store.rows.next - state.row
    if len(older) == 0 or same(older, state.stack[1:]):
        return link, 0
    if older_at >= store.tail:
        flags = _append_stand_ins(store, link)
        return store.rows.next - older_at, flags
    state.group_size = 0
    return 1, _append_context(store, state, older, link)


def go_back_to(store: FrameStore, row: int, stack: NDArray[np.uint8], stream: Any) -> None:
    """Within a change, have a stream go on from an older step of it, whose observation `stack` is."""
    store.rows.touched = True
    state = store.streams[stream]
    state.row, state.needed = row, store.needed_rows(row)
    np.copyto(state.stack, stack)


def _blank(store: FrameStore) -> tuple[Any, ...]:
    return tuple(np.zeros(c.shape, c.dtype) for c in store.layout.scalars)


def _append_context(store: FrameStore, state: Stream, older: NDArray[np.uint8], link: int) -> int:
    """Store the older frames of a stack that nothing else holds; the first one links to the step before."""
    blank = _blank(store)
    for k, frame in enumerate(older):
        _append_frame(store, state, frame, 1 if k else link, Flag.CONTEXT, blank)
    return Flag.RESTART


def _append_stand_ins(store: FrameStore, link: int) -> int:
    """Store rows without a frame in place of older ones that are stored elsewhere; the first one links as told."""
    blank = _blank(store)
    for k in range(store.layout.frame_stack - 1):
        start = store.eviction.reserve(0)
        store.rows.write(start, b"", 1 if k else link, Flag.CONTEXT | Flag.LOST, 0, blank)
    return Flag.RESTART | Flag.LOST


def _append_frame(
    store: FrameStore,
    state: Stream,
    frame: NDArray[np.uint8],
    link: int,
    flags: int,
    values: tuple[Any, ...],
) -> int:
    """Code a frame (C, H, W) and write it as a row, which counts once the change is published."""
    rows = store.rows
    rows.touched = True
    pixels = np.ascontiguousarray(frame.transpose(1, 2, 0))
    row = rows.next
    coded, back = store.coding.encode(pixels, state, row, rows.tail)
    start = store.eviction.reserve(len(coded))
    if back and row - back < rows.tail:  # making room evicted the reference
        state.group_size = 0
        coded, back = store.coding.encode(pixels, state, row, rows.tail)
        start = store.eviction.reserve(len(coded))
    rows.write(start, coded, link, flags, back, values)
    state.needed = (*state.needed, row - back)[-len(state.stack) :]
    return row

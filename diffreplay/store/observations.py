"""Observations in, rows out.

Each step is stored once, as one row. The older steps of an observation are dropped only after comparing them, bit for
bit, with the observation before it; see `add_observation` for what happens where they differ.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from diffreplay.store.coding import MAX_LINK, Ahead
from diffreplay.store.index import NO_ROW
from diffreplay.store.layout import Flag
from diffreplay.store.streams import Stack, Stream, continues, steps
from diffreplay.store.writer import FrameStore

OLDER, NEWER, NEWEST = slice(0, -1), slice(1, None), slice(-1, None)  # steps of an observation


class Step(NamedTuple):
    """A step as it is stored.

    Attributes:
        stack: the observation; copied.
        values: one value for each of the columns that are not part of it.
        coded: of each image, its newest frame as it was coded ahead, if it was.
    """

    stack: Stack
    values: tuple[Any, ...]
    coded: tuple[Ahead, ...] = ()


def append(
    store: FrameStore, stack: Stack, values: tuple[Any, ...] = (), stream: Any = 0, *, first: bool = False
) -> int:
    """Store an observation as a change of its own; see `add_observation`. Returns the row of its newest step."""
    store.change(add_observation, stream, store, Step(stack, values), stream, first)
    return store.streams[stream].row


def add_observation(store: FrameStore, step: Step, stream: Any, first: bool, older_at: int = NO_ROW) -> None:
    """Within a change, store an observation: its newest step alone where the rest is known, else all of it.

    - In mid-episode the older steps are dropped when they equal the newer ones of the observation
      before; where another step's newest ones equal them, the row says where they are; otherwise the whole
      stack is stored as it came.
    - At an episode's start they are dropped when they are copies of the newest one, or zeros.

    Args:
        store: where to.
        step: the observation, and what it carries.
        stream: which sequence it continues.
        first: it begins an episode. So it does, too, when the step before it was evicted.
        older_at: a step whose newest ones are its older ones, if there is one besides the step before it.
    """
    stack = step.stack
    state = store.open_stream(stream, stack)
    first = first or state.row < store.tail
    if not first and store.rows.next - state.row > MAX_LINK - store.layout.frame_stack:
        add_observation(store, Step(state.stack, _blank(store)), stream, True)
    previous = state.row
    place = _begin_episode if first else _continue_episode
    link, flags = place(store, state, stack, older_at)
    state.row = _append_row(store, state, step, -1, link, flags)
    if flags & Flag.LOST:
        state.needed = store.needed_rows(state.row)
    elif first and not flags & Flag.RESTART:  # its older steps are copies or zeros
        state.needed = state.needed[-1:] * store.layout.frame_stack
    if not first and previous >= store.tail:
        store.rows.start_transition(previous)
    state.keep(stack)


def _begin_episode(store: FrameStore, state: Stream, stack: Stack, older_at: int) -> tuple[int, int]:
    """Link and flags of an episode's first step, after storing what is to be before it."""
    if state.is_open:
        store.mark_end(state)  # it is cut off there
    state.group_size, older = 0, steps(stack, OLDER)
    if all((values == newest).all() for values, newest in zip(older, steps(stack, NEWEST), strict=True)):
        return 0, Flag.FIRST
    if not any(values.any() for values in older):
        return 0, Flag.FIRST | Flag.ZEROS
    if older_at >= store.tail:
        return store.rows.next - older_at, Flag.FIRST | Flag.RESTART | Flag.LOST
    return 1, Flag.FIRST | _append_context(store, state, stack, 0)


def _continue_episode(store: FrameStore, state: Stream, stack: Stack, older_at: int) -> tuple[int, int]:
    """Link and flags of a step in mid-episode, after storing what is to be before it."""
    link = store.rows.next - state.row
    if store.layout.frame_stack == 1 or continues(stack, state.stack):
        return link, 0
    if older_at >= store.tail:
        flags = _append_stand_ins(store, link)
        return store.rows.next - older_at, flags
    state.group_size = 0
    return 1, _append_context(store, state, stack, link)


def go_back_to(store: FrameStore, row: int, stack: Stack, stream: Any) -> None:
    """Within a change, have a stream go on from an older step of it, whose observation `stack` is."""
    store.rows.touched = True
    state = store.streams[stream]
    state.row, state.needed = row, store.needed_rows(row)
    state.keep(stack)


def _blank(store: FrameStore) -> tuple[Any, ...]:
    """Values of the columns that are not part of an observation, for rows that are no steps."""
    layout = store.layout
    return tuple(np.zeros(column.shape, column.dtype) for column in layout.scalars[layout.stacked :])


def _append_context(store: FrameStore, state: Stream, stack: Stack, link: int) -> int:
    """Store the older steps of an observation that nothing else holds; the first one links to the step before."""
    step = Step(stack, _blank(store))
    for k in range(store.layout.frame_stack - 1):
        _append_row(store, state, step, k, 1 if k else link, Flag.CONTEXT)
    return Flag.RESTART


def _append_stand_ins(store: FrameStore, link: int) -> int:
    """Store rows without frames in place of older ones that are stored elsewhere; the first one links as told."""
    layout = store.layout
    values = tuple(np.zeros(column.shape, column.dtype) for column in layout.scalars)
    for k in range(layout.frame_stack - 1):
        start = store.eviction.reserve(0)
        store.rows.write(start, [b""] * len(layout.images), 1 if k else link, Flag.CONTEXT | Flag.LOST, 0, values)
    return Flag.RESTART | Flag.LOST


def _append_row(store: FrameStore, state: Stream, step: Step, which: int, link: int, flags: int) -> int:
    """Code the frames of a step of an observation and write it as a row, which counts once the change is published."""
    rows, images, frames = store.rows, len(store.codings), []
    rows.touched = True
    stack, values, coded = step
    for pixels, planar in zip(stack, store.planar, strict=False):
        frame = pixels[which]
        frames.append(np.ascontiguousarray(frame.transpose(1, 2, 0) if planar else frame))
    if len(stack) > images:
        values = (*(part[which] for part in stack[images:]), *values)
    row = rows.next
    blobs, back = store.encode_row(store.codings, frames, state, row, rows.tail, coded)
    start = store.eviction.reserve(sum(map(len, blobs)))
    if back and row - back < rows.tail:  # making room evicted the reference
        state.group_size = 0
        blobs, back = store.encode_row(store.codings, frames, state, row, rows.tail, coded)
        start = store.eviction.reserve(sum(map(len, blobs)))
    rows.write(start, blobs, link, flags, back, values)
    state.needed = (*state.needed, row - back)[-store.layout.frame_stack :]
    return row

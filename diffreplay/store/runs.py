"""Rows of several streams at once, where each goes on plainly: what vector environments add nearly always."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffreplay.store.coding import MAX_LINK
from diffreplay.store.layout import BLOCK_ROWS, LOG_EXTENT_BYTES, Counter, Flag
from diffreplay.store.observations import Step
from diffreplay.store.streams import Stack, Stream, continues, same
from diffreplay.store.writer import FrameStore


def append_run(
    store: FrameStore, streams: Sequence[object], before: Sequence[Stack], steps: Sequence[Step], capacity: int
) -> bool:
    """Within a change, append the steps after `before` of as many streams in one go, as `add_observation` would each.

    Returns:
        Whether it was done. Nothing is where an episode begins, a step does not follow, or a reference set, a block of
        the index or more memory than a cap leaves may be due: then they are appended one by one.
    """
    states = _going_on(store, streams, before, steps)
    if not states or not _fits(store, states, steps, capacity):
        return False
    rows, layout, images, count = store.rows, store.layout, len(store.codings), len(states)
    first = rows.next
    rows.touched = True
    for stream in streams:
        store.note(stream)
    previous = [state.row for state in states]
    columns = {"link": np.arange(first, first + count) - previous, "flags": np.zeros(count, np.uint8)}
    for place, column in enumerate(layout.scalars):
        if place < layout.stacked:
            columns[column.name] = np.stack([step.stack[images + place][-1] for step in steps])
        else:
            columns[column.name] = np.array([step.values[place - layout.stacked] for step in steps])
    store.eviction.reserve(sum([len(one.blob) for step in steps for one in step.coded]))
    rows.write_many([[one.blob for one in step.coded] for step in steps], columns)
    rows.start_transitions(previous)
    for row, (state, step) in enumerate(zip(states, steps, strict=True), first):
        state.row = row
        state.needed = (*state.needed, row)[-layout.frame_stack :]
        state.keep(step.stack)
    return True


def _going_on(
    store: FrameStore, streams: Sequence[object], before: Sequence[Stack], steps: Sequence[Step]
) -> list[Stream]:
    """The streams, if each goes on plainly; else none."""
    states, tail = [], store.tail
    oldest = max(tail, store.rows.next + len(steps) - MAX_LINK + store.layout.frame_stack)  # to which links reach
    for name, obs, step in zip(streams, before, steps, strict=True):
        state = store.streams.get(name)
        if state is None or not state.is_open or state.row < oldest or not step.coded:
            return []
        if not state.needed or min(state.needed) < tail:
            return []
        if not same(obs, state.stack) or not continues(step.stack, obs):
            return []
        states.append(state)
    return states


def _fits(store: FrameStore, states: Sequence[Stream], steps: Sequence[Step], capacity: int) -> bool:
    """Whether rows fit in the memory that there is, once as many transitions as must have left for them."""
    rows, log, count = store.rows, store.rows.log, len(states)
    first, end = rows.next, rows.next + count
    if first % BLOCK_ROWS == 0 or first // BLOCK_ROWS != (end - 1) // BLOCK_ROWS:
        return False
    if any(planner.due(row) for planner in store.planning.planners for row in range(first, end)):
        return False
    begin = rows.log_end()
    stop = begin + sum([len(one.blob) for step in steps for one in step.coded])
    if log.place(begin, stop - begin) != begin or log.reaches_round(stop) or end - rows.tail > store.layout.max_rows:
        return False
    more = max(-(-stop // LOG_EXTENT_BYTES) - log.ring.end, 0)
    if not store.budget.allows(more * LOG_EXTENT_BYTES):
        return False
    return _evict(store, min(min(state.needed) for state in states), count, capacity)


def _evict(store: FrameStore, needed: int, count: int, capacity: int) -> bool:
    """Have rows leave until `count` more transitions may be held; nothing where row `needed` might have to."""
    excess = store.counter(Counter.TRANSITIONS) + count - capacity
    if excess > 0:
        flags = store.index.run("flags", store.tail, min(needed, store.tail + 4 * excess + BLOCK_ROWS))
        if np.count_nonzero(flags & Flag.STARTS) < excess:
            return False
        store.eviction.leave_room(count, capacity)
    return True

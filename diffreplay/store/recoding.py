"""Frames coded anew: where they are coded against a reference set that their rows cannot name."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Buffer
from diffreplay.store.index import NO_ROW
from diffreplay.store.layout import BLOCK_ROWS, SET_SLOTS
from diffreplay.store.sets import SetWriter
from diffreplay.store.state import StoredRows
from diffreplay.store.writer import FrameStore


def fit_ranges(store: FrameStore, rows: StoredRows) -> StoredRows:
    """Rows that are written next, as their blocks of the index can tell of them.

    A block tells of a few changes of the reference set. Where it is full, the frames of the rows are coded anew,
    against the set of the row before or the newest one.
    """
    for image, sets in enumerate(store.sets):
        named = rows.named[:, image]
        changes = int(np.count_nonzero(named[1:] != named[:-1]))
        crossed = (store.rows.next % BLOCK_ROWS + len(named)) // BLOCK_ROWS  # blocks that begin among the rows
        if 1 + changes + crossed > store.index.ranges_left(store.rows.next, image):
            rows = recode(store, image, rows, np.ones(len(named), bool), None, _last_set(store, sets, image))
    return rows


def _last_set(store: FrameStore, sets: SetWriter, image: int) -> int:
    """The set of the row before the next one; the newest where that begins a block."""
    row = store.rows.next
    if row % BLOCK_ROWS == 0:
        return sets.coding_set
    slot = int(store.index.slots(np.array([row - 1]), image)[0])
    numbers = sets.numbers()
    return numbers.start + (slot - numbers.start) % SET_SLOTS if slot < SET_SLOTS else NO_ROW


def recode(
    store: FrameStore, image: int, rows: StoredRows, which: NDArray[np.bool_], reference: Any, number: int
) -> StoredRows:
    """Rows with the frames of an image coded against another set.

    Args:
        store: which they are for.
        image: whose frames.
        rows: with `sets`.
        which: (N,) of the rows, those that change.
        reference: the open set that their frames are coded against; None for the ones that the rows name.
        number: the set that they are to be coded against; NO_ROW for none.
    """
    coding, sets = store.codings[image], store.sets[image]
    to = sets.reference if number == sets.coding_set else sets.opened(number, coding.codec)
    coded = b"".join(rows.coded)
    blobs: list[list[Buffer]] = []
    place = 0
    for lengths in rows.lengths.tolist():
        stops = np.cumsum([place, *lengths]).tolist()
        blobs.append([coded[begin:end] for begin, end in pairwise(stops)])
        place = stops[-1]
    named = rows.named.copy()
    size = coding.image.frame_bytes
    if reference is None:
        which = which & (named[:, image] != number)
    for place in np.flatnonzero(which).tolist():
        blob = blobs[place][image]
        if 0 < len(blob) < size:
            own = reference if reference is not None else sets.opened(int(named[place, image]), coding.codec)
            frame = np.empty((1, *coding.image.frame_shape), np.uint8)
            data = coding.codec.gather([blob], size)
            coding.codec.decode(data, np.array([len(blob)], np.intp), own, frame)
            blobs[place][image] = bytes(coding.shorter(coding.codec.encode(frame[0], to), frame[0]))
        named[place, image] = number
    found = np.array([[len(blob) for blob in row] for row in blobs], np.uint32).reshape(rows.lengths.shape)
    return rows._replace(lengths=found, coded=[b"".join([blob for row in blobs for blob in row])], sets=named)

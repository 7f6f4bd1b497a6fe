"""Which rows of a snapshot are the steps of which episode."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from diffreplay.offline import MappedFrames
from diffreplay.store import NO_ROW, Flag, Rows

ROWS_AT_ONCE = 1 << 16


class EpisodeRows:
    """Goes over the episodes, in the order in which they begin, and gives the rows of each one's steps.

    Steps that cannot be read, as frames of theirs were evicted, are left out, and so is what is not two steps long.
    Where several steps follow one, each but the first begins an episode of its own with that step.

    Args:
        frames: of the snapshot.

    Attributes:
        steps: actions in all episodes together.
    """

    def __init__(self, frames: MappedFrames) -> None:
        rows, before = _steps(frames)
        places = np.searchsorted(rows, before)
        known = (places < len(rows)) & (before != NO_ROW)
        known[known] = rows[places[known]] == before[known]
        first_follower = np.zeros(len(rows), bool)
        followed = np.flatnonzero(known)
        first_follower[followed[np.unique(places[followed], return_index=True)[1]]] = True
        self._before = np.where(known & ~first_follower, before, NO_ROW)
        origin = np.where(first_follower, places, np.arange(len(rows)))
        while not np.array_equal(further := origin[origin], origin):  # each looks twice as far as before
            origin = further
        order = np.argsort(origin, kind="stable")
        self._rows, self._before = rows[order], self._before[order]
        starts = np.flatnonzero(np.diff(origin[order], prepend=-1))
        self._bounds = np.append(starts, len(rows))
        lengths = np.diff(self._bounds) + (self._before[starts] != NO_ROW)
        self._numbers = np.flatnonzero(lengths > 1)
        self.steps = int((lengths[self._numbers] - 1).sum())

    def __len__(self) -> int:
        """Episodes."""
        return len(self._numbers)

    def __iter__(self) -> Iterator[Rows]:
        for number in self._numbers.tolist():
            begin, end = self._bounds[number], self._bounds[number + 1]
            before = self._before[begin : begin + 1]
            yield np.concatenate([before[before != NO_ROW], self._rows[begin:end]])


def _steps(frames: MappedFrames) -> tuple[Rows, NDArray[np.int64]]:
    """The rows of all steps that can be read, and of each the step before it, or NO_ROW."""
    tail, head = frames.bounds()
    found, before = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for first in range(tail, head, ROWS_AT_ONCE):
        rows = np.arange(first, min(first + ROWS_AT_ONCE, head))
        rows = rows[(frames.column("flags", rows) & Flag.CONTEXT) == 0]
        shown = frames.stacks(rows)
        needed = frames.oldest_needed(shown.reshape(-1)).reshape(shown.shape)
        rows = rows[((shown == NO_ROW) | (needed >= tail)).all(axis=1)]
        found.append(rows)
        before.append(frames.previous_steps(rows))
        frames.files.page_out()
    return np.concatenate(found), np.concatenate(before)

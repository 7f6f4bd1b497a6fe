"""Which steps need rows before their own, found by the oldest row that each needs: when that leaves, they are gone."""

from __future__ import annotations

import numpy as np

from diffreplay.store import Rows


class Dependents:
    """For each live row a list of the later steps that need it and none that is older.

    The lists lie in two rings, by the rows' numbers modulo their size, of 4 bytes a place each: at a row, how far from
    it the first step of its list is; at a step, how far from that same row the next one is; 0 where there is none.

    Args:
        size: of the rings, a power of two; live rows must not be more.
    """

    def __init__(self, size: int) -> None:
        self._first, self._next = np.zeros(size, np.uint32), np.zeros(size, np.uint32)

    def add(self, steps: Rows, oldest: Rows) -> None:
        """Note steps (N,) that were not noted before, and the oldest row (N,) that each needs; itself is none."""
        order = np.argsort(oldest, kind="stable")
        order = order[steps[order] > oldest[order]]
        if not len(order):
            return
        steps, oldest = steps[order], oldest[order]
        far, places = steps - oldest, self._places(oldest)
        first = np.append(True, oldest[1:] != oldest[:-1])  # of its row's list
        last = np.append(first[1:], True)
        following = np.append(far[1:], 0)
        following[last] = self._first[places[last]]
        self._next[self._places(steps)] = following
        self._first[places[first]] = far[first]

    def take(self, rows: Rows) -> Rows:
        """The steps, in any order, that need one of `rows` and none that is older; their lists are empty then."""
        far, found = self._first[self._places(rows)], [rows[:0]]
        self._first[self._places(rows)] = 0
        while (more := far > 0).any():
            rows = rows[more]
            found.append(rows + far[more])
            far = self._next[self._places(found[-1])]
        return np.concatenate(found)

    def _places(self, rows: Rows) -> Rows:
        return rows & (len(self._first) - 1)

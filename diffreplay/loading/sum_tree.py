"""A sum tree: numbers that change, drawn in proportion to what they are at a cost that hardly grows with their count.

Not the binary one of the paper (Schaul et al., 2016, appendix B.2.1): each node has FAN children, so that a batch takes
few calls of NumPy, and the sums little memory beside the leaves. A sum is always that of its children as they are, and
never changed by a difference: nothing drifts, and equal leaves have equal sums whatever came before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FAN = 16
TOP = 1 << 12  # nodes of the highest level at most: they are summed up from the left at each change

Values = NDArray[np.float64]
Places = NDArray[np.int64]


class SumTree:
    """Numbers from 0 on, at places [0, size), and their sums.

    Args:
        size: a power of two, at least FAN. A leaf takes 8 bytes, of a large tree 8.6 with its part of the sums.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._levels = [np.zeros(size)]
        while len(self._levels[-1]) > TOP:
            self._levels.append(np.zeros(len(self._levels[-1]) // FAN))
        self._before = np.zeros(len(self._levels[-1]))  # of the highest level: sums up to each node, itself included

    @property
    def leaves(self) -> Values:
        """(size,) the numbers, to be read; `set` changes them."""
        return self._levels[0]

    @property
    def total(self) -> float:
        """The sum of all."""
        return float(self._before[-1])

    def set(self, places: Places, values: Values) -> None:
        """Set the leaves at `places` (N,) to `values` (N,); of a place that comes several times, the last one counts.

        Interrupted, it leaves some or none of it done, and sums that may be wrong: then make a new one.
        """
        self._levels[0][places] = values
        for below, level in zip(self._levels, self._levels[1:], strict=False):
            places = places // FAN
            level[places] = below.reshape(-1, FAN).take(places, axis=0).sum(axis=1)
        np.cumsum(self._levels[-1], out=self._before)

    def find(self, masses: Values) -> Places:
        """The places (N,) at which the sum of the leaves up to and with it first exceeds `masses` (N,).

        A leaf of 0 is never found, whatever rounding does. `total` must not be 0.

        Args:
            masses: in [0, total).
        """
        # What rounding makes reach a node's end is found at its last leaf that is not 0.
        masses = np.minimum(masses, np.nextafter(self._before[-1], 0))
        places = np.searchsorted(self._before, masses, side="right")
        masses = masses - np.where(places, self._before[places - 1], 0)
        rows = np.arange(len(masses))
        for level in self._levels[-2::-1]:
            sums = level.reshape(-1, FAN).take(places, axis=0).cumsum(axis=1)
            masses = np.minimum(masses, np.nextafter(sums[:, -1], 0))
            child = (sums > masses[:, None]).argmax(axis=1)
            masses = masses - np.where(child, sums[rows, child - 1], 0)
            places = places * FAN + child
        return places

    def before(self, place: int) -> float:
        """The sum of the leaves before a place."""
        found = 0.0
        for level in self._levels[:-1]:
            found += float(level[place - place % FAN : place].sum())
            place //= FAN
        return found + (float(self._before[place - 1]) if place else 0.0)

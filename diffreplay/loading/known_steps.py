"""What the trainer's process knows of a buffer's steps, to draw them by their priorities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffreplay.loading.dependents import Dependents
from diffreplay.loading.sum_tree import SumTree
from diffreplay.loading.windows import Seen
from diffreplay.store import Rows

LEAST_PLACES = 1 << 12


class Known(NamedTuple):
    """What is known of rows [tail, head)."""

    tail: int
    head: int
    given: NDArray[np.float32]  # (size,) priorities; 0 of rows that have none
    # All of these follow from `given` and the buffer:
    tree: SumTree  # priority ** alpha of the steps at which a complete window begins
    dependents: Dependents  # those of these steps whose window needs older rows
    seen: Seen  # how far windows were looked for

    def places(self, rows: Rows) -> Rows:
        """Where rows lie in the ring."""
        return rows & (self.tree.size - 1)

    @classmethod
    def nothing(cls, tail: int, head: int) -> Known:
        """Room for rows [tail, head), of which nothing is known."""
        size = max(LEAST_PLACES, 1 << (head - tail - 1).bit_length())
        return cls(tail, head, np.zeros(size, np.float32), SumTree(size), Dependents(size), Seen())

    def unseen(self) -> Known:
        """What rows were given, and no window seen."""
        size = self.tree.size
        return self._replace(tree=SumTree(size), dependents=Dependents(size), seen=Seen())

    def grown(self, tail: int, head: int) -> Known:
        """What rows were given, with room for rows [tail, head), and no window seen."""
        grown, rows = Known.nothing(tail, head), np.arange(max(tail, self.tail), self.head)
        grown.given[grown.places(rows)] = self.given[self.places(rows)]
        return grown

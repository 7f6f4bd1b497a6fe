"""What the planner of an image's reference sets sees of the store."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from diffreplay.store.budget import Budget
from diffreplay.store.layout import Counter
from diffreplay.store.reader import FrameReader
from diffreplay.store.rows import RowWriter


class ImageSource:
    """What a planner may ask of the store about one image, see `codecs.FrameSource`.

    Args:
        store: all that is stored.
        rows: what is written.
        budget: tells what a cap leaves for rows.
        make_room: evicts rows, until the cap leaves so many bytes.
        image: which one it is.
    """

    def __init__(
        self, store: FrameReader, rows: RowWriter, budget: Budget, make_room: Callable[[int], None], image: int
    ) -> None:
        self._store, self._rows, self._budget, self._image = store, rows, budget, image
        self.make_room = make_room

    @property
    def head(self) -> int:
        """Rows written so far, those of the present change included."""
        return self._rows.next

    @property
    def tail(self) -> int:
        """The oldest row that still counts."""
        return self._store.counter(Counter.TAIL)

    @property
    def frame_bytes(self) -> int:
        """Bytes of a raw frame."""
        return self._store.layout.images[self._image].frame_bytes

    @property
    def room(self) -> int | None:
        """Bytes that a cap leaves for this image's frames beside the sets that there are; None without a cap."""
        room, layout = self._budget.room(), self._store.layout
        return room if room is None else room * self.frame_bytes // layout.row_bytes

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Frames of rows, (N, H, W, C)."""
        return self._store.read(rows, self._image)

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Coded bytes of rows, (N,)."""
        return self._store.lengths(rows, self._image)

    def present(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `rows` that hold a frame."""
        return self._store.present(rows)

"""Which row of an ImageStore holds the observation of each entry: one table for all of its images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.errors import CorruptDataError, IndexingError
from diffreplay.store import NO_ROW, Rows
from diffreplay.tables.store import ImageStore


class ImageTable:
    """The entries of an array of observations; each is a row of an ImageStore.

    Stable-Baselines3 writes observations key by key, where a row holds all images. So within `gathering`, what comes
    for a position waits until all of it is there; what never comes stays as it is.

    Args:
        store: where the observations are.
        shape: of the entries: (steps, n_envs), or what `env_major` gives.

    Attributes:
        then: where the same entries are likely to be read next.
    """

    LARGEST = int(np.iinfo(np.uint32).max)

    def __init__(self, store: ImageStore, shape: tuple[int, ...]) -> None:
        self.store = store
        self.then: ImageTable | None = None
        # Rows are numbered for ever: kept in 4 bytes as row - origin + 1, where 0 is none.
        self._entries: NDArray[np.uint32] = np.zeros(shape, np.uint32)
        self._origin = 0
        self._gathered: dict[int, dict[int, NDArray[np.uint8]]] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the entries."""
        return self._entries.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the entries, without the frames they stand for."""
        return self._entries.nbytes

    def rows(self, key: Any, steps: slice = slice(None)) -> Rows:
        """Rows at a NumPy index of the entries, or of some of their steps; NO_ROW where nothing was written."""
        entries = np.asarray(indexed(self._entries[steps], key)).astype(np.int64)
        return np.where(entries > 0, entries + (self._origin - 1), NO_ROW)

    def held(self, rows: Rows) -> Rows:
        """The same rows.

        Raises:
            CorruptDataError: one was evicted.
        """
        evicted = rows < self.store.frames.tail
        if evicted.any() and (rows[evicted] != NO_ROW).any():
            raise CorruptDataError("index: expected observations that are still held, got one evicted under max_bytes")
        return rows

    def read(self, rows: Rows, image: int, then: Rows | None = None) -> NDArray[Any]:
        """An image of the observations in rows of any shape, those of `then` likely to follow: a new array.

        Raises:
            CorruptDataError: one was evicted.
        """
        rows = self.held(rows)
        return self.store.get(rows, image, None if then is None or (then < self.store.frames.tail).any() else then)

    def write(self, position: int, image: int, observations: NDArray[np.uint8]) -> None:
        """Store an image of each environment's observation, which may have to wait for the others of `gathering`."""
        parts = {image: observations}
        if self._gathered is not None:
            parts = self._gathered.setdefault(position, {})
            parts[image] = observations
            if len(parts) < len(self.store.parts):
                return
            del self._gathered[position]
        self._write(position, parts)

    def write_all(self, position: int, observations: Sequence[NDArray[np.uint8]]) -> None:
        """Store each environment's observation, given as its images."""
        self._write(position, dict(enumerate(observations)))

    def _write(self, position: int, parts: dict[int, NDArray[np.uint8]]) -> None:
        """Store images of the observations at a position, where the others stay as they are."""
        if len(parts) < len(self.store.parts):
            rows = self.rows(position)
            rows[rows < self.store.frames.tail] = NO_ROW
            parts = {image: self.store.get(rows, image) for image in range(len(self.store.parts))} | parts
        self.assign(position, self.store.put([parts[image] for image in range(len(parts))]))

    def assign(self, key: Any, rows: Rows) -> None:
        """Have the entries at a NumPy index be those of rows that are held."""
        if rows.max(initial=0) - self._origin >= self.LARGEST:
            self._move_origin(self.store.frames.tail)
        self._entries[key] = rows - self._origin + 1

    def move(self, old: Rows, new: Rows) -> None:
        """Have the entries of rows `old`, which ascend, be those of rows `new` that hold the same observations."""
        rows = self.rows(...)
        places = np.minimum(np.searchsorted(old, rows), len(old) - 1)
        moved = old[places] == rows
        self.assign(moved, new[places[moved]])

    def env_major(self) -> ImageTable:
        """The entries (steps, n_envs) as one axis, environment after environment."""
        flat = ImageTable(self.store, (0,))
        flat._entries, flat._origin = self._entries.swapaxes(0, 1).reshape(-1), self._origin
        return flat

    def clear(self) -> None:
        """Forget all entries."""
        self._entries[:] = 0

    def _move_origin(self, origin: int) -> None:
        """Number from `origin` on, below which all rows are evicted."""
        shift = np.uint32(origin - self._origin)
        moved = np.where(self._entries > shift, self._entries - shift, np.uint32(0))
        self._entries, self._origin = moved, origin

    @staticmethod
    @contextmanager
    def gathering(tables: Sequence[ImageTable]) -> Iterator[None]:
        """Have what is written wait for the other images of the same observation; an exception forgets what waits."""
        try:
            for table in tables:
                table._gathered = {}
            yield
            for table in tables:
                for position, parts in (table._gathered or {}).items():
                    table._write(position, parts)
        finally:
            for table in tables:
                table._gathered = None

    @classmethod
    def of_entries(cls, store: ImageStore, entries: NDArray[np.uint32], origin: int) -> ImageTable:
        """As a pickle of an earlier version has them."""
        table = cls(store, (0,))
        table._entries, table._origin = entries, origin
        return table


def indexed(array: NDArray[Any], key: Any) -> Any:
    """What NumPy gives at an index.

    Raises:
        IndexingError: NumPy does not take it.
    """
    try:
        return array[key]
    except (IndexError, ValueError) as error:  # the latter for lists of different lengths
        raise IndexingError(f"index: expected one that NumPy takes, got {error}") from None

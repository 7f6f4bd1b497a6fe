"""Observations in an ImageStore behind what looks like an array of them.

Stable-Baselines3's buffers write `observations[position] = batch` and read `observations[positions, environments]`. An
`ImageArray` answers both, so that everything else, drawing samples included, stays their own code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike, NDArray

from diffreplay.errors import CorruptDataError, IndexingError, InputError
from diffreplay.sb3.indexing import is_basic, table_key
from diffreplay.sb3.spaces import FrameCut
from diffreplay.sb3.store import ImageStore
from diffreplay.store import NO_ROW, Rows

PIECE = 4096  # observations read at once; more only take more memory


class ImageArray(NDArrayOperatorsMixin):
    """Stands for an array (*table, *shape) of observations; each entry is a row of an ImageStore.

    It is read like a NumPy array: by any index, with its methods, by functions of NumPy. All of them decode what
    they need, methods and functions the whole array. What would be a view of a NumPy array is read-only here, as
    writing to it would change nothing. Entries that were never written are zeros.

    Args:
        store: where the observations are.
        table: shape of the entries.
    """

    LARGEST = int(np.iinfo(np.uint32).max)

    def __init__(self, store: ImageStore, table: tuple[int, ...]) -> None:
        self.store = store
        self._then: ImageArray | None = None
        # Rows are numbered for ever: kept in 4 bytes as row - origin + 1, where 0 is none.
        self._entries: NDArray[np.uint32] = np.zeros(table, np.uint32)
        self._origin = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array that this stands for."""
        return (*self._entries.shape, *self.store.cut.shape)

    @property
    def ndim(self) -> int:
        """Axes of that array."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Pixels of that array."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """uint8."""
        return np.dtype(np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes of that array, which are not taken here: `stats()` of the buffer says what is."""
        return self.size

    @property
    def entry_bytes(self) -> int:
        """Bytes of the entries, without the frames they stand for."""
        return self._entries.nbytes

    def __len__(self) -> int:
        return len(self._entries)

    def __setitem__(self, position: int, observations: NDArray[np.uint8]) -> None:
        """Store one observation of each environment, (n_envs, *shape) uint8, which is copied.

        Raises:
            InputError: wrong dtype or shape, or this array is flattened.
            IndexingError: not the number of a position.
        """
        if isinstance(position, bool) or not isinstance(position, int | np.integer):
            raise IndexingError(
                "index: expected the number of a position, observations[position] = batch with one observation of each "
                f"environment, got {position!r}; nothing else can be assigned"
            )
        if not -len(self) <= position < len(self):
            raise IndexingError(f"index: expected a position below {len(self)}, got {position}")
        expected, new = (self.store.n_envs, *self.store.cut.shape), np.asarray(observations)
        if new.dtype != np.uint8 or new.shape != expected:
            raise InputError(f"observations: expected uint8 of shape {expected}, got {new.dtype} of shape {new.shape}")
        if self._entries.ndim == 1:
            raise InputError(
                "observations: expected reset() before the next rollout, as this one was flattened to be read"
            )
        rows = self.store.put(new)
        if rows.max() - self._origin >= self.LARGEST:
            self._move_origin(self.store.frames.tail)
        self._entries[position] = rows - self._origin + 1

    def __getitem__(self, key: Any) -> Any:
        """Pixels at any index that NumPy takes, as a new array; read-only where NumPy would give a view.

        Raises:
            IndexingError: NumPy does not take the index.
            CorruptDataError: an observation was evicted under a byte cap.
        """
        taken = table_key(key, self._entries.ndim, self.shape)
        pixels = self._pixels(key) if taken is None else self._whole(taken)
        if isinstance(pixels, np.ndarray) and is_basic(key):
            pixels.flags.writeable = False
        return pixels

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[position] for position in range(len(self)))

    def __contains__(self, value: Any) -> bool:
        return value in np.asarray(self)

    def __bool__(self) -> bool:
        return bool(np.asarray(self)) if self.size == 1 else self._refuse_truth()

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """All pixels, decoded: as many bytes as Stable-Baselines3's own array takes."""
        if copy is False:
            raise InputError("copy: expected True or None, got False, as the pixels must be decoded into a new array")
        return self._whole(()).astype(self.dtype if dtype is None else dtype, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(isinstance(out, ImageArray) for out in kwargs.get("out", ())) or method == "at":
            raise InputError("observations: expected to be read, got an operation that changes them in place")
        arrays = [np.asarray(value) if isinstance(value, ImageArray) else value for value in inputs]
        return getattr(ufunc, method)(*arrays, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """What else a NumPy array has, of all pixels, decoded and read-only."""
        if name.startswith("_") or not hasattr(np.ndarray, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        pixels = np.asarray(self)
        pixels.flags.writeable = False
        return getattr(pixels, name)

    def read_before(self, other: ImageArray) -> None:
        """Have an index of this array decoded together with the same one of `other`, which is likely to come next."""
        self._then = other

    def rows(self, key: Any) -> Rows:
        """Rows at a NumPy index of the table; NO_ROW where nothing was written."""
        entries = np.asarray(_indexed(self._entries, key)).astype(np.int64)
        return np.where(entries > 0, entries + (self._origin - 1), NO_ROW)

    def env_major(self) -> ImageArray:
        """The entries (steps, n_envs) as one axis, environment after environment."""
        flat = ImageArray(self.store, (0,))
        flat._entries, flat._origin = self._entries.swapaxes(0, 1).reshape(-1), self._origin
        return flat

    def clear(self) -> None:
        """Forget all entries."""
        self._entries[:] = 0

    def _whole(self, key: tuple[Any, ...]) -> NDArray[np.uint8]:
        """Whole observations at an index of the table: a new array."""
        rows = self._held(self.rows(key))
        if rows.size <= PIECE:
            then = None if self._then is None else self._then.rows(key)
            return self.store.get(rows, None if then is None or (then < self.store.frames.tail).any() else then)
        pixels = np.empty((rows.size, *self.store.cut.shape), np.uint8)
        for begin in range(0, rows.size, PIECE):
            pixels[begin : begin + PIECE] = self.store.get(rows.reshape(-1)[begin : begin + PIECE])
        return pixels.reshape(*rows.shape, *self.store.cut.shape)

    def _pixels(self, key: Any) -> Any:
        """Pixels at any index: NumPy says which observation each comes from, and from which place in it."""
        table, shape = self._entries.shape, self.store.cut.shape
        numbers = np.arange(math.prod(table)).reshape(*table, *(1 for _ in shape))
        result = _indexed(np.broadcast_to(numbers, self.shape), key)
        which = np.asarray(result).reshape(-1)
        where = np.broadcast_to(np.arange(math.prod(shape)).reshape(shape), self.shape)[key].reshape(-1)
        order = np.argsort(which, kind="stable")
        needed, begins = np.unique(which[order], return_index=True)
        rows, ends = self._held(self.rows(...).reshape(-1)[needed]), np.append(begins[1:], which.size)
        pixels = np.empty(which.size, np.uint8)
        for first in range(0, len(needed), PIECE):
            piece = slice(first, first + PIECE)
            places = order[begins[first] : ends[piece][-1]]
            observations = self.store.get(rows[piece]).reshape(len(rows[piece]), -1)
            pixels[places] = observations[np.searchsorted(needed[piece], which[places]), where[places]]
        pixels = pixels.reshape(np.shape(result))
        return pixels if isinstance(result, np.ndarray) else pixels[()]

    def _held(self, rows: Rows) -> Rows:
        evicted = rows < self.store.frames.tail
        if evicted.any() and (rows[evicted] != NO_ROW).any():
            raise CorruptDataError("index: expected observations that are still held, got one evicted under max_bytes")
        return rows

    def _refuse_truth(self) -> bool:
        raise InputError("observations: expected .any() or .all() of many pixels, got a question whether they are true")

    def _move_origin(self, origin: int) -> None:
        """Number from `origin` on, below which all rows are evicted."""
        shift = origin - self._origin
        kept = self._entries > shift
        self._entries[kept] -= np.uint32(shift)
        self._entries[~kept] = 0
        self._origin = origin

    def _take_over(self, other: ImageArray) -> None:
        self.store, self._entries, self._origin = other.store, other._entries, other._origin


def recut(tables: list[ImageArray], positions: Iterable[int], cut: FrameCut) -> None:
    """Store anew, cut into other frames, what tables of one store hold at `positions`, oldest first."""
    store = tables[0].store.emptied(cut)
    copies = [ImageArray(store, table._entries.shape) for table in tables]
    for position in positions:
        for copy, table in zip(copies, tables, strict=True):
            copy[position] = table[position]
    for table, copy in zip(tables, copies, strict=True):
        table._take_over(copy)


def _indexed(array: NDArray[Any], key: Any) -> Any:
    try:
        return array[key]
    except (IndexError, ValueError) as error:  # the latter for lists of different lengths
        raise IndexingError(f"index: expected one that NumPy takes, got {error}") from None

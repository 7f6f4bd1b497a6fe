"""An image of observations behind what looks like an array of it.

Stable-Baselines3's buffers write `observations[position] = batch` and read `observations[positions, environments]`. An
`ImageArray` answers both, so that everything else, drawing samples included, stays their own code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike, NDArray

from diffreplay.errors import IndexingError, InputError
from diffreplay.parts import Part
from diffreplay.store import Rows
from diffreplay.tables import ImageStore, ImageTable, indexed, is_basic, table_key

PIECE = 4096  # observations read at once; more only take more memory


class ImageArray(NDArrayOperatorsMixin):
    """Stands for an array (*table, *shape) of one image of observations, whose entries stand in an ImageTable.

    It is read like a NumPy array: by any index, with its methods, by functions of NumPy. All of them decode what
    they need, methods and functions the whole array. What would be a view of a NumPy array is read-only here, as
    writing to it would change nothing. Entries that were never written are zeros.

    Args:
        table: the entries.
        image: which image of their observations.
        shape: of the image in Stable-Baselines3.
    """

    def __init__(self, table: ImageTable, image: int, shape: tuple[int, ...]) -> None:
        self.table, self.image, self._shape = table, image, shape

    @property
    def store(self) -> ImageStore:
        """Where the observations are."""
        return self.table.store

    @property
    def part(self) -> Part:
        """How the image is a stack of frames."""
        return self.store.parts[self.image]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array that this stands for."""
        return (*self.table.shape, *self._shape)

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

    def __len__(self) -> int:
        return self.table.shape[0]

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
        expected, new = (self.store.n_envs, *self._shape), np.asarray(observations)
        if new.dtype != np.uint8 or new.shape != expected:
            raise InputError(f"observations: expected uint8 of shape {expected}, got {new.dtype} of shape {new.shape}")
        if len(self.table.shape) == 1:
            raise InputError(
                "observations: expected reset() before the next rollout, as this one was flattened to be read"
            )
        self.table.write(int(position) % len(self), self.image, new)

    def __getitem__(self, key: Any) -> Any:
        """Pixels at any index that NumPy takes, as a new array; read-only where NumPy would give a view.

        Raises:
            IndexingError: NumPy does not take the index.
            CorruptDataError: an observation was evicted under a byte cap.
        """
        taken = table_key(key, len(self.table.shape), self.shape)
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

    def env_major(self) -> ImageArray:
        """The entries (steps, n_envs) as one axis, environment after environment."""
        return ImageArray(self.table.env_major(), self.image, self._shape)

    def follow(self, other: ImageArray) -> None:
        """Stand for the same observations as another array, from now on."""
        vars(self).update(vars(other))

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "table" not in state:  # of an earlier version
            table = ImageTable.of_entries(state["store"], state["_entries"], state["_origin"])
            if (then := state.get("_then")) is not None:
                table.then = then.table
            state = {"table": table, "image": 0, "_shape": table.store.parts[0].shape}
        vars(self).update(state)

    def _whole(self, key: tuple[Any, ...]) -> NDArray[np.uint8]:
        """Whole observations at an index of the table: a new array."""
        rows = self.table.held(self.table.rows(key))
        if rows.size <= PIECE:
            return self._get(rows, None if self.table.then is None else self.table.then.rows(key))
        pixels = np.empty((rows.size, *self._shape), np.uint8)
        for begin in range(0, rows.size, PIECE):
            pixels[begin : begin + PIECE] = self._get(rows.reshape(-1)[begin : begin + PIECE])
        return pixels.reshape(*rows.shape, *self._shape)

    def _get(self, rows: Rows, then: Rows | None = None) -> NDArray[np.uint8]:
        return self.table.read(rows, self.image, then).reshape(*rows.shape, *self._shape)

    def _pixels(self, key: Any) -> Any:
        """Pixels at any index: NumPy says which observation each comes from, and from which place in it."""
        table, shape = self.table.shape, self._shape
        numbers = np.arange(math.prod(table)).reshape(*table, *(1 for _ in shape))
        result = indexed(np.broadcast_to(numbers, self.shape), key)
        which = np.asarray(result).reshape(-1)
        where = np.broadcast_to(np.arange(math.prod(shape)).reshape(shape), self.shape)[key].reshape(-1)
        order = np.argsort(which, kind="stable")
        needed, begins = np.unique(which[order], return_index=True)
        rows, ends = self.table.held(self.table.rows(...).reshape(-1)[needed]), np.append(begins[1:], which.size)
        pixels = np.empty(which.size, np.uint8)
        for first in range(0, len(needed), PIECE):
            piece = slice(first, first + PIECE)
            places = order[begins[first] : ends[piece][-1]]
            observations = self._get(rows[piece]).reshape(len(rows[piece]), -1)
            pixels[places] = observations[np.searchsorted(needed[piece], which[places]), where[places]]
        pixels = pixels.reshape(np.shape(result))
        return pixels if isinstance(result, np.ndarray) else pixels[()]

    def _refuse_truth(self) -> bool:
        raise InputError("observations: expected .any() or .all() of many pixels, got a question whether they are true")

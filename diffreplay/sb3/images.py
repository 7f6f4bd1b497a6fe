"""Observations in a FrameStore behind the few array operations that Stable-Baselines3's buffers use.

Those buffers write `observations[position] = batch` and read `observations[positions, environments]`. An
`ImageArray` answers both, so that everything else, drawing samples included, stays their own code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Codec
from diffreplay.errors import CorruptDataError, InputError
from diffreplay.frames import FrameStore
from diffreplay.reader import NO_ROW, Rows
from diffreplay.sb3.pickling import restore_store, store_state
from diffreplay.sb3.spaces import FrameCut


class ImageStore:
    """The observations of `n_envs` environments, each frame stored once, each environment a stream of its own.

    Args:
        cut: how an observation is a stack of frames.
        n_envs: environments.
        observations: how many the store must hold at most, over all environments.
        codec: how frames are coded.
        max_bytes: cap on the bytes that the frames take; the oldest leave first.
    """

    def __init__(
        self, cut: FrameCut, n_envs: int, observations: int, codec: Codec, max_bytes: int | None = None
    ) -> None:
        self.cut, self.n_envs = cut, n_envs
        self._arguments = (cut, n_envs, observations, codec, max_bytes)
        # At worst no frame of a stack is found in the one before it.
        self.frames = FrameStore(cut.frame_shape, cut.frame_stack, observations * cut.frame_stack, codec, (), max_bytes)
        self._newest: NDArray[np.uint8] | None = None
        self._newest_rows = np.full(n_envs, NO_ROW, np.int64)
        self._expected: tuple[Rows, NDArray[np.uint8]] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes taken now."""
        return self.frames.allocated_bytes() + (0 if self._newest is None else self._newest.nbytes)

    def put(self, observations: NDArray[np.uint8]) -> Rows:
        """Store one observation of each environment, unless it is the one stored last for that environment.

        Args:
            observations: (n_envs, *shape) uint8; kept without a copy.

        Returns:
            (n_envs,) rows that `get` takes.
        """
        known = self._known(observations)
        if not known.all():
            stacks = self.cut.stacks(observations)
            for env in np.flatnonzero(~known).tolist():
                self._newest_rows[env] = self._append(stacks[env], env)
            self._newest = observations
        return self._newest_rows.copy()

    def get(self, rows: Rows, then: Rows | None = None) -> NDArray[np.uint8]:
        """Observations at `rows` of any shape: a new array (*rows.shape, *shape); zeros at NO_ROW.

        Args:
            rows: what `put` returned.
            then: of the same shape, what the next call will probably ask for. Most frames of a step's two
                observations are the same, so both are read at once.
        """
        expected, self._expected = self._expected, None
        if expected is not None and np.array_equal(expected[0], rows):
            return expected[1]
        if then is None:
            return self._read(rows)
        both = self._read(np.stack([rows, then]))
        self._expected = then, both[1]
        return both[0]

    def oldest_needed(self, rows: Rows) -> int:
        """The oldest row without which one of `rows` cannot be read."""
        stacks = self.frames.stacks(rows).reshape(-1)
        return int(self.frames.oldest_needed(stacks[stacks != NO_ROW]).min())

    def newest_needed(self) -> int:
        """The oldest row that the newest observations need, which the next ones build on."""
        return self.frames.tail if self._newest is None else self.oldest_needed(self._newest_rows)

    def clear(self) -> None:
        """Forget all observations; reference frames stay."""
        self.evict_before(self.frames.head)
        self._newest = self._expected = None

    def evict_before(self, row: int) -> None:
        """Drop all rows before `row`, which none that is still wanted may need."""
        if self.frames.tail < row:
            self.frames.evict_before(row)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """To pickle: everything, coded as it is, and to be restored into memory of its own."""
        state = {"frames": store_state(self), "newest": self._newest, "newest_rows": self._newest_rows}
        return ImageStore, self._arguments, state

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore_store(self.frames, state["frames"])
        self._newest, self._newest_rows = state["newest"], state["newest_rows"]

    def _known(self, observations: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which environments' observations are those stored last."""
        alive = self._newest_rows >= self.frames.tail
        if self._newest is None or not alive.any():
            return np.zeros(self.n_envs, bool)
        pairs = zip(observations, self._newest, strict=True)
        return alive & np.array([np.array_equal(new, old) for new, old in pairs])

    def _append(self, stack: NDArray[np.uint8], env: int) -> int:
        """Store a stack (frame_stack, C, H, W); what does not continue the stack before begins an episode."""
        before = self.frames.streams.get(env)
        first = before is None or not np.array_equal(stack[:-1], before.stack[1:])
        return self.frames.append(stack, (), env, first=first)

    def _read(self, rows: Rows) -> NDArray[np.uint8]:
        stacks = self.frames.stacks(rows.reshape(-1))
        unique, places = np.unique(stacks, return_inverse=True)
        frames = np.empty((len(unique), *self.cut.frame_shape), np.uint8)
        zeros = int(np.searchsorted(unique, NO_ROW, side="right"))
        frames[:zeros] = 0
        if zeros < len(unique):
            self.frames.decode(self.frames.fetch(unique[zeros:], frames[zeros:]), frames[zeros:])
        stacked = frames[places.reshape(stacks.shape)]
        return self.cut.observations(stacked).reshape(*rows.shape, *self.cut.shape)


class ImageArray:
    """Stands for an array (*table, *shape) of observations; each entry is a row of an ImageStore.

    Reading gives new arrays, as indexing with integer arrays does. Entries that were never written are zeros.

    Args:
        store: where the observations are.
        table: shape of the entries.
        then: which array is likely to be read at the same index next.
    """

    LARGEST = int(np.iinfo(np.uint32).max)

    def __init__(self, store: ImageStore, table: tuple[int, ...], then: ImageArray | None = None) -> None:
        self.store, self._then = store, then
        # Rows are numbered for ever: kept in 4 bytes as row - origin + 1, where 0 is none.
        self._entries: NDArray[np.uint32] = np.zeros(table, np.uint32)
        self._origin = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array that this stands for."""
        return (*self._entries.shape, *self.store.cut.shape)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """uint8."""
        return np.dtype(np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes of the entries, without the frames they stand for."""
        return self._entries.nbytes

    def __len__(self) -> int:
        return len(self._entries)

    def __setitem__(self, position: int, observations: NDArray[np.uint8]) -> None:
        """Store one observation of each environment, (n_envs, *shape) uint8; the array is kept, not copied.

        Raises:
            InputError: wrong dtype or shape.
        """
        expected = (self.store.n_envs, *self.store.cut.shape)
        if observations.dtype != np.uint8 or observations.shape != expected:
            raise InputError(
                f"observations: expected uint8 of shape {expected}, got {observations.dtype} of shape "
                f"{observations.shape}"
            )
        rows = self.store.put(observations)
        if rows.max() - self._origin >= self.LARGEST:
            self._move_origin(self.store.frames.tail)
        self._entries[position] = rows - self._origin + 1

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        """Observations at any NumPy index of the table's axes; the pixels' axes come whole.

        Raises:
            InputError: the index goes beyond the table.
            CorruptDataError: an observation was evicted under a byte cap.
        """
        keys = key if isinstance(key, tuple) else (key,)
        axes = self._entries.ndim
        if any(not (isinstance(part, slice) and part == slice(None)) for part in keys[axes:]):
            raise InputError(f"index: expected one over the first {axes} axes and whole observations, got {key!r}")
        rows = self.rows(keys[:axes])
        evicted = rows < self.store.frames.tail
        if evicted.any() and (rows[evicted] != NO_ROW).any():
            raise CorruptDataError("index: expected observations that are still held, got one evicted under max_bytes")
        return self.store.get(rows, None if self._then is None else self._then.rows(keys[:axes]))

    def rows(self, key: Any) -> Rows:
        """Rows at a NumPy index of the table; NO_ROW where nothing was written."""
        entries = np.asarray(self._entries[key]).astype(np.int64)
        return np.where(entries > 0, entries + (self._origin - 1), NO_ROW)

    def env_major(self) -> ImageArray:
        """The entries (steps, n_envs) as one axis, environment after environment."""
        flat = ImageArray(self.store, (0,))
        flat._entries, flat._origin = self._entries.swapaxes(0, 1).reshape(-1), self._origin
        return flat

    def clear(self) -> None:
        """Forget all entries."""
        self._entries[:] = 0

    def _move_origin(self, origin: int) -> None:
        """Number from `origin` on, below which all rows are evicted."""
        shift = origin - self._origin
        kept = self._entries > shift
        self._entries[kept] -= np.uint32(shift)
        self._entries[~kept] = 0
        self._origin = origin

"""The observations of several environments in a FrameStore, each a stack of frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Codec
from diffreplay.sb3.pickling import restore_store, store_state
from diffreplay.sb3.spaces import FrameCut
from diffreplay.sb3.watch import FrameWatch
from diffreplay.store import NO_ROW, FrameStore, Rows, append


class ImageStore:
    """The observations of `n_envs` environments, each frame stored once, each environment a stream of its own.

    Args:
        cut: how an observation is a stack of frames.
        n_envs: environments.
        observations: how many the store must hold at most, over all environments.
        codec: how frames are coded.
        max_bytes: cap on the bytes that the frames take; the oldest leave first.
        log_limit: as of FrameStore; stores that earlier versions pickled have none.
    """

    def __init__(
        self,
        cut: FrameCut,
        n_envs: int,
        observations: int,
        codec: Codec,
        max_bytes: int | None = None,
        log_limit: int | None = None,
    ) -> None:
        self.cut, self.n_envs = cut, n_envs
        self._arguments = (cut, n_envs, observations, codec, max_bytes, log_limit)
        max_rows = observations * cut.frame_stack  # at worst no frame of a stack is found in the one before it
        self.frames = FrameStore(
            [cut.frame_shape],
            cut.frame_stack,
            max_rows,
            codec,
            (),
            max_bytes,
            log_limit=log_limit,
            planar=[cut.planar],
        )
        self.watch = FrameWatch(cut.channels) if cut.guessed and cut.channels > 1 else None
        self._expected: tuple[Rows, NDArray[np.uint8]] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes taken now."""
        return self.frames.allocated_bytes()

    def emptied(self, cut: FrameCut) -> ImageStore:
        """A new store for the same observations, cut in another way."""
        return ImageStore(cut, *self._arguments[1:])

    def put(self, observations: NDArray[np.uint8]) -> Rows:
        """Store one observation of each environment, unless it is the one stored last for that environment.

        Args:
            observations: (n_envs, *shape) uint8; copied.

        Returns:
            (n_envs,) rows that `get` takes.
        """
        return np.array([self._put(stack, env) for env, stack in enumerate(self.cut.stacks(observations))], np.int64)

    def _put(self, stack: NDArray[np.uint8], env: int) -> int:
        newest = self.frames.streams.get(env)
        if newest is None or newest.row < self.frames.tail:
            return append(self.frames, (stack,), (), env, first=True)
        (before,) = newest.stack
        if np.array_equal(stack, before):
            return newest.row
        if self.watch is not None:
            pair = (frames if self.cut.planar else frames.transpose(0, 3, 1, 2) for frames in (before, stack))
            self.watch.see(*(frames.reshape(-1, *frames.shape[2:]) for frames in pair))
        # What does not continue the stack before begins an episode.
        return append(self.frames, (stack,), (), env, first=not np.array_equal(stack[:-1], before[1:]))

    def better_cut(self) -> FrameCut | None:
        """How the observations so far show that they are to be cut, once that is known and another than `cut`."""
        channels = None if self.watch is None else self.watch.frame_channels()
        if channels is None:
            return None
        self.watch = None
        return None if channels == self.cut.frame_shape[2] else self.cut.with_frame_channels(channels)

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
        tail = self.frames.tail
        rows = np.array([stream.row for stream in self.frames.streams.values() if stream.row >= tail], np.int64)
        return self.oldest_needed(rows) if len(rows) else tail

    def clear(self) -> None:
        """Forget all observations; reference frames stay."""
        self.evict_before(self.frames.head)
        self._expected = None

    def evict_before(self, row: int) -> None:
        """Drop all rows before `row`, which none that is still wanted may need."""
        if self.frames.tail < row:
            self.frames.evict_before(row)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """To pickle: everything, coded as it is, and to be restored into memory of its own."""
        return ImageStore, self._arguments, {"frames": store_state(self), "watch": self.watch}

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore_store(self.frames, state["frames"])
        self.watch = state.get("watch")

    def _read(self, rows: Rows) -> NDArray[np.uint8]:
        stacks = self.frames.stacks(rows.reshape(-1))
        unique, places = np.unique(stacks, return_inverse=True)
        frames = np.empty((len(unique), *self.cut.frame_shape), np.uint8)
        zeros = int(np.searchsorted(unique, NO_ROW, side="right"))
        frames[:zeros] = 0
        if zeros < len(unique):
            frames[zeros:] = self.frames.read(unique[zeros:])
        stacked = frames[places.reshape(stacks.shape)]
        return self.cut.observations(stacked).reshape(*rows.shape, *self.cut.shape)

"""The images of the observations of several environments in a FrameStore."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray

from diffreplay.codecs import Codec
from diffreplay.parts import Part
from diffreplay.store import NO_ROW, FrameStore, Rows, Stack, Stream, append, continues, same
from diffreplay.tables.pickling import restore_store, store_state
from diffreplay.tables.watch import FrameWatch


class ImageStore:
    """The observations of `n_envs` environments, each environment a stream of its own.

    A row is a step with a coded frame of each image, and an observation that differs in one image is stored with all
    of them.

    Args:
        parts: the images of an observation, of one `frame_stack`.
        n_envs: environments.
        observations: how many the store must hold at most, over all environments.
        codec: how frames are coded.
        max_bytes: cap on the bytes that the frames take; the oldest leave first.
        log_limit: as of FrameStore; stores that earlier versions pickled have none.

    Attributes:
        frames: where they are.
        watches: by names of parts, what looks at observations that are stored to tell how many frames they have.
    """

    def __init__(
        self,
        parts: Iterable[Part],
        n_envs: int,
        observations: int,
        codec: Codec,
        max_bytes: int | None = None,
        log_limit: int | None = None,
    ) -> None:
        self.parts = tuple(parts)
        self.n_envs = n_envs
        self._arguments = n_envs, observations, codec, max_bytes, log_limit
        frame_stack = self.parts[0].frame_stack
        self.frames = FrameStore(
            [part.image_shape for part in self.parts],
            frame_stack,
            observations * frame_stack,  # at worst no frame of a stack is found in the one before it
            codec,
            (),
            max_bytes,
            log_limit=log_limit,
            planar=[part.planar_stack for part in self.parts],
        )
        self.watches: dict[str, FrameWatch] = {}
        self._expected: dict[int, tuple[Rows, NDArray[Any]]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes taken now."""
        return self.frames.allocated_bytes()

    def put(self, observations: Sequence[NDArray[np.uint8]]) -> Rows:
        """Store one observation of each environment, unless it is the one stored last for that environment.

        Args:
            observations: of each image (n_envs, *shape) of its dtype, in any shape of so many pixels; copied.

        Returns:
            (n_envs,) rows that `get` takes.
        """
        stacks = [
            part.stacks(np.ascontiguousarray(images)) for part, images in zip(self.parts, observations, strict=True)
        ]
        return np.array([self.put_one(stack, env) for env, stack in enumerate(zip(*stacks, strict=True))], np.int64)

    def put_one(self, stack: Stack, env: int) -> int:
        """Store an observation of an environment, unless it is the one stored last for it; return its row."""
        newest = self.newest(env)
        if newest is None:
            return append(self.frames, stack, (), env, first=True)
        if same(stack, newest.stack):
            return newest.row
        for part, before, after in zip(self.parts, newest.stack, stack, strict=True) if self.watches else ():
            if part.name in self.watches:
                self.watches[part.name].see(_planes(part, before), _planes(part, after))
        # What does not continue the stack before begins an episode.
        return append(self.frames, stack, (), env, first=not continues(stack, newest.stack))

    def newest(self, env: int) -> Stream | None:
        """What was stored last for an environment, if all of its frames are still held."""
        stream = self.frames.streams.get(env)
        return None if stream is None or min(stream.row, *stream.needed) < self.frames.tail else stream

    def get(self, rows: Rows, image: int, then: Rows | None = None) -> NDArray[Any]:
        """An image of the observations at `rows` of any shape: a new array (*rows.shape, *shape); zeros at NO_ROW.

        Args:
            rows: what `put` returned.
            image: which one.
            then: of the same shape, what the next call for this image will probably ask for. Most frames of a step's
                two observations are the same, so both are read at once.
        """
        expected = self._expected.pop(image, None)
        if expected is not None and np.array_equal(expected[0], rows):
            return expected[1]
        if then is None:
            return self._read(rows, image)
        both = self._read(np.stack([rows, then]), image)
        self._expected[image] = then, both[1]
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
        self._expected.clear()

    def evict_before(self, row: int) -> None:
        """Drop all rows before `row`, which none that is still wanted may need."""
        if self.frames.tail < row:
            self.frames.evict_before(row)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """To pickle: everything, coded as it is, and to be restored into memory of its own."""
        return ImageStore, (self.parts, *self._arguments), {"frames": store_state(self), "watches": self.watches}

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore_store(self.frames, state["frames"])
        if (watch := state.get("watch")) is not None:  # of an earlier version
            state["watches"] = {self.parts[0].name: watch}
        self.watches = state.get("watches", {})

    def _read(self, rows: Rows, image: int) -> NDArray[Any]:
        part = self.parts[image]
        stacks = self.frames.stacks(rows.reshape(-1))
        unique, places = np.unique(stacks, return_inverse=True)
        frames = np.empty(part.window_shape(len(unique), 1), part.dtype)
        if part.planar and len(unique):
            self.frames.read_windows(unique[:, None], self.frames.tail, frames, image)
        elif part.dtype.itemsize > 1:
            halves = np.empty((len(unique), *part.image_shape), np.uint8)
            self.frames.read_into(unique, self.frames.tail, halves, image)
            part.decoded(halves, frames.reshape(len(unique), *frames.shape[2:]))
        elif len(unique):
            self.frames.read_into(unique, self.frames.tail, frames.reshape(-1, *part.image_shape), image)
        stacked = frames[:, 0][places.reshape(stacks.shape)]
        return part.first(th.from_numpy(stacked)).numpy().reshape(*rows.shape, *part.shape)


def _planes(part: Part, stack: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An observation of a part, given as a stack, as (channels, H, W)."""
    observation = part.observation(stack)
    return observation.transpose(2, 0, 1) if part.spec.layout == "HWC" else observation

"""Places for batches: arrays that a batch is drawn into, in private or in shared memory."""

from __future__ import annotations

import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffreplay.arena import Arena, round_up
from diffreplay.batch import ReplayBatch
from diffreplay.layout import Layout


@dataclass(frozen=True)
class BatchSpec:
    """Shapes of a batch of `size` transitions."""

    size: int
    frame_stack: int
    frame_shape: tuple[int, int, int]  # (H, W, C)
    action_shape: tuple[int, ...]
    action_dtype: str

    @staticmethod
    def of(layout: Layout, size: int) -> BatchSpec:
        """What a buffer of that layout gives."""
        action = next(column for column in layout.scalars if column.name == "action")
        return BatchSpec(size, layout.frame_stack, layout.frame_shape, action.shape, action.dtype)

    def nbytes(self, length: int) -> int:
        """Bytes of a place for a batch of `length` frames a transition."""
        pixels = length * int(np.prod(self.frame_shape))
        action = int(np.prod(self.action_shape)) * np.dtype(self.action_dtype).itemsize
        return round_up(self.size * (pixels + action + 8) + 3 * 64)


class BatchPlace:
    """Arrays for one batch, laid out in `memory`, or in new memory for `length` frames a transition."""

    def __init__(self, spec: BatchSpec, length: int, memory: NDArray[np.uint8] | None = None) -> None:
        self.spec = spec
        self._memory = np.empty(spec.nbytes(length), np.uint8) if memory is None else memory
        self._taken = 0
        self.action: NDArray[Any] = self._take(spec.action_dtype, (spec.size, *spec.action_shape))
        self.reward: NDArray[np.float32] = self._take("f4", (spec.size, 1))
        self.discount: NDArray[np.float32] = self._take("f4", (spec.size, 1))
        self._pixels = self._memory[self._taken :]

    def _take(self, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        array = self._memory[self._taken : self._taken + nbytes].view(dtype).reshape(shape)
        self._taken += round_up(nbytes, 64)
        return array

    def window(self, length: int) -> NDArray[np.uint8]:
        """(size, length * C, H, W): `length` frames for each transition, oldest first."""
        height, width, channels = self.spec.frame_shape
        shape = (self.spec.size, length * channels, height, width)
        return self._pixels[: int(np.prod(shape))].reshape(shape)

    def batch(self, window: NDArray[np.uint8]) -> ReplayBatch:
        """The batch that was drawn here: a view of `window`, which came from here, and copies of the rest."""
        action, reward, discount = (torch.from_numpy(a.copy()) for a in (self.action, self.reward, self.discount))
        channels = self.spec.frame_stack * self.spec.frame_shape[2]
        return ReplayBatch(torch.from_numpy(window), action, reward, discount, channels)


class Slots:
    """Places for batches in shared memory, which one process hands out and others fill.

    Pickles small to a process that is being started.
    """

    def __init__(self, spec: BatchSpec, count: int, arena: Arena | None = None) -> None:
        self.spec, self.count = spec, count
        self.longest = 2 * spec.frame_stack  # two whole observations, where they share nothing
        self.arena = arena or Arena(spec.nbytes(self.longest) * count)
        self.free: deque[int] = deque(range(count))

    def __reduce__(self) -> tuple[Any, ...]:
        return Slots, (self.spec, self.count, self.arena)

    def place(self, slot: int) -> BatchPlace:
        """The arrays of a slot."""
        nbytes = self.spec.nbytes(self.longest)
        return BatchPlace(self.spec, self.longest, self.arena.array("u1", (nbytes,), slot * nbytes))

    def deliver(self, slot: int, length: int) -> ReplayBatch:
        """The batch of `length` frames a transition in a slot, which is free again once the batch is gone.

        Where that would leave no slot to fill, as older batches are kept, the batch is a copy.
        """
        place = self.place(slot)
        window = place.window(length)
        if self.free:
            # torch keeps this very array for as long as any tensor shares its memory.
            weakref.finalize(window, self.free.append, slot)
            return place.batch(window)
        batch = place.batch(window.copy())
        self.free.append(slot)
        return batch

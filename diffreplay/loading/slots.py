"""Places for batches: arrays that a batch is drawn into, in private or in shared memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from diffreplay.batch import ReplayBatch
from diffreplay.loading.page_lock import lock_pages
from diffreplay.store import Arena, Layout, fence, round_up

WORKER_BITS = 16
WORKER_MASK = (1 << WORKER_BITS) - 1  # the bits of a ticket that name the worker


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
        pixels = length * math.prod(self.frame_shape)
        action = math.prod(self.action_shape) * np.dtype(self.action_dtype).itemsize
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
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        array = self._memory[self._taken : self._taken + nbytes].view(dtype).reshape(shape)
        self._taken += round_up(nbytes, 64)
        return array

    def window(self, length: int) -> NDArray[np.uint8]:
        """(size, length * C, H, W): `length` frames for each transition, oldest first."""
        height, width, channels = self.spec.frame_shape
        shape = (self.spec.size, length * channels, height, width)
        return self._pixels[: math.prod(shape)].reshape(shape)

    def batch(self, window: NDArray[np.uint8]) -> ReplayBatch:
        """The batch that was drawn here: a view of `window`, which came from here, and copies of the rest."""
        action, reward, discount = (torch.from_numpy(a.copy()) for a in (self.action, self.reward, self.discount))
        channels = self.spec.frame_stack * self.spec.frame_shape[2]
        return ReplayBatch(torch.from_numpy(window), action, reward, discount, channels)


class Task(NamedTuple):
    """Draw batch `number` into `slot`. The ticket occurs once, and names the worker in its lowest bits."""

    slot: int
    number: int
    ticket: int

    @property
    def worker(self) -> int:
        """Who is to draw it."""
        return self.ticket & WORKER_MASK


class Slots:
    """Places for batches in shared memory, each with the task that was given for it and the one that was done.

    Both stand in shared memory and stay there, so that nothing hangs on a message that may be lost: the trainer and
    its workers send each other bytes to wake up, and then look here. Pickles small to a process that is being started.
    """

    def __init__(self, spec: BatchSpec, count: int, arena: Arena | None = None) -> None:
        self.spec, self.count = spec, count
        self.longest = 2 * spec.frame_stack  # two whole observations, where they share nothing
        self.place_bytes, self._places = spec.nbytes(self.longest), round_up(4 * 8 * count)
        self.arena = arena or Arena(self._places + self.place_bytes * count)
        # The trainer writes the number, then the ticket; the worker the length, then the ticket that it has done.
        self._numbers, self._given, self._lengths, self._done = self.arena.array("<i8", (4, count), 0)

        self.page_locked = False

    def lock_pages(self, device: torch.device) -> bool:
        """Have a GPU copy batches straight from their places from now on; whether it can."""
        if not self.page_locked:
            self.page_locked = True  # also where an interrupt comes before it is told that they are
            self.page_locked = lock_pages(self.arena.array("u1", (self.arena.nbytes,), 0), self, device)
        return self.page_locked

    def __reduce__(self) -> tuple[Any, ...]:
        return Slots, (self.spec, self.count, self.arena)

    def give(self, task: Task) -> None:
        """Let the task's worker see it; giving it again changes nothing."""
        self._numbers[task.slot] = task.number
        fence()
        self._given[task.slot] = task.ticket

    def next_task(self, worker: int) -> Task | None:
        """The task that this worker was given first of those it has not done."""
        given = self._given.copy()
        mine = np.flatnonzero((given & WORKER_MASK == worker) & (given != self._done))
        if not len(mine):
            return None
        slot = int(mine[np.argmin(given[mine])])
        fence()
        return Task(slot, int(self._numbers[slot]), int(given[slot]))

    def finish(self, task: Task, length: int) -> None:
        """Tell that the slot holds a batch of `length` frames a transition, or a report of -length bytes."""
        self._lengths[task.slot] = length
        fence()
        self._done[task.slot] = task.ticket

    def is_done(self, task: Task) -> bool:
        """Whether its worker is through with the slot."""
        return int(self._done[task.slot]) == task.ticket

    def length(self, task: Task) -> int:
        """What the worker of a task that is done gave to `finish`."""
        fence()
        return int(self._lengths[task.slot])

    def memory(self, slot: int) -> NDArray[np.uint8]:
        """All bytes of a slot."""
        return self.arena.array("u1", (self.place_bytes,), self._places + slot * self.place_bytes)

    def place(self, slot: int) -> BatchPlace:
        """The arrays of a slot."""
        return BatchPlace(self.spec, self.longest, self.memory(slot))

"""Places for batches: arrays that a batch is drawn into, in private or in shared memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from diffreplay.batch import ReplayBatch, SequenceBatch
from diffreplay.loading.page_lock import lock_pages
from diffreplay.parts import Part
from diffreplay.store import Arena, Column, fence, round_up

ALIGNED = 64  # bytes, at a multiple of which arrays begin
EXTRAS = "extras/"  # what the names of their columns begin with
WORKER_BITS = 16
WORKER_MASK = (1 << WORKER_BITS) - 1  # the bits of a ticket that name the worker


@dataclass(frozen=True)
class BatchSpec:
    """Shapes of a batch of `size` samples.

    Attributes:
        size: samples in it.
        parts: of their observations.
        values: what a sample has besides, each once.
        longest: frames that a sample has at most.
        steps: of a sequence; None of transitions.
    """

    size: int
    parts: tuple[Part, ...]
    values: tuple[Column, ...]
    longest: int
    steps: int | None = None

    @cached_property
    def fields(self) -> tuple[list[tuple[str, np.dtype[Any], tuple[int, ...], int]], int]:
        """Name, dtype, shape and place of what samples have besides frames, and where the frames begin."""
        found, place = [], 0
        for column in self.values:
            found.append((column.name, np.dtype(column.dtype), (self.size, *column.shape), place))
            place += round_up(self.size * column.row_bytes, ALIGNED)
        return found, place

    def nbytes(self, length: int) -> int:
        """Bytes of a place for a batch of `length` frames a sample."""
        windows = sum(round_up(self.size * length * part.frame_bytes, ALIGNED) for part in self.parts)
        return round_up(windows + self.fields[1])


class BatchPlace:
    """Arrays for one batch, laid out in `memory`, or in new memory for `length` frames a sample.

    Attributes:
        memory: what all of them are views of, and so lives as long as one of them does.
        values: (size, *shape) arrays by name, as the spec lists them.
    """

    def __init__(self, spec: BatchSpec, length: int, memory: NDArray[np.uint8] | None = None) -> None:
        self.spec = spec
        self.memory = np.empty(spec.nbytes(length), np.uint8) if memory is None else memory
        self.values = {
            name: np.ndarray(shape, dtype, self.memory, place) for name, dtype, shape, place in spec.fields[0]
        }

    def windows(self, length: int) -> list[NDArray[Any]]:
        """Of each part, `length` frames for each sample, oldest first; see `Part.window_shape`."""
        found, place = [], self.spec.fields[1]
        for part in self.spec.parts:
            found.append(np.ndarray(part.window_shape(self.spec.size, length), part.dtype, self.memory, place))
            place += round_up(self.spec.size * length * part.frame_bytes, ALIGNED)
        return found

    def batch(self, length: int, copy: bool = False) -> ReplayBatch | SequenceBatch:
        """The batch of `length` frames a sample that was drawn here.

        Its windows are views of `memory`, or copies; the rest is copied.
        """
        windows = {
            part.name: torch.from_numpy(window.copy() if copy else window)
            for part, window in zip(self.spec.parts, self.windows(length), strict=True)
        }
        values = {name: torch.from_numpy(array.copy()) for name, array in self.values.items()}
        extras = {name.removeprefix(EXTRAS): values.pop(name) for name in [*values] if name.startswith(EXTRAS)}
        if self.spec.steps is not None:
            return SequenceBatch(self.spec.parts, windows, extras=extras, **values)
        reward, discount = values.pop("reward")[:, None], values.pop("discount")[:, None]
        return ReplayBatch(self.spec.parts, windows, reward=reward, discount=discount, extras=extras, **values)


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
        self.place_bytes, self._places = spec.nbytes(spec.longest), round_up(4 * 8 * count)
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
        """Tell that the slot holds a batch of `length` frames a sample, or a report of -length bytes."""
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
        return BatchPlace(self.spec, self.spec.longest, self.memory(slot))

"""Has workers draw batches ahead of the trainer, and hands them out in their order."""

from __future__ import annotations

import itertools
import os
import weakref
from collections import Counter
from typing import Any

import torch

from diffreplay.batch import ReplayBatch, SequenceBatch
from diffreplay.errors import WorkerError
from diffreplay.loading.requests import Requests
from diffreplay.loading.serving import GONE, read_report
from diffreplay.loading.slots import WORKER_BITS, Slots, Task
from diffreplay.loading.supervision import Workers
from diffreplay.loading.warn import Notice
from diffreplay.loading.worker_process import INSTEAD

KEPT_BATCHES = 2  # that a trainer may hold, as views of their slots, without a copy
LOOK_SECONDS = 1.0  # after which a trainer that hears nothing looks for itself


class Prefetcher:
    """Slots, workers, and what each slot is used for now.

    An exception may cut in anywhere, and no batch or slot is lost by it: `_tasks` alone says which slot is for which
    batch, and which slots are free follows from it, from what is done, and from which batches the trainer still has.

    Args:
        slots: `ahead` and KEPT_BATCHES of them.
        workers: who draw into them.
        ahead: batches that are drawn ahead.
        notice: told how long a batch is waited for.
        requests: what workers are to know of a batch.
    """

    def __init__(self, slots: Slots, workers: Workers, ahead: int, notice: Notice, requests: Requests) -> None:
        self._slots, self._workers, self._ahead, self._notice = slots, workers, ahead, notice
        self._requests = requests
        self._tasks: list[Task | None] = [None] * slots.count
        self._windows: list[weakref.ref[Any] | None] = [None] * slots.count  # that the trainer got
        self._serials = itertools.count(1)
        self._failure = 0  # tickets up to this one were given before the last failure that was raised
        self._owner, self._unsettled = os.getpid(), False
        weakref.finalize(self, workers.stop)
        workers.ensure()

    @property
    def is_mine(self) -> bool:
        """Whether this is the process that has the workers, not one that was forked from it."""
        return os.getpid() == self._owner

    @property
    def page_locked(self) -> bool:
        """Whether batches come in page-locked memory, from which copies to a GPU go on while the caller does."""
        return self._slots.page_locked

    def lock_pages(self, device: torch.device) -> bool:
        """Have them come there; whether that is possible."""
        return self._slots.lock_pages(device)

    def batch(self, number: int) -> ReplayBatch | SequenceBatch:
        """Batch `number`, the same one again when asked again; then draw those that follow it.

        Raises:
            WorkerError: a worker cannot be started, or this process is not the one that started them.
            Exception: what drawing the batch raised; when asked again, it is drawn again.
        """
        if not self.is_mine:
            raise WorkerError(
                "this iterator of a loader belongs to the process that this one was forked from, as do its workers: "
                f"make another one here, and {INSTEAD}"
            )
        if self._unsettled:
            self._workers.forgive()
            self._renew()
        self._unsettled = True
        task = self._wait_for(number)
        while (length := self._slots.length(task)) <= 0:
            if length == GONE:
                self._requests.again(number)
                self._tasks[task.slot] = None
                task = self._wait_for(number)
                continue
            error = read_report(self._slots.memory(task.slot)[:-length])
            self._tasks[task.slot] = None
            if task.ticket > self._failure:  # else it was given before the last failure, of which the cause may be gone
                self._failure = next(self._serials) << WORKER_BITS
                raise error
            task = self._wait_for(number)
        batch = self._deliver(task.slot, number, length)
        self._ask(number + 1)
        self._unsettled = False
        return batch

    def _wait_for(self, number: int) -> Task:
        """The task of a batch, once it is done."""
        waiting = self._notice.start()
        while True:
            self._ask(number)
            task = next((task for task in self._tasks if task is not None and task.number == number), None)
            if task is not None and self._slots.is_done(task):
                return task
            if self._workers.wait(LOOK_SECONDS):
                self._renew()
            waiting()

    def _ask(self, number: int) -> None:
        """Have the batches from `number` on drawn, as far as there are slots."""
        asked = {task.number for task in self._tasks if task is not None}
        missing = [k for k in range(number, number + self._ahead) if k not in asked]
        for k, slot in zip(missing, self._free(number) if missing else (), strict=False):
            self._give(slot, k)

    def _free(self, number: int) -> list[int]:
        """Slots whose batch is none of those from `number` on and not in the trainer's hands; none is drawn into."""
        last, free = number + self._ahead, []
        for slot, task in enumerate(self._tasks):
            window = self._windows[slot]
            if window is not None and window() is not None:
                continue
            if task is None or (not number <= task.number < last and self._slots.is_done(task)):
                free.append(slot)
        return free

    def _give(self, slot: int, number: int) -> None:
        """Have the worker that has the least to do draw a batch."""
        workers = self._workers.numbers()
        loads = Counter(task.worker for task in self._tasks if task is not None and not self._slots.is_done(task))
        worker = min(workers, key=lambda worker: loads[worker])
        task = Task(slot, number, next(self._serials) << WORKER_BITS | worker)
        if self._requests.is_needed:
            self._requests.write(number, self._slots.place(slot))
        self._tasks[slot] = task
        self._slots.give(task)
        self._workers.ring(worker)

    def _renew(self) -> None:
        """Give again what is not done: it may never have come to its worker, or the worker is gone."""
        self._workers.ensure()
        workers = self._workers.numbers()
        for slot, task in enumerate(self._tasks):
            if task is None or self._slots.is_done(task):
                continue
            if task.worker in workers:
                self._slots.give(task)
                self._workers.ring(task.worker)
            else:
                self._give(slot, task.number)

    def _deliver(self, slot: int, number: int, length: int) -> ReplayBatch | SequenceBatch:
        """The batch in a slot, which is free again once the batch is gone.

        Where that would leave no slot to fill, as older batches are kept, the batch is a copy.
        """
        place = self._slots.place(slot)
        if not self._free(number):
            return place.batch(length, copy=True)
        # torch keeps this very array for as long as any tensor shares its memory.
        self._windows[slot] = weakref.ref(place.memory)
        return place.batch(length)

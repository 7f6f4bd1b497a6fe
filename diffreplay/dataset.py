"""The replay buffer as a PyTorch `IterableDataset`, and a `DataLoader` over it."""

from __future__ import annotations

import multiprocessing
import time
import weakref
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from diffreplay.batch import ReplayBatch
from diffreplay.errors import InputError
from diffreplay.limits import usable_cores
from diffreplay.sampling import Sampler
from diffreplay.slots import BatchPlace, BatchSpec, Slots
from diffreplay.workers import POLL_SECONDS, ProcessWorkers, Result, Task, ThreadWorkers, Workers, draw_when_filled

KEPT_BATCHES = 2  # that a trainer may hold, as views of their slots, without a copy


class ReplayDataset(IterableDataset[ReplayBatch]):
    """Endless batches from a replay buffer; batch k depends on the buffer, the seed and k alone.

    While the buffer holds no complete window, the next batch waits for one. In a worker process of a plain
    `DataLoader`, worker w of W yields batches w, w + W, ...; `make_replay_loader` is faster.

    Args:
        replay: the buffer, or a handle on it.
        batch_size: transitions in a batch.
        seed: of the draws.
    """

    def __init__(self, replay: Sampler, batch_size: int = 256, seed: int = 0) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size: expected a positive integer, got {batch_size}")
        self.replay, self.batch_size, self.seed = replay, batch_size, seed

    def __iter__(self) -> Iterator[ReplayBatch]:
        worker = get_worker_info()
        number, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        while True:
            yield self.batch(number)
            number += step

    def batch(self, number: int) -> ReplayBatch:
        """Batch `number`, as soon as the buffer holds a window, drawn in this process."""
        spec = self.spec
        place, length = draw_when_filled(
            self.replay, spec, self.seed, number, lambda length: BatchPlace(spec, length), _pause
        )
        return place.batch(place.window(length))

    @property
    def spec(self) -> BatchSpec:
        """Shapes of a batch."""
        return BatchSpec.of(self.replay.frames.layout, self.batch_size)


def _pause() -> None:
    time.sleep(POLL_SECONDS)


class ReplayLoader(DataLoader[ReplayBatch]):
    """A DataLoader of `ReplayBatch`es whose workers share the buffer's one copy; see `make_replay_loader`.

    It never ends. Iterating again goes on with the batch after the last one that was delivered.
    """

    def __init__(self, dataset: ReplayDataset, *, threads: bool, prefetch_factor: int, **options: Any) -> None:
        workers = options["num_workers"]
        super().__init__(dataset, batch_size=None, prefetch_factor=prefetch_factor if workers else None, **options)
        self.batches, self.threads = dataset, threads
        self._delivered = 0
        self._kept: Prefetcher | None = None

    def __iter__(self) -> Iterator[ReplayBatch]:  # type: ignore[override]
        return ReplayIterator(self)

    def state_dict(self) -> dict[str, int]:
        """What `load_state_dict` needs to go on with the batch after the last one delivered."""
        return {"delivered": self._delivered}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken; iterators made before are not to be used any more."""
        self._delivered = int(state["delivered"])
        self._kept = None

    def __len__(self) -> int:
        raise TypeError("a ReplayLoader has no length: it never ends")

    def check_worker_number_rationality(self) -> None:
        """Says nothing, unlike DataLoader: no more workers are started than there are cores."""


class ReplayIterator(Iterator[ReplayBatch]):
    """Batches of a `ReplayLoader`, in their order."""

    def __init__(self, loader: ReplayLoader) -> None:
        self._loader = loader
        self._prefetcher: Prefetcher | None = None
        if loader.num_workers:
            self._prefetcher = loader._kept or Prefetcher(loader)
            loader._kept = self._prefetcher if loader.persistent_workers else None

    def __next__(self) -> ReplayBatch:
        loader = self._loader
        number = loader._delivered
        batch = self._prefetcher.batch(number) if self._prefetcher else loader.batches.batch(number)
        if loader.pin_memory and torch.cuda.is_available():
            batch = batch.pin_memory()
        loader._delivered = number + 1
        return batch


class Prefetcher:
    """Has workers draw batches ahead, and hands them out in their order."""

    def __init__(self, loader: ReplayLoader) -> None:
        dataset = loader.batches
        self._ahead = loader.num_workers * (loader.prefetch_factor or 1)
        # More workers than cores would take turns, and each find its references out of the cache: that costs up to a
        # fifth of the batches a second (docs/benchmarks.md).
        count = min(loader.num_workers, usable_cores())
        self._slots = Slots(dataset.spec, self._ahead + KEPT_BATCHES)
        self._arrived: dict[int, Result] = {}
        self._next = loader._delivered
        self._workers: Workers
        if loader.threads:
            self._workers = ThreadWorkers(count, dataset.replay, self._slots, dataset.seed)
        else:
            context = loader.multiprocessing_context or default_context()
            self._workers = ProcessWorkers(count, dataset.replay, self._slots, dataset.seed, context)
        self._submitted = 0
        weakref.finalize(self, self._workers.stop)

    def batch(self, number: int) -> ReplayBatch:
        """Batch `number`; the numbers of successive calls are successive."""
        self._submit(number)
        while number not in self._arrived:
            for result in self._workers.collect(timeout=1.0):
                self._arrived[result.number] = result
        result = self._arrived.pop(number)
        if result.error is not None:
            self._slots.free.append(result.slot)
            raise result.error
        batch = self._slots.deliver(result.slot, result.length)
        self._submit(number + 1)
        return batch

    def _submit(self, number: int) -> None:
        """Keep the workers busy with the batches from `number` on, as far as there are slots."""
        while self._next < number + self._ahead and self._slots.free:
            self._workers.submit(Task(self._next, self._slots.free.popleft()))
            self._next += 1


def default_context() -> BaseContext:
    """The start method that the program has chosen, else forkserver.

    A fork of a process that renders, uses CUDA or runs threads may hang.
    """
    chosen = multiprocessing.get_start_method(allow_none=True)
    if chosen is None and "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["diffreplay"])
        return context
    return multiprocessing.get_context(chosen)


def make_replay_loader(
    replay: Sampler,
    batch_size: int = 256,
    num_workers: int = 4,
    prefetch_factor: int = 2,
    pin_memory: bool = False,
    seed: int = 0,
    *,
    threads: bool = False,
    persistent_workers: bool = False,
    multiprocessing_context: str | BaseContext | None = None,
) -> ReplayLoader:
    """A DataLoader of `ReplayBatch`es, endless and in an order that does not depend on `num_workers`.

    Args:
        replay: the buffer.
        batch_size: transitions in a batch.
        num_workers: workers that prepare batches ahead, of which no more are started than this process may use cores; 0
            draws each batch when it is asked for, in this process.
        prefetch_factor: batches that each worker prepares ahead.
        pin_memory: copy batches to page-locked memory, where CUDA is available.
        seed: of the draws.
        threads: workers are threads of this process rather than processes.
        persistent_workers: keep the workers when an iterator is dropped, for the next one.
        multiprocessing_context: how worker processes start; by default as the program has chosen with
            `multiprocessing.set_start_method`, else "forkserver".

    Raises:
        InputError: an argument makes no sense.
    """
    if num_workers < 0 or (num_workers and prefetch_factor < 1):
        raise InputError(f"expected num_workers >= 0 and prefetch_factor >= 1, got {num_workers} and {prefetch_factor}")
    return ReplayLoader(
        ReplayDataset(replay, batch_size, seed),
        threads=threads,
        prefetch_factor=prefetch_factor,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers and num_workers > 0,
        multiprocessing_context=multiprocessing_context if num_workers and not threads else None,
    )

"""The replay buffer as a PyTorch `IterableDataset`, and a `DataLoader` over it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_all_start_methods
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from diffreplay import checks
from diffreplay.batch import ReplayBatch
from diffreplay.errors import InputError
from diffreplay.limits import usable_cores
from diffreplay.loading.prefetch import KEPT_BATCHES, Prefetcher
from diffreplay.loading.sampling import HasReader, ReplayReader, reader_of
from diffreplay.loading.serving import POLL_SECONDS, Work, sample_when_filled
from diffreplay.loading.slots import BatchPlace, BatchSpec, Slots
from diffreplay.loading.supervision import ThreadWorker, Workers
from diffreplay.loading.warn import Notice
from diffreplay.loading.worker_process import ProcessWorker, check_start, default_context, why_not_ready


class ReplayDataset(IterableDataset[ReplayBatch]):
    """Endless batches from a replay buffer; batch k depends on the buffer, the seed and k alone.

    While the buffer holds no complete window, the next batch waits for one. In a worker process of a plain
    `DataLoader`, worker w of W yields batches w, w + W, ...; `make_replay_loader` is faster.

    Args:
        replay: the buffer, or a reader of it.
        batch_size: transitions in a batch.
        seed: of the draws.
    """

    def __init__(self, replay: HasReader | ReplayReader, batch_size: int = 256, seed: int = 0) -> None:
        self.reader = reader_of(replay)
        self.batch_size, self.seed = checks.positive("batch_size", batch_size), seed
        self._notice = Notice(self.reader)

    def __iter__(self) -> Iterator[ReplayBatch]:
        worker = get_worker_info()
        number, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        while True:
            yield self.batch(number)
            number += step

    def batch(self, number: int) -> ReplayBatch:
        """Batch `number`, as soon as the buffer holds a window, drawn in this process."""
        spec = self.spec
        waiting = self._notice.start()

        def pause() -> None:
            time.sleep(POLL_SECONDS)
            waiting()

        place, length = sample_when_filled(
            self.reader, spec, self.seed, number, lambda length: BatchPlace(spec, length), pause
        )
        return place.batch(length)

    @property
    def spec(self) -> BatchSpec:
        """Shapes of a batch."""
        return self.reader.spec(self.batch_size)


class ReplayLoader(DataLoader[ReplayBatch]):
    """A DataLoader of `ReplayBatch`es whose workers share the buffer's one copy; see `make_replay_loader`.

    It never ends. Iterating again goes on with the batch after the last one that was delivered; so does `next` after an
    exception. A `WorkerError` says where workers cannot start or keep dying.
    """

    dataset: ReplayDataset

    def __init__(self, dataset: ReplayDataset, *, threads: bool, prefetch_factor: int, **options: Any) -> None:
        workers = options["num_workers"]
        super().__init__(dataset, batch_size=None, prefetch_factor=prefetch_factor if workers else None, **options)
        self.threads = threads
        self._progress = {"delivered": 0}
        self._kept: Prefetcher | None = None

    def __iter__(self) -> Iterator[ReplayBatch]:  # type: ignore[override]
        return ReplayIterator(self, self.prefetcher() if self.num_workers else None)

    def prefetcher(self) -> Prefetcher:
        """What an iterator gets its batches from: workers that have just been started, or were kept for it."""
        kept = self._kept
        if kept is None or not kept.is_mine:
            kept = self._start()
        self._kept = kept if self.persistent_workers else None
        return kept

    def _start(self) -> Prefetcher:
        dataset, ahead = self.dataset, self.num_workers * (self.prefetch_factor or 1)
        # More workers than cores would take turns, and each find its references out of the cache: that costs up to a
        # fifth of the batches a second (docs/benchmarks.md).
        count = min(self.num_workers, usable_cores())
        slots = Slots(dataset.spec, ahead + KEPT_BATCHES)
        work = Work(dataset.reader, slots, dataset.seed)
        if self.threads:
            workers = Workers(count, partial(ThreadWorker, work=work))
        else:
            context = self.multiprocessing_context or default_context()
            check_start(context)
            start = partial(ProcessWorker, work=work, context=context)
            workers = Workers(count, start, partial(why_not_ready, work, context))
        return Prefetcher(slots, workers, ahead, Notice(dataset.reader))

    def state_dict(self) -> dict[str, int]:
        """What `load_state_dict` needs to go on with the batch after the last one delivered."""
        return dict(self._progress)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken; iterators made before are not to be used any more."""
        self._progress = {"delivered": int(state["delivered"])}
        self._kept = None

    def __len__(self) -> int:
        raise TypeError("a ReplayLoader has no length: it never ends")

    def check_worker_number_rationality(self) -> None:
        """Says nothing, unlike DataLoader: no more workers are started than there are cores."""


class ReplayIterator(Iterator[ReplayBatch]):
    """Batches of a `ReplayLoader`, in their order; after an exception, from the batch on that was not delivered.

    Args:
        loader: whose place in that order is gone on from.
        prefetcher: None where batches are drawn in this process.
        held: whether batches are held until no GPU copies from them any more.
    """

    def __init__(self, loader: ReplayLoader, prefetcher: Prefetcher | None, held: bool = False) -> None:
        self._loader, self._prefetcher, self._held = loader, prefetcher, held

    def __next__(self) -> ReplayBatch:
        loader = self._loader
        progress = loader._progress
        number = progress["delivered"]
        batch = self._prefetcher.batch(number) if self._prefetcher else loader.dataset.batch(number)
        if not self._held:
            batch = self._for_any_use(batch)
        # Python lets an interrupt in at a call, and none is here: it counts as delivered only where the caller gets it.
        progress["delivered"] = number + 1; return batch  # noqa: E702  # fmt: skip

    def _for_any_use(self, batch: ReplayBatch) -> ReplayBatch:
        if self._prefetcher is not None and self._prefetcher.page_locked:
            batch = batch.clone()  # else, dropped while a GPU copies from it, it would be drawn over
        if self._loader.pin_memory and torch.cuda.is_available():
            batch = batch.pin_memory()
        return batch

    def page_locked(self, device: torch.device) -> ReplayIterator:
        """The same batches, as views of page-locked slots where that is possible.

        Their taker must hold each until no GPU copies from it any more.
        """
        if self._prefetcher is None or not self._prefetcher.lock_pages(device):
            return self
        return ReplayIterator(self._loader, self._prefetcher, held=True)


def make_replay_loader(
    replay: HasReader | ReplayReader,
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
        replay: the buffer, or a reader of it.
        batch_size: transitions in a batch.
        num_workers: workers that prepare batches ahead, of which no more are started than this process may use cores; 0
            draws each batch when it is asked for, in this process.
        prefetch_factor: batches that each worker prepares ahead.
        pin_memory: copy batches to page-locked memory, where CUDA is available.
        seed: of the draws.
        threads: workers are threads of this process rather than processes.
        persistent_workers: keep the workers when an iterator is dropped, for the next one.
        multiprocessing_context: how worker processes start; by default "spawn" where the program has chosen that with
            `multiprocessing.set_start_method`, else "forkserver".

    Raises:
        InputError: an argument makes no sense.
    """
    reader = reader_of(replay)
    num_workers = checks.at_least(0, "num_workers", num_workers)
    if num_workers:
        prefetch_factor = checks.positive("prefetch_factor", prefetch_factor)
    if isinstance(multiprocessing_context, str) and multiprocessing_context not in get_all_start_methods():
        known = ", ".join(get_all_start_methods())
        raise InputError(f"multiprocessing_context: expected one of {known}, got {multiprocessing_context!r}")
    return ReplayLoader(
        ReplayDataset(reader, batch_size, checks.at_least(0, "seed", seed)),
        threads=threads,
        prefetch_factor=prefetch_factor,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers and num_workers > 0,
        multiprocessing_context=multiprocessing_context if num_workers and not threads else None,
    )

"""A `DataLoader` over replay buffers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import get_all_start_methods
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch.utils.data import DataLoader

from diffreplay import checks
from diffreplay.batch import ReplayBatch, SequenceBatch
from diffreplay.errors import EmptyBufferError, InputError
from diffreplay.limits import usable_cores
from diffreplay.loading.choosers import choosers
from diffreplay.loading.dataset import ReplayDataset, Replays
from diffreplay.loading.drawing import GoneError
from diffreplay.loading.prefetch import KEPT_BATCHES, Prefetcher
from diffreplay.loading.priorities import Priorities
from diffreplay.loading.requests import DECIDED_AHEAD, Chooser, Requests
from diffreplay.loading.serving import POLL_SECONDS, Work
from diffreplay.loading.slots import Slots
from diffreplay.loading.supervision import ThreadWorker, Workers
from diffreplay.loading.worker_process import ProcessWorker, check_start, default_context, why_not_ready


class ReplayLoader(DataLoader[Any]):
    """A DataLoader of `ReplayBatch`es or `SequenceBatch`es whose workers share the buffer's one copy.

    See `make_replay_loader`.

    It never ends. Iterating again goes on with the batch after the last one that was delivered; so does `next` after an
    exception. A `WorkerError` says where workers cannot start or keep dying.

    Examples:
        >>> loader = diffreplay.make_replay_loader(replay, batch_size=32, num_workers=0)
        >>> isinstance(loader, torch.utils.data.DataLoader)
        True
    """

    dataset: ReplayDataset

    def __init__(
        self,
        dataset: ReplayDataset,
        choosers: Sequence[Chooser | None],
        *,
        threads: bool,
        prefetch_factor: int,
        **options: Any,
    ) -> None:
        workers, batches = options["num_workers"], dataset.batches
        super().__init__(dataset, batch_size=None, prefetch_factor=prefetch_factor if workers else None, **options)
        self.threads = threads
        self._requests = Requests(batches.spec, batches.generator, dataset.fractions, choosers)
        self._progress = {"delivered": 0}
        self._kept: Prefetcher | None = None

    @property
    def fractions(self) -> tuple[float, ...]:
        """The share of each buffer in a batch; may be set while the loader runs.

        A change counts from the ninth batch after the one that is handed out next: so it does not depend on workers.
        """
        return self._requests.fractions

    @fractions.setter
    def fractions(self, fractions: Sequence[float]) -> None:
        self._requests.fractions = fractions

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
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
        # fifth of the batches a second (docs/benchmarks/what-did-not-work.md).
        count, requests = min(self.num_workers, usable_cores()), self._requests
        if requests.is_needed:
            ahead = min(ahead, DECIDED_AHEAD)
        slots = Slots(dataset.batches.spec, ahead + KEPT_BATCHES)
        work = Work(dataset.batches, slots, requests.is_needed)
        if self.threads:
            workers = Workers(count, partial(ThreadWorker, work=work))
        else:
            context = self.multiprocessing_context or default_context()
            check_start(context)
            start = partial(ProcessWorker, work=work, context=context)
            workers = Workers(count, start, partial(why_not_ready, work, context))
        return Prefetcher(slots, workers, ahead, dataset.notice, requests)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on with the batch after the last one delivered."""
        state: dict[str, Any] = dict(self._progress)
        if self._requests.is_needed:
            state |= self._requests.state(state["delivered"])
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; iterators made before are not to be used any more.

        Raises:
            InputError: it is no such state, or of a loader that draws in another way; nothing was changed.
        """
        names = {"delivered", "fractions", "requests"} if self._requests.is_needed else {"delivered"}
        if not isinstance(state, dict) or state.keys() != names:
            found = ", ".join(sorted(map(str, state))) if isinstance(state, dict) else type(state).__name__
            raise InputError(
                f"state: expected what state_dict of a loader like this one gave, with {', '.join(sorted(names))}, got "
                f"{found or 'nothing':.200}; make the loader with the same buffers, and priorities or indices, as then"
            )
        delivered = checks.at_least(0, "delivered", state["delivered"])
        if self._requests.is_needed:
            self._requests.load(state)
        self._progress = {"delivered": delivered}
        self._kept = None

    def decide(self, number: int) -> None:
        """Decide what is to be decided of batch `number`, and of some after it; wait until that is possible."""
        if not self._requests.is_needed:
            return
        waiting = self.dataset.notice.start()
        while True:
            try:
                self._requests.decide(number)
                return
            except EmptyBufferError:
                time.sleep(POLL_SECONDS)
                waiting()

    def batch_here(self, number: int) -> ReplayBatch | SequenceBatch:
        """Batch `number`, which is decided, drawn in this process."""
        while True:
            try:
                return self.dataset.batch(number, self._requests[number] if self._requests.is_needed else None)
            except GoneError:
                self._requests.again(number)

    def __len__(self) -> int:
        raise TypeError("a ReplayLoader has no length: it never ends")

    def __repr__(self) -> str:
        spec, delivered = self.dataset.batches.spec, self._progress["delivered"]
        what = "transitions" if spec.steps is None else f"sequences of {spec.steps} steps"
        kind = "threads" if self.threads else "workers"
        return f"ReplayLoader({spec.size} {what} a batch, {self.num_workers} {kind}, {delivered} batches so far)"

    def check_worker_number_rationality(self) -> None:
        """Says nothing, unlike DataLoader: no more workers are started than there are cores."""


class ReplayIterator(Iterator[Any]):
    """Batches of a `ReplayLoader`, in their order; after an exception, from the batch on that was not delivered.

    Args:
        loader: whose place in that order is gone on from.
        prefetcher: None where batches are drawn in this process.
        held: whether batches are held until no GPU copies from them any more.
    """

    def __init__(self, loader: ReplayLoader, prefetcher: Prefetcher | None, held: bool = False) -> None:
        self._loader, self._prefetcher, self._held = loader, prefetcher, held

    def __next__(self) -> ReplayBatch | SequenceBatch:
        loader = self._loader
        progress = loader._progress
        number = progress["delivered"]
        loader.decide(number)
        batch = self._prefetcher.batch(number) if self._prefetcher else loader.batch_here(number)
        if not self._held:
            batch = self._for_any_use(batch)
        # Python lets an interrupt in at a call, and none is here: it counts as delivered only where the caller gets it.
        progress["delivered"] = number + 1; return batch  # noqa: E702  # fmt: skip

    def _for_any_use(self, batch: ReplayBatch | SequenceBatch) -> ReplayBatch | SequenceBatch:
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
    replay: Replays,
    batch_size: int = 256,
    num_workers: int = 4,
    prefetch_factor: int = 2,
    pin_memory: bool = False,
    seed: int = 0,
    *,
    sequence_length: int | None = None,
    priorities: Priorities | Sequence[Priorities | None] | None = None,
    indices: Chooser | Sequence[Chooser | None] | None = None,
    fractions: Sequence[float] | None = None,
    rank: int = 0,
    world_size: int = 1,
    threads: bool = False,
    persistent_workers: bool = False,
    multiprocessing_context: str | BaseContext | None = None,
) -> ReplayLoader:
    """A DataLoader of `ReplayBatch`es, endless and in an order that does not depend on `num_workers`.

    With `priorities`, `indices` or several buffers, what a batch is made of is decided while the eighth batch before it
    is handed out, whatever `num_workers` is, and no more than that are prepared ahead.

    Args:
        replay: the buffer, or a reader of it; or a list of several, of which each batch has samples, see `fractions`.
        batch_size: transitions in a batch, or sequences.
        num_workers: workers that prepare batches ahead, of which no more are started than this process may use cores; 0
            draws each batch when it is asked for, in this process.
        prefetch_factor: batches that each worker prepares ahead.
        pin_memory: copy batches to page-locked memory, where CUDA is available.
        seed: of the draws.
        sequence_length: give `SequenceBatch`es, of sequences of so many steps.
        priorities: draw the steps at which samples begin in proportion to these, and give each its weight. Of several
            buffers a list, None for those that are drawn from uniformly.
        indices: a function (count, rng) that chooses the steps at which samples begin, by their numbers, as
            `replay.indices()` and `batch.index` have them: (count,) integers, or a pair of these and of weights. A step
            that has left by the time is replaced by another one of the same batch. Of several buffers a list, too.
        fractions: of several buffers, the share of each in a batch, 1 in all; equal ones by default. Each batch has
            just as many samples of each, rounded to whole ones: those of the first buffer come first.
        rank: of this process among those that share the batches: it gets batches rank, rank + world_size, ...
        world_size: how many processes these are.
        threads: workers are threads of this process rather than processes.
        persistent_workers: keep the workers when an iterator is dropped, for the next one.
        multiprocessing_context: how worker processes start; by default "spawn" where the program has chosen that with
            `multiprocessing.set_start_method`, else "forkserver".

    Raises:
        InputError: an argument makes no sense.

    Examples:
        >>> loader = diffreplay.make_replay_loader(replay, batch_size=32, num_workers=0)
        >>> obs, action, reward, discount, next_obs = next(iter(loader))
        >>> obs.shape
        torch.Size([32, 3, 16, 16])
    """
    num_workers = checks.at_least(0, "num_workers", num_workers)
    if num_workers:
        prefetch_factor = checks.positive("prefetch_factor", prefetch_factor)
    if isinstance(multiprocessing_context, str) and multiprocessing_context not in get_all_start_methods():
        known = ", ".join(get_all_start_methods())
        raise InputError(f"multiprocessing_context: expected one of {known}, got {multiprocessing_context!r}")
    dataset = ReplayDataset(
        replay,
        batch_size,
        seed,
        sequence_length=sequence_length,
        fractions=fractions,
        rank=rank,
        world_size=world_size,
    )
    return ReplayLoader(
        dataset,
        choosers(dataset.batches, priorities, indices),
        threads=threads,
        prefetch_factor=prefetch_factor,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers and num_workers > 0,
        multiprocessing_context=multiprocessing_context if num_workers and not threads else None,
    )

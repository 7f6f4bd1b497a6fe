"""The replay buffer as a PyTorch `IterableDataset`, and a `DataLoader` over it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from diffreplay.batch import ReplayBatch
from diffreplay.errors import EmptyBufferError
from diffreplay.sampling import Sampler

WAIT_SECONDS = 0.01


class ReplayDataset(IterableDataset[ReplayBatch]):
    """Endless batches from a replay buffer; batch k depends on the buffer, the seed and k alone.

    While the buffer holds no complete window, the next batch waits for one.

    Args:
        replay: the buffer, or a handle on it.
        batch_size: transitions in a batch.
        seed: of the draws.
    """

    def __init__(self, replay: Sampler, batch_size: int = 256, seed: int = 0) -> None:
        self.replay, self.batch_size, self.seed = replay, batch_size, seed

    def __iter__(self) -> Iterator[ReplayBatch]:
        worker = get_worker_info()
        number, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        while True:
            yield self.batch(number)
            number += step

    def batch(self, number: int) -> ReplayBatch:
        """Batch `number`, as soon as the buffer holds a window."""
        while True:
            try:
                return self.replay.draw(self.batch_size, np.random.default_rng([self.seed, number]))
            except EmptyBufferError:
                time.sleep(WAIT_SECONDS)


def make_replay_loader(
    replay: Sampler,
    batch_size: int = 256,
    num_workers: int = 4,
    prefetch_factor: int = 2,
    pin_memory: bool = False,
    seed: int = 0,
) -> DataLoader[ReplayBatch]:
    """A DataLoader of `ReplayBatch`es.

    Args:
        replay: the buffer.
        batch_size: transitions in a batch.
        num_workers: worker processes; 0 samples in this process.
        prefetch_factor: batches that each worker prepares ahead.
        pin_memory: copy batches to page-locked memory.
        seed: of the draws.
    """
    return DataLoader(
        ReplayDataset(replay, batch_size, seed),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        pin_memory=pin_memory,
    )

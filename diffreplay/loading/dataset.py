"""The replay buffer as a PyTorch `IterableDataset`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from diffreplay import checks
from diffreplay.batch import ReplayBatch, SequenceBatch
from diffreplay.errors import InputError
from diffreplay.loading.batches import Batches
from diffreplay.loading.drawing import Request
from diffreplay.loading.requests import checked_fractions, counts_of
from diffreplay.loading.sampling import HasReader, ReplayReader, reader_of, spec_of
from diffreplay.loading.serving import POLL_SECONDS
from diffreplay.loading.slots import BatchPlace
from diffreplay.loading.warn import Notice

Replays = HasReader | ReplayReader | Sequence[HasReader | ReplayReader]


class ReplayDataset(IterableDataset[Any]):
    """Endless batches from replay buffers; batch k depends on the buffers, the seed and k alone.

    While a buffer holds no complete window, the next batch waits for one. In a worker process of a plain
    `DataLoader`, worker w of W yields batches w, w + W, ...; `make_replay_loader` is faster.

    Args:
        replay: the buffer, or a reader of it, or several.
        batch_size: transitions in a batch, or sequences.
        seed: of the draws.
        sequence_length: steps of a sequence, for batches of sequences.
        fractions: of several buffers, the share of each in a batch; equal ones by default.
        rank: of this process among those that share the batches: it gets batches rank, rank + world_size, ...
        world_size: how many processes these are.

    Examples:
        >>> batches = iter(diffreplay.ReplayDataset(replay, batch_size=32))
        >>> next(batches).obs.shape
        torch.Size([32, 3, 16, 16])
    """

    def __init__(
        self,
        replay: Replays,
        batch_size: int = 256,
        seed: int = 0,
        *,
        sequence_length: int | None = None,
        fractions: Sequence[float] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        readers = _readers_of(replay)
        world_size = checks.positive("world_size", world_size)
        rank = checks.at_least(0, "rank", rank)
        if rank >= world_size:
            raise InputError(f"rank: expected a number below world_size, which is {world_size}, got {rank}")
        spec = spec_of(readers, batch_size, sequence_length)
        self.batches = Batches(readers, spec, checks.at_least(0, "seed", seed), rank, world_size)
        self.fractions = checked_fractions(fractions, len(readers))
        self.notice = Notice(readers, sequence_length)

    def __iter__(self) -> Iterator[ReplayBatch | SequenceBatch]:
        worker = get_worker_info()
        number, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        while True:
            yield self.batch(number)
            number += step

    def batch(self, number: int, request: Request | None = None) -> ReplayBatch | SequenceBatch:
        """Batch `number`, as soon as there is what it takes, drawn in this process."""
        spec = self.batches.spec
        request = request or Request(counts_of(self.fractions, spec.size))
        waiting = self.notice.start()

        def pause() -> None:
            time.sleep(POLL_SECONDS)
            waiting()

        place, length = self.batches.draw(number, request, lambda length: BatchPlace(spec, length), pause)
        return place.batch(length)


def _readers_of(replay: Replays) -> tuple[ReplayReader, ...]:
    """The readers of one or several buffers."""
    if not isinstance(replay, Sequence) or isinstance(replay, str | bytes):
        return (reader_of(replay),)
    if not replay:
        raise InputError("replay: expected at least one buffer, got an empty list")
    return tuple(reader_of(each, f"replay[{k}]") for k, each in enumerate(replay))

"""Batches from several shards: those on this machine are read where they lie, of the others coded windows come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch

from diffreplay.batch import ReplayBatch
from diffreplay.distributed.coded_windows import CodedWindows, WindowDecoder


class Source(Protocol):
    """Gives transitions of one shard, drawn uniformly."""

    def transitions(self) -> int:
        """How many it holds, as far as is known; 0 where it has none to give now."""

    def draw(self, count: int) -> ReplayBatch | None:
        """So many of them, in new memory; None where it has none to give now."""


class LocalSource:
    """A shard whose memory is mapped.

    Args:
        replay: its handle, or a new one where it began anew.
        number: of the shard.
        rng: draws.
    """

    def __init__(self, replay: Callable[[], Any], number: int, rng: np.random.Generator) -> None:
        self._replay, self._number, self._rng = replay, number, rng

    def transitions(self) -> int:
        """How many it holds."""
        replay = self._replay()
        return len(replay) if replay is not None and replay.can_sample() else 0

    def draw(self, count: int) -> ReplayBatch | None:
        """So many of them."""
        replay = self._replay()
        if replay is None:
            return None
        batch: ReplayBatch = replay.sample(count, self._rng)
        batch.source.fill_(self._number)
        return batch


class RemoteSource:
    """A shard on another machine: windows are asked for ahead of time, and decoded here.

    Args:
        ask: asks for so many windows.
        reference_set: the frames of a reference set, by image, number and the life of the shard; None where it has
            left.
        decoder: decodes the shard's windows.
        number: of the shard.
        at_once: windows that are asked for at once.
        ahead: how many such answers are asked for ahead of time.
    """

    def __init__(
        self,
        ask: Callable[[int], Callable[[], CodedWindows | None]],
        reference_set: Callable[[int, int, str], bytes | None],
        decoder: WindowDecoder,
        number: int,
        at_once: int,
        ahead: int = 2,
    ) -> None:
        self._ask, self._reference_set, self._decoder = ask, reference_set, decoder
        self._number, self._at_once, self._ahead = number, at_once, ahead
        self._asked: list[Callable[[], CodedWindows | None]] = []
        self._left: list[ReplayBatch] = []  # decoded, and not handed out yet
        self._transitions = 0
        self.bytes_received = 0

    def transitions(self) -> int:
        """How many it held when its newest windows were drawn."""
        if not self._left:
            self._fetch()
        return self._transitions

    def draw(self, count: int) -> ReplayBatch | None:
        """So many of them; None where the shard has none now."""
        found: list[ReplayBatch] = []
        missing = count
        while missing:
            if not self._left and not self._fetch():
                return None
            batch = self._left.pop()
            size = len(batch.action)
            if size > missing:
                self._left.append(batch.part(slice(missing, size)))
                batch = batch.part(slice(0, missing))
            missing -= len(batch.action)
            found.append(batch)
        return joined(found)

    def _fetch(self) -> bool:
        """Decode the windows that were asked for first, and ask for others; whether there were any."""
        while len(self._asked) < self._ahead:
            self._asked.append(self._ask(self._at_once))
        windows = self._asked.pop(0)()
        if windows is None:
            self._transitions, self._asked = 0, []
            return False
        for image, number in self._decoder.missing(windows):
            frames = self._reference_set(image, number, windows.life)
            if frames is None:  # the shard began anew meanwhile, or the set has left
                return self._fetch()
            self.bytes_received += len(frames)
            self._decoder.add_set(image, number, frames)
        self._transitions = windows.transitions
        self._left.append(self._decoder.batch(windows, self._number))
        return True


class MixedBatches(Iterator[ReplayBatch]):
    """Endless batches, of each shard in proportion to the transitions that it holds.

    Args:
        sources: the shards.
        batch_size: transitions in a batch.
        rng: decides how many come of each shard.
        wait: called while no shard has any.
    """

    def __init__(
        self, sources: list[Source], batch_size: int, rng: np.random.Generator, wait: Callable[[], None]
    ) -> None:
        self._sources, self._size, self._rng, self._wait = sources, batch_size, rng, wait

    def __next__(self) -> ReplayBatch:
        while True:
            held = np.array([source.transitions() for source in self._sources], np.float64)
            if not held.sum():
                self._wait()
                continue
            counts = self._rng.multinomial(self._size, held / held.sum()).tolist()
            parts = [source.draw(count) for source, count in zip(self._sources, counts, strict=True) if count]
            if all(each is not None for each in parts):
                return joined([each for each in parts if each is not None])


def joined(batches: list[ReplayBatch]) -> ReplayBatch:
    """The transitions of several batches, one after the other."""
    if len(batches) == 1:
        return batches[0]
    windows = {}
    for name in batches[0].windows:
        own, stack = [batch.windows[name] for batch in batches], batches[0].parts[0].frame_stack
        if len({window.shape[1] for window in own}) > 1:  # in some, the two observations share frames
            own = [torch.cat([window[:, :stack], window[:, -stack:]], dim=1) for window in own]
        windows[name] = torch.cat(own)
    values: dict[str, Any] = {
        name: torch.cat([getattr(batch, name) for batch in batches])
        for name in ("action", "reward", "discount", "index", "weight", "source")
    }
    extras = {name: torch.cat([batch.extras[name] for batch in batches]) for name in batches[0].extras}
    return ReplayBatch(batches[0].parts, windows, extras=extras, **values)

"""The batches of a loader by their numbers: who draws one, and when, does not matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffreplay.errors import EmptyBufferError
from diffreplay.loading.drawing import Request, draw
from diffreplay.loading.sampling import ReplayReader
from diffreplay.loading.slots import BatchPlace, BatchSpec


class Batches(NamedTuple):
    """What all workers of a loader share, in any process.

    Attributes:
        readers: of the buffers that batches are from.
        spec: of a batch.
        seed: of the draws.
        rank: of this loader among `world_size` ones, of which each has every so-many-th batch.
        world_size: how many there are.
    """

    readers: tuple[ReplayReader, ...]
    spec: BatchSpec
    seed: int
    rank: int = 0
    world_size: int = 1

    def generator(self, number: int, *further: int) -> np.random.Generator:
        """Of batch `number` of this loader; other ones for further numbers."""
        return np.random.default_rng([self.seed, self.rank + number * self.world_size, *further])

    def draw(
        self,
        number: int,
        request: Request | None,
        place_for: Callable[[int], BatchPlace],
        pause: Callable[[], None],
    ) -> tuple[BatchPlace, int]:
        """Draw batch `number`, waiting with `pause` while a buffer holds no complete window.

        Args:
            number: of the batch.
            request: what was decided of it, if anything was.
            place_for: gives a place for so many frames a sample.
            pause: is called while there is nothing to draw.

        Returns:
            The place, and frames a sample.

        Raises:
            GoneError: none of the steps that were decided on are there any more.
        """
        samples = [reader.samples(self.spec.steps) for reader in self.readers]
        request = request or Request((self.spec.size,))
        while True:
            try:
                return draw(samples, self.spec, request, self.generator(number), place_for)
            except EmptyBufferError:
                pause()

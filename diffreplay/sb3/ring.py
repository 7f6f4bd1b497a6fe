"""The images of a replay buffer: a ring of observations, and of next observations, over one store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffreplay.codecs import Codec
from diffreplay.parts import Part
from diffreplay.tables import ImageStore, ImageTable

EVICT_EVERY = 64  # adds; memory is given back by thousands of frames, so more often would only cost time


class ImageRing:
    """The observations and next observations of a ring of `steps` steps of `n_envs` environments.

    Args:
        parts: the images of an observation, of one `frame_stack`.
        steps: in the ring.
        n_envs: environments.
        codec: how frames are coded.
        max_bytes: cap on the bytes that the frames take.
        single: whether one array holds observations and next ones.
        read_first: which of "observations" and "next_observations" samples read first, where they then read the other
            one at the same index; None where they do not.

    Attributes:
        store: where they are.
        tables: the entries of the observations and, unless one table holds both, of the next ones.
        held: steps of which nothing was evicted.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        steps: int,
        n_envs: int,
        codec: Codec,
        max_bytes: int | None,
        *,
        single: bool = False,
        read_first: str | None = None,
    ) -> None:
        self.steps, self.single, self.capped = steps, single, max_bytes is not None
        # obs and next_obs of each step, of those overwritten but not evicted yet, and of the one being added.
        held = 2 * n_envs * (steps + min(steps, EVICT_EVERY) + 2)
        self.store = ImageStore(parts, n_envs, held, codec, max_bytes, max_bytes)
        self.tables = [ImageTable(self.store, (steps, n_envs)) for _ in range(1 if single else 2)]
        if read_first is not None and not single:
            first, other = self.tables if read_first == "observations" else self.tables[::-1]
            first.then = other
        self.held = 0

    def advance(self, pos: int, full: bool) -> None:
        """Forget what the step before `pos` overwrote, and count the steps of which nothing was evicted."""
        size = self.steps if full else pos
        if full and pos % min(self.steps, EVICT_EVERY) == 0:
            # A single array holds the newest next observation at `pos`, in place of the oldest step.
            oldest = self.tables[0].rows((pos + self.single) % self.steps)
            self.store.evict_before(self.store.oldest_needed(oldest))
        self.held = min(self.held + 1, size)
        if self.capped:
            tail = self.store.frames.tail
            while self.held and self._needed((pos - self.held) % self.steps) < tail:
                self.held -= 1

    def clear(self) -> None:
        """Forget everything but the reference frames."""
        self.store.clear()
        for table in self.tables:
            table.clear()
        self.held = 0

    def _needed(self, position: int) -> int:
        return self.store.oldest_needed(np.concatenate([table.rows(position) for table in self.tables]))

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "tables" not in state:  # of an earlier version
            arrays = [state.pop(name) for name in ("observations", "next_observations")]
            state["tables"] = [array.table for array in arrays if array is not None]
        vars(self).update(state)

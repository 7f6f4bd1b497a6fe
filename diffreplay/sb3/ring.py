"""The images of a replay buffer: a ring of observations, and of next observations, over one store."""

from __future__ import annotations

import numpy as np

from diffreplay.codecs import Codec, RawCodec
from diffreplay.errors import InputError
from diffreplay.limits import warn_if_too_large
from diffreplay.sb3.images import ImageArray, recut
from diffreplay.sb3.spaces import FrameCut
from diffreplay.sb3.store import ImageStore

EVICT_EVERY = 64  # adds; memory is given back by thousands of frames, so more often would only cost time


class ImageRing:
    """The observations and next observations of a ring of `steps` steps of `n_envs` environments.

    Args:
        cut: how an observation is a stack of frames.
        steps: in the ring.
        n_envs: environments.
        codec: how frames are coded.
        max_bytes: cap on the bytes that the frames take.
        single: whether one array holds observations and next ones.
        read_first: which of "observations" and "next_observations" samples read first, where they then read the other
            one at the same index; None where they do not.
    """

    def __init__(
        self,
        cut: FrameCut,
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
        self.store = ImageStore(cut, n_envs, held, codec, max_bytes, max_bytes)
        if isinstance(codec, RawCodec):
            least = n_envs * steps * self.store.frames.layout.row_bytes
            warn_if_too_large(least if max_bytes is None else min(least, max_bytes), stacklevel=3)
        self.observations = ImageArray(self.store, (steps, n_envs))
        self.next_observations = None if single else ImageArray(self.store, (steps, n_envs))
        if self.next_observations is not None and read_first is not None:
            pair = self.observations, self.next_observations
            first, other = pair if read_first == "observations" else pair[::-1]
            first.read_before(other)
        self.held = 0

    @property
    def tables(self) -> list[ImageArray]:
        """What stands for observations and, unless one array holds both, for next observations."""
        return [self.observations] + ([] if self.next_observations is None else [self.next_observations])

    def advance(self, pos: int, full: bool) -> None:
        """Forget what the step before `pos` overwrote, and count the steps of which nothing was evicted."""
        size = self.steps if full else pos
        self._recut(pos, full)
        if full and pos % min(self.steps, EVICT_EVERY) == 0:
            # A single array holds the newest next observation at `pos`, in place of the oldest step.
            oldest = self.observations.rows((pos + self.single) % self.steps)
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

    def _recut(self, pos: int, full: bool) -> None:
        """Store the steps so far anew where they show that their frames are others than was guessed."""
        cut = self.store.better_cut()
        if cut is None or full or self.store.frames.tail:
            return
        try:
            recut(self.tables, range(pos + self.single), cut)
        except InputError:  # such frames do not fit the cap
            return
        self.store = self.observations.store

    def _needed(self, position: int) -> int:
        return self.store.oldest_needed(np.concatenate([table.rows(position) for table in self.tables]))

"""What samples through a `ReplayReader` that it has: the buffer itself, and a handle of it."""

from __future__ import annotations

from typing import overload

import numpy as np
from numpy.typing import NDArray

from diffreplay.batch import ReplayBatch, SequenceBatch
from diffreplay.loading.sampling import HasReader
from diffreplay.stats import ReplayStats


class Readable:
    """The half of a `ReplayBuffer` and of a `ReplayHandle` that reads; they have a `reader`."""

    def __len__(self: HasReader) -> int:
        """Transitions held; not all of them begin a complete window, see `can_sample`."""
        return len(self.reader)

    def stats(self: HasReader) -> ReplayStats:
        """Counts and bytes now."""
        return self.reader.stats()

    def can_sample(self: HasReader) -> bool:
        """Whether a batch can be drawn now, as there is a complete window. Cheap enough to ask at each step.

        `len` does not tell: a window takes `nstep` transitions of one episode.
        """
        return self.reader.can_sample()

    @overload
    def sample(
        self: HasReader, batch_size: int, rng: np.random.Generator | None = None, *, sequence_length: None = None
    ) -> ReplayBatch: ...

    @overload
    def sample(
        self: HasReader, batch_size: int, rng: np.random.Generator | None = None, *, sequence_length: int
    ) -> SequenceBatch: ...

    def sample(
        self: HasReader, batch_size: int, rng: np.random.Generator | None = None, *, sequence_length: int | None = None
    ) -> ReplayBatch | SequenceBatch:
        """A batch drawn uniformly from all complete windows, on the CPU and in new memory.

        Args:
            batch_size: transitions in it, or sequences.
            rng: draws it in place of the buffer's own generator, or, in any other process than the buffer's, of one of
                that process, which the system seeds.
            sequence_length: draw sequences of so many steps, uniformly over the steps at which they begin.

        Returns:
            A `ReplayBatch`, or a `SequenceBatch` of sequences.

        Raises:
            InputError: a length is no positive integer, or `rng` no generator.
            EmptyBufferError: there is no complete window yet.
        """
        return self.reader.sample(batch_size, rng, sequence_length=sequence_length)

    def indices(self: HasReader, newest: int | None = None) -> NDArray[np.int64]:
        """Numbers of the steps at which transitions begin that can be sampled now; see `ReplayReader.indices`."""
        return self.reader.indices(newest)

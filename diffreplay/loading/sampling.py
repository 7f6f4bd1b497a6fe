"""Samples batches from shared memory, in any process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol, overload

import numpy as np

from diffreplay import checks
from diffreplay.batch import ReplayBatch, SequenceBatch
from diffreplay.errors import InputError, ReadOnlyError
from diffreplay.loading.drawing import Request, draw
from diffreplay.loading.samples import Samples, Sequences, Transitions
from diffreplay.loading.sequences import SequenceFinder
from diffreplay.loading.slots import BatchPlace, BatchSpec
from diffreplay.loading.successors import Successors
from diffreplay.loading.windows import WindowFinder
from diffreplay.parts import Part
from diffreplay.stats import ReplayStats
from diffreplay.store import Counter, FrameReader, Rows, refuse_copy


class ReplayReader:
    """Reads a replay buffer, in the process that made it or in any other: samples and counts, and never writes.

    It is what other processes get when a `ReplayBuffer` is an argument of `multiprocessing.Process`, or goes through a
    multiprocessing Queue or Pipe: a small handle on the shared memory. `ReplayBuffer.reader` is one, too. It may be
    passed on as the buffer may, and like it is neither pickled nor copied otherwise. Only a forked process holds the
    buffer itself, and samples from that just so.

    `sample` draws with the buffer's generator in the process that made it. In any other it has one of its own, which
    the system seeds, so that no two processes draw alike; pass `rng` for batches that come again.

    Args:
        frames: the stored rows.
        parts: of an observation: the images as they are stored, then the stacked columns.
        nstep: steps that a sampled transition spans.
        discount: gamma, for n-step returns.
        shorter_at_end: as of `ReplayBuffer`.
        rng: of `sample` in this process; without one, a generator that the system seeds.

    Examples:
        >>> replay.reader.sample(32).obs.shape
        torch.Size([32, 3, 16, 16])
    """

    def __init__(
        self,
        frames: FrameReader,
        parts: tuple[Part, ...],
        nstep: int,
        discount: float,
        shorter_at_end: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.frames, self.parts, self.nstep, self.discount = frames, parts, nstep, discount
        self.shorter_at_end = shorter_at_end
        successors = Successors(frames)
        self._finder = WindowFinder(frames, nstep, shorter_at_end, successors)
        self._transitions = Transitions(frames, self._finder, discount, shorter_at_end)
        single = nstep == 1 and not shorter_at_end
        self._starts = self._finder if single else WindowFinder(frames, 1, successors=successors)
        self._spec: BatchSpec | None = None  # of the last batch that `sample` drew
        self._rng, self._process = rng or np.random.default_rng(), os.getpid()

    def __len__(self) -> int:
        """Transitions held; not all of them begin a complete window, see `can_sample`."""
        return self.frames.counter(Counter.TRANSITIONS)

    __copy__ = refuse_copy

    def __reduce__(self) -> tuple[Any, ...]:
        return ReplayReader, (self.frames, self.parts, self.nstep, self.discount, self.shorter_at_end)

    def stats(self) -> ReplayStats:
        """Counts and bytes now."""
        layout, counter = self.frames.layout, self.frames.counter
        tail, head = self.frames.bounds()
        transitions = counter(Counter.TRANSITIONS)
        return ReplayStats(
            transitions=transitions,
            frames=head - tail - self.frames.frames_elsewhere(tail, head),
            payload_bytes=counter(Counter.PAYLOAD_BYTES),
            index_bytes=(head - tail) * sum(column.row_bytes for column in self.frames.index_columns),
            reference_bytes=counter(Counter.REFERENCE_BYTES),
            scalar_bytes=(head - tail) * sum(column.row_bytes for column in layout.scalars[layout.stacked :]),
            total_bytes=counter(Counter.ALLOCATED_BYTES),
            stacked_bytes=transitions * layout.frame_stack * layout.step_bytes,
            column_bytes=(head - tail) * sum(column.row_bytes for column in layout.scalars[: layout.stacked]),
        )

    def can_sample(self) -> bool:
        """Whether a batch can be drawn now, as there is a complete window. Cheap enough to ask at each step.

        `len` does not tell: a window takes `nstep` transitions of one episode.
        """
        return self._finder.any()

    @overload
    def sample(
        self, batch_size: int, rng: np.random.Generator | None = None, *, sequence_length: None = None
    ) -> ReplayBatch: ...

    @overload
    def sample(
        self, batch_size: int, rng: np.random.Generator | None = None, *, sequence_length: int
    ) -> SequenceBatch: ...

    def sample(
        self, batch_size: int, rng: np.random.Generator | None = None, *, sequence_length: int | None = None
    ) -> ReplayBatch | SequenceBatch:
        """A batch drawn uniformly from all complete windows, on the CPU and in new memory.

        Args:
            batch_size: transitions in it.
            rng: draws it in place of the reader's own generator.
            sequence_length: draw sequences of so many steps instead, uniformly over the steps at which they begin.

        Raises:
            InputError: an argument makes no sense.
            EmptyBufferError: there is no complete window yet.
        """
        if not isinstance(rng, np.random.Generator | None):
            raise InputError(f"rng: expected a numpy.random.Generator, as default_rng(seed) makes it, got {rng!r:.200}")
        size = checks.positive("batch_size", batch_size)
        length = None if sequence_length is None else checks.positive("sequence_length", sequence_length)
        spec = self._spec
        if spec is None or (spec.size, spec.steps) != (size, length):
            spec = self._spec = spec_of([self], size, length)
        samples, request = [self.samples(length)], Request((size,))
        place, length = draw(samples, spec, request, rng or self._generator(), lambda length: BatchPlace(spec, length))
        return place.batch(length)

    def indices(self, newest: int | None = None) -> Rows:
        """Numbers of the steps at which the windows begin that can be sampled now, in the order of adding.

        Args:
            newest: only of windows that end among so many rows that were added last; of all by default. It takes time
                in proportion to that.

        Returns:
            (N,) int64, ascending with one stream. A number is never given to another step. `ReplayBatch.index` has
            those of a batch.

        Raises:
            InputError: `newest` is no positive integer.
        """
        return self._finder.beginnings(None if newest is None else checks.positive("newest", newest))

    def samples(self, sequence_length: int | None) -> Samples:
        """Transitions, or sequences of so many steps."""
        if sequence_length is None:
            return self._transitions
        return Sequences(self.frames, SequenceFinder(self._starts, sequence_length))

    def _generator(self) -> np.random.Generator:
        """Our own: not the copy that a forked process has of its parent's."""
        if self._process != (process := os.getpid()):
            self._rng, self._process = np.random.default_rng(), process
        return self._rng

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Say that a reader does not write."""
        raise ReadOnlyError(
            "expected the ReplayBuffer, in the process that made it, to add to or save, got a ReplayReader, which "
            "samples from it and never writes: send there what is to be added"
        )

    add = add_transition = add_batch = save = _refuse


def spec_of(readers: Sequence[ReplayReader], batch_size: int, sequence_length: int | None = None) -> BatchSpec:
    """Shapes of a batch from one or several buffers.

    Raises:
        InputError: an argument makes no sense, or the buffers hold different things.
    """
    size = checks.positive("batch_size", batch_size)
    if sequence_length is not None:
        sequence_length = checks.positive("sequence_length", sequence_length)
    samples = [reader.samples(sequence_length) for reader in readers]
    found = [(reader.parts, its.columns()) for reader, its in zip(readers, samples, strict=True)]
    for k, (parts, values) in enumerate(found[1:], 1):
        for what, one, other in (("observations", found[0][0], parts), ("values", found[0][1], values)):
            if one != other:
                raise InputError(
                    f"replay[{k}]: expected the same {what} as in replay[0], {_told(one)}, got {_told(other)}"
                )
    parts, values = found[0]
    return BatchSpec(size, parts, values, samples[0].longest, sequence_length)


def _told(things: Sequence[Any]) -> str:
    """Parts or columns in words."""
    return ", ".join(
        f"{one.name or 'a stack of ' + str(one.frame_stack)} {one.dtype} of shape {one.shape}" for one in things
    )


class HasReader(Protocol):
    """What can be read: `diffreplay.ReplayBuffer` and `diffreplay.ReplayHandle`."""

    @property
    def reader(self) -> ReplayReader:
        """Reads it."""


def reader_of(replay: ReplayReader | HasReader, name: str = "replay") -> ReplayReader:
    """The reader of a buffer or of a handle; a reader is its own.

    Args:
        replay: the buffer, the handle or the reader.
        name: of the argument.

    Raises:
        InputError: `replay` is none of them.
    """
    reader = replay if isinstance(replay, ReplayReader) else getattr(replay, "reader", None)
    if not isinstance(reader, ReplayReader):
        raise InputError(
            f"{name}: expected a ReplayBuffer, a ReplayHandle or a ReplayReader, got {type(replay).__name__}"
        )
    return reader

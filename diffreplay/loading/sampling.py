"""Samples batches of transitions from shared memory, in any process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from diffreplay import checks
from diffreplay.batch import ReplayBatch
from diffreplay.errors import InputError, ReadOnlyError, ReplayError
from diffreplay.loading.slots import BatchPlace, BatchSpec
from diffreplay.loading.windows import WindowFinder, Windows
from diffreplay.parts import Part
from diffreplay.stats import ReplayStats
from diffreplay.store import Counter, FrameReader, OverrunError, Rows, refuse_copy

MAX_OVERRUNS = 1000


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
        self._finder = WindowFinder(frames, nstep, shorter_at_end)
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
            index_bytes=(head - tail) * sum(column.row_bytes for column in layout.index),
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

    def sample(self, batch_size: int, rng: np.random.Generator | None = None) -> ReplayBatch:
        """A batch drawn uniformly from all complete windows, on the CPU and in new memory.

        Args:
            batch_size: transitions in it.
            rng: draws it in place of the reader's own generator.

        Raises:
            InputError: `batch_size` is no positive integer, or `rng` no generator.
            EmptyBufferError: there is no complete window yet.
        """
        if not isinstance(rng, np.random.Generator | None):
            raise InputError(f"rng: expected a numpy.random.Generator, as default_rng(seed) makes it, got {rng!r:.200}")
        spec = self.spec(checks.positive("batch_size", batch_size))
        place, length = self.sample_into(spec, rng or self._generator(), lambda length: BatchPlace(spec, length))
        return place.batch(length)

    def spec(self, batch_size: int) -> BatchSpec:
        """Shapes of a batch of so many transitions."""
        layout = self.frames.layout
        return BatchSpec(batch_size, self.parts, layout.scalars[layout.stacked :])

    def sample_into(
        self, spec: BatchSpec, rng: np.random.Generator, place_for: Callable[[int], BatchPlace]
    ) -> tuple[BatchPlace, int]:
        """Sample into the place that `place_for` gives for so many frames a transition; return both."""
        for _ in range(MAX_OVERRUNS):
            try:
                windows = self._finder.draw(spec.size, rng)
                place = place_for(windows.frames.shape[1])
                if self._read(windows, place):
                    return place, windows.frames.shape[1]
            except OverrunError:
                pass
            time.sleep(0)  # the writer runs ahead of us: let it
        raise ReplayError(
            f"{MAX_OVERRUNS} batches in a row were evicted while they were read: expected a capacity well above what "
            "is written during one batch; raise it or write more slowly"
        )

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

    add = add_transition = save = _refuse

    def _read(self, windows: Windows, place: BatchPlace) -> bool:
        """Copy and decode windows into `place`; False when some of it was evicted meanwhile."""
        frames, rows, oldest = self.frames, windows.frames, windows.oldest
        place.values["reward"][:], place.values["discount"][:] = self._returns(windows.steps)
        for name, values in place.values.items():
            if name not in ("reward", "discount"):
                values[:] = frames.column(name, windows.steps[:, 1])
        columns = iter(frames.layout.scalars)
        for image, (part, out) in enumerate(zip(self.parts, place.windows(rows.shape[1]), strict=True)):
            if not part.is_image:
                out.view(part.stored_dtype)[:] = frames.stacked(next(columns), rows)
            elif not self._read_images(part, image, rows, oldest, out):
                return False
        return frames.intact(oldest)

    def _read_images(self, part: Part, image: int, rows: Rows, oldest: int, out: NDArray[Any]) -> bool:
        """Decode windows of a part's frames into `out`; False when some of them were evicted meanwhile."""
        if part.planar:
            return self.frames.read_windows(rows, oldest, out, image)
        rows = rows.reshape(-1)
        if part.dtype == np.uint8:
            return self.frames.read_into(rows, oldest, out.reshape(-1, *part.stored_shape), image)
        halves = np.empty((len(rows), *part.stored_shape), np.uint8)
        if not self.frames.read_into(rows, oldest, halves, image):
            return False
        part.decoded(halves, out.reshape(len(rows), *out.shape[2:]))
        return True

    def _returns(self, steps: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """n-step reward and discount of windows with steps (B, n + 1), (B,) each.

        reward = sum over k of (product over j < k of gamma * d_j) * r_k, discount = product of all gamma * d_j; both
        over the steps after the first observation, as many as the window spans.
        """
        after = steps[:, 1:]
        reward = self.frames.column("reward", after).astype(np.float64)
        factor = self.frames.column("discount", after).astype(np.float64) * self.discount
        if self.shorter_at_end:
            past = after == steps[:, :-1]
            reward[past], factor[past] = 0, 1
        product = np.cumprod(factor, axis=1)
        reward[:, 1:] *= product[:, :-1]
        return reward.sum(axis=1).astype(np.float32), product[:, -1].astype(np.float32)


class HasReader(Protocol):
    """What can be read: `diffreplay.ReplayBuffer`."""

    @property
    def reader(self) -> ReplayReader:
        """Reads it."""


def reader_of(replay: ReplayReader | HasReader) -> ReplayReader:
    """The reader of a buffer; a reader is its own.

    Raises:
        InputError: `replay` is neither.
    """
    reader = replay if isinstance(replay, ReplayReader) else getattr(replay, "reader", None)
    if not isinstance(reader, ReplayReader):
        raise InputError(f"replay: expected a ReplayBuffer or a ReplayReader, got {type(replay).__name__}")
    return reader

"""Draws transitions uniformly from shared memory, in any process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffreplay.arena import refuse_copy
from diffreplay.batch import ReplayBatch
from diffreplay.errors import EmptyBufferError, ReplayError
from diffreplay.layout import Counter, Flag
from diffreplay.reader import NO_ROW, FrameReader, OverrunError, Rows
from diffreplay.slots import BatchPlace, BatchSpec
from diffreplay.stats import ReplayStats

PIECE_BYTES = 1 << 20  # of decoded frames, about what a core's cache holds
MAX_OVERRUNS = 1000


class Windows(NamedTuple):
    """Complete n-step windows: their steps, and the frames of their two observations."""

    steps: Rows  # (B, n + 1) rows of the steps t, t + 1, ..., t + n
    frames: Rows  # (B, W) rows of the frames of both observations; NO_ROW is a frame of zeros
    oldest: int  # the oldest row that any of it needs


class Sampler:
    """The readers' half of a replay buffer: everything that does not change it.

    multiprocessing passes it to other processes as a small handle on the shared memory; nothing else pickles it.
    """

    def __init__(self, frames: FrameReader, nstep: int, discount: float) -> None:
        self.frames, self.nstep, self.discount = frames, nstep, discount

    def __len__(self) -> int:
        """Transitions held, a complete n-step window begins at most of them."""
        return self.frames.counter(Counter.TRANSITIONS)

    __copy__ = refuse_copy

    def __reduce__(self) -> tuple[Any, ...]:
        return Sampler, (self.frames, self.nstep, self.discount)

    def stats(self) -> ReplayStats:
        """Counts and bytes now."""
        layout, counter = self.frames.layout, self.frames.counter
        tail, head = self.frames.bounds()
        transitions = counter(Counter.TRANSITIONS)
        return ReplayStats(
            transitions=transitions,
            frames=head - tail - self.frames.empty_rows(tail, head),
            payload_bytes=counter(Counter.PAYLOAD_BYTES),
            index_bytes=(head - tail) * sum(column.row_bytes for column in layout.index),
            reference_bytes=counter(Counter.REFERENCE_BYTES),
            scalar_bytes=(head - tail) * sum(column.row_bytes for column in layout.scalars),
            total_bytes=counter(Counter.ALLOCATED_BYTES),
            stacked_bytes=transitions * layout.frame_stack * layout.frame_bytes,
        )

    def draw(self, batch_size: int, rng: np.random.Generator) -> ReplayBatch:
        """A batch drawn uniformly from all complete windows, in new memory.

        Raises:
            EmptyBufferError: there is no complete window.
        """
        spec = BatchSpec.of(self.frames.layout, batch_size)
        place, length = self.draw_into(spec, rng, lambda length: BatchPlace(spec, length))
        return place.batch(place.window(length))

    def draw_into(
        self, spec: BatchSpec, rng: np.random.Generator, place_for: Callable[[int], BatchPlace]
    ) -> tuple[BatchPlace, int]:
        """Draw a batch into the place that `place_for` gives for so many frames a transition; return both."""
        for _ in range(MAX_OVERRUNS):
            try:
                windows = self._draw_windows(spec.size, rng)
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

    def _draw_windows(self, count: int, rng: np.random.Generator) -> Windows:
        tail, head = self.frames.bounds()
        kept: list[Rows] = []
        missing = count
        for _ in range(3):
            if head == tail:
                break
            steps = self._steps(rng.integers(tail, head, missing + missing // 8 + 8), tail)
            kept.append(steps[:missing])
            missing -= len(kept[-1])
            if not missing:
                return self._windows(np.concatenate(kept), tail)
        # Few rows end a complete window, or none does: look at all of them.
        steps = self._steps(np.arange(tail, head), tail)
        if not len(steps):
            if not self.frames.intact(tail):
                raise OverrunError
            raise EmptyBufferError(
                f"expected at least one complete window of {self.nstep + 1} steps of one episode to sample from, got "
                f"{head - tail} frames without any; add steps first"
            )
        kept.append(steps[rng.integers(0, len(steps), missing)])
        return self._windows(np.concatenate(kept), tail)

    def _steps(self, last: Rows, tail: int) -> Rows:
        """Steps (N', n + 1) of the windows that end at rows `last`, leaving out the incomplete ones."""
        frames = self.frames
        is_step = (frames.column("flags", last) & Flag.CONTEXT) == 0
        steps = np.empty((int(is_step.sum()), self.nstep + 1), np.int64)
        steps[:, -1] = last[is_step]
        for k in range(self.nstep - 1, -1, -1):
            steps[:, k] = frames.previous_steps(steps[:, k + 1])
        steps = steps[steps[:, 0] >= tail]
        stacks = frames.stacks(steps[:, 0])
        needed = frames.oldest_needed(stacks.reshape(-1)).reshape(stacks.shape)
        needed[stacks == NO_ROW] = tail
        return steps[(needed >= tail).all(axis=1)]

    def _windows(self, steps: Rows, tail: int) -> Windows:
        obs, next_obs = self.frames.stacks(steps[:, 0]), self.frames.stacks(steps[:, -1])
        shared = max(obs.shape[1] - self.nstep, 0)
        if shared and not np.array_equal(obs[:, -shared:], next_obs[:, :shared]):
            shared = 0  # a stack in between was stored anew
        window = np.concatenate([obs, next_obs[:, shared:]], axis=1)
        oldest = self.frames.oldest_needed(window.reshape(-1))
        oldest = oldest[oldest >= 0]
        return Windows(steps, window, int(oldest.min()) if len(oldest) else tail)

    def _read(self, windows: Windows, place: BatchPlace) -> bool:
        """Copy and decode windows into `place`; False when some of it was evicted meanwhile."""
        frames, (count, length) = self.frames, windows.frames.shape
        height, width, channels = frames.layout.frame_shape
        images = place.window(length).reshape(count, length, channels, height, width)
        place.action[:] = frames.column("action", windows.steps[:, 1])
        place.reward[:], place.discount[:] = self._returns(windows.steps[:, 1:])
        if channels == 1:  # frames are stored (H, W, C), so these can be decoded in place
            return self._decode(windows.frames, windows.oldest, images.reshape(-1, height, width, 1))
        # A piece of near windows at a time: they use the same references.
        order, at_once = np.argsort(windows.frames[:, -1]), max(1, PIECE_BYTES // images[0].nbytes)
        for piece in np.split(order, range(at_once, count, at_once)):
            pixels = frames.scratch("pixels", len(piece) * length)
            if not self._decode(windows.frames[piece], windows.oldest, pixels):
                return False
            images[piece] = pixels.reshape(-1, length, height, width, channels).transpose(0, 1, 4, 2, 3)
        return True

    def _decode(self, rows: Rows, oldest: int, out: NDArray[np.uint8]) -> bool:
        """Decode frames (N, L) into `out` (N * L, H, W, C); False when some of them were evicted meanwhile."""
        coded = self.frames.fetch(rows.reshape(-1), out)
        if not self.frames.intact(oldest):
            return False
        self.frames.decode(coded, out)
        return True

    def _returns(self, steps: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """n-step reward and discount of the steps (B, n) after the first observation, (B, 1) each.

        reward = sum over k of (product over j < k of gamma * d_j) * r_k, discount = product of all gamma * d_j.
        """
        reward = self.frames.column("reward", steps).astype(np.float64)
        factor = np.cumprod(self.frames.column("discount", steps).astype(np.float64) * self.discount, axis=1)
        reward[:, 1:] *= factor[:, :-1]
        return reward.sum(axis=1, keepdims=True).astype(np.float32), factor[:, -1:].astype(np.float32)

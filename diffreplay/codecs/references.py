"""Which stored frames become shared reference frames, and when.

Costs and gains that the constants here were chosen by are in docs/benchmarks.md.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs.base import FrameSource, SetPlanner

FIRST_CHECK_BYTES = 1 << 18  # raw bytes stored at the first check
GROWTH = 5  # each of the next checks comes after so many times as many frames
STARTUP_BYTES = 1 << 23  # raw bytes stored up to which a set need not pay for itself, as early sets are poor
STARTUP_GAIN = 0.02  # but makes coded frames at least so much smaller, which those of noise never do
STARTUP_SETS = 2  # full sets that this makes, roughly: one small, one middling and one full
CANDIDATES = 512
CANDIDATE_BYTES = 1 << 23
TRIAL_FRAMES = 64
BUCKETS_LOG2 = 20
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # multiplier of Fibonacci hashing (Knuth, TAOCP 3, section 6.4)


def select_references(frames: NDArray[np.uint8], count: int) -> NDArray[np.intp]:
    """Choose frames that together cover most of what the frames have in common.

    Greedy maximum coverage (Nemhauser, Wolsey and Fisher, 1978) over runs of 8 bytes at their place in the frame,
    each worth the number of other frames that have it. A gain can only fall, so a gain computed earlier is an
    upper bound, and only the top of a heap is computed anew (Minoux, 1978).

    Args:
        frames: (N, ...) uint8.
        count: frames to choose, at most.

    Returns:
        Indices into `frames`, the most valuable last: nearest to what is coded, its matches are the cheapest.
    """
    pixels = frames.reshape(len(frames), -1)
    words = np.ascontiguousarray(pixels[:, : max(pixels.shape[1] // 8, 1) * 8])
    if words.shape[1] % 8:
        words = np.pad(words, ((0, 0), (0, 8 - words.shape[1])))
    runs = words.view(np.uint64)
    place = np.arange(runs.shape[1], dtype=np.uint64) * (GOLDEN | np.uint64(1))
    bucket = (((runs + place) * GOLDEN) >> np.uint64(64 - BUCKETS_LOG2)).astype(np.int32)
    worth = np.maximum(np.bincount(bucket.ravel(), minlength=1 << BUCKETS_LOG2) - 1, 0).astype(np.float32)
    heap = [(-float(gain), i) for i, gain in enumerate(worth[bucket].sum(axis=1))]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < count:
        _, i = heapq.heappop(heap)
        gain = float(worth[bucket[i]].sum())
        if heap and gain < -heap[0][0]:
            heapq.heappush(heap, (-gain, i))
        else:
            chosen.append(i)
            worth[bucket[i]] = 0
    return np.array(chosen[::-1], np.intp)


class PayingPlanner(SetPlanner):
    """Checks ever more rarely whether new reference frames pay, and builds a set when they do.

    The first checks come when FIRST_CHECK_BYTES of raw frames are stored, then GROWTH times as many, and so on,
    later every `interval` frames. A set is built only after a trial: until STARTUP_BYTES are stored, if it makes
    frames smaller at all; then only if, by newer frames than it was chosen from, it will save more bytes until the
    next check than it takes.

    Args:
        set_frames: frames in a set, at most.
        interval: frames between two checks, at most.
        trial: gives the coded bytes of frames (N, H, W, C) against reference frames (K, H, W, C).
    """

    def __init__(
        self,
        set_frames: int,
        interval: int,
        trial: Callable[[NDArray[np.uint8], NDArray[np.uint8]], int],
    ) -> None:
        self._set_frames, self._interval, self._trial = set_frames, interval, trial
        self.next_check = 1

    def due(self, head: int) -> bool:
        """Whether `choose` should be asked now that `head` rows are written."""
        return head >= self.next_check

    def choose(self, store: FrameSource) -> NDArray[np.uint8] | None:
        """Reference frames (K, H, W, C) of a new set, or None to go on with the present one."""
        head, first = store.head, max(store.tail, store.head - self._interval)
        span, frame_bytes = head - first, store.frame_bytes
        first_check = max(2, -(-FIRST_CHECK_BYTES // frame_bytes))
        if head < first_check:
            self.next_check = first_check
            return None
        self.next_check = min(head * GROWTH, head + self._interval)
        if span < first_check:  # nearly all was evicted
            return None
        startup = head * frame_bytes <= STARTUP_BYTES
        held_out = 0 if startup else span // 8
        wanted = min(CANDIDATES, max(CANDIDATE_BYTES // frame_bytes, self._set_frames))
        rows = store.present(_spread(first, head - held_out, wanted))
        if len(rows) < 2:
            return None
        frames = store.read(rows)
        chosen = select_references(frames, min(self._set_frames, max(1, len(frames) // 4)))
        trial_rows = np.delete(rows, chosen) if startup else store.present(np.arange(head - held_out, head))
        trial_rows = trial_rows[_spread(0, len(trial_rows), TRIAL_FRAMES)]
        if not len(trial_rows):
            return None
        before, after = int(store.lengths(trial_rows).sum()), self._trial(store.read(trial_rows), frames[chosen])
        needed = STARTUP_GAIN * before
        if not startup:
            needed = frames[chosen].size * len(trial_rows) / (self.next_check - head)
        return frames[chosen] if before - after > needed else None


def _spread(first: int, end: int, count: int) -> NDArray[np.int64]:
    """At most `count` different rows of [first, end), evenly spread."""
    return np.unique(np.linspace(first, end - 1, min(count, max(end - first, 0))).astype(np.int64))

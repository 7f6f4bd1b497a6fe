"""Which stored frames become shared reference frames, and when.

Costs and gains that the constants here were chosen by are in docs/benchmarks/what-did-not-work.md.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from diffreplay.codecs.base import FrameSource, SetPlanner

FIRST_CHECK_BYTES = 1 << 18  # raw bytes stored at the first check
GROWTH = 5  # each of the next checks comes after so many times as many frames
# The first sets are chosen from few frames, so that better ones soon follow, and no newer frames are there yet to tell
# what they save. While fewer raw bytes than STARTUP_BYTES are stored, it is enough that a set makes coded frames
# smaller by the part STARTUP_GAIN, which none does where frames are noise.
STARTUP_BYTES = 1 << 23
STARTUP_GAIN = 0.02
STARTUP_SETS = 2  # what the sets of that time take in all, in full sets: they are a small, a middling and a full one
CANDIDATES = 512  # frames that a set is chosen from, at most,
CANDIDATE_BYTES = 1 << 23  # and in raw bytes
SHARE = 0.25  # part of them that is chosen, at most
TRIAL_FRAMES = 64  # that are coded against it to see what it saves, at most,
TRIAL_BYTES = 1 << 24  # and in raw bytes; but eight frames at least
CAPPED_INTERVAL = 1 << 13  # frames between two checks under a cap, at most: there a check takes memory from frames
LARGEST_WORK = 0.75  # part of the room for frames that a check may take: more is not evicted for what may not pay
PIECE_BYTES = 1 << 18  # of frames that are looked at at once
BUCKETS_LOG2 = 20
SMALL_SHARE = 12  # a set that takes less than this part of a cap, 1/12, is as large as without one
LARGE_SHARE = 6  # a set of several frames takes 1/6 of a cap at most
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # multiplier of Fibonacci hashing (Knuth, TAOCP 3, section 6.4)


def select_references(
    pieces: Iterable[NDArray[np.uint8]], count: int, buckets_log2: int = BUCKETS_LOG2
) -> NDArray[np.intp]:
    """Choose frames that together cover most of what the frames have in common.

    Greedy maximum coverage (Nemhauser, Wolsey and Fisher, 1978) over runs of 8 bytes at their place in the frame,
    each worth the number of other frames that have it. A gain can only fall, so a gain computed earlier is an
    upper bound, and only the top of a heap is computed anew (Minoux, 1978).

    Args:
        pieces: frames of one shape in arrays (N, ...) uint8, each of which is read once.
        count: frames to choose, at most.
        buckets_log2: runs are told apart by so many bits of a hash.

    Returns:
        Indices of frames, the most valuable last: matches in what lies next to the coded frame are the cheapest.

    Examples:
        >>> frames = np.zeros((10, 16, 16, 3), np.uint8)
        >>> diffreplay.codecs.select_references([frames], count=1).shape
        (1,)
    """
    worth = np.zeros(1 << buckets_log2, np.float32)
    buckets: list[NDArray[np.int32]] = []
    for frames in pieces:
        part = _buckets(frames, buckets_log2)
        torch.from_numpy(worth).index_add_(0, torch.from_numpy(part.reshape(-1)), torch.ones(part.size))
        buckets.extend(part)
    np.maximum(worth - 1, 0, out=worth)
    heap = [(-float(worth[bucket].sum()), i) for i, bucket in enumerate(buckets)]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < count:
        _, i = heapq.heappop(heap)
        gain = float(worth[buckets[i]].sum())
        if heap and gain < -heap[0][0]:
            heapq.heappush(heap, (-gain, i))
        else:
            chosen.append(i)
            worth[buckets[i]] = 0
    return np.array(chosen[::-1], np.intp)


def _buckets(frames: NDArray[np.uint8], buckets_log2: int) -> NDArray[np.int32]:
    """The bucket of each run of 8 bytes of frames (N, ...), by its bytes and its place, (N, runs)."""
    pixels = frames.reshape(len(frames), -1)
    words = np.ascontiguousarray(pixels[:, : max(pixels.shape[1] // 8, 1) * 8])
    if words.shape[1] % 8:
        words = np.pad(words, ((0, 0), (0, 8 - words.shape[1])))
    runs = words.view(np.uint64)
    runs = runs + np.arange(runs.shape[1], dtype=np.uint64) * (GOLDEN | np.uint64(1))
    runs *= GOLDEN
    runs >>= np.uint64(64 - buckets_log2)
    return runs.astype(np.int32)


def set_sizes(most: int, cost: Callable[[int], int], max_bytes: int | None) -> list[int]:
    """How many frames a set may have, the largest first: one size without a cap, or where it takes little of it.

    Args:
        most: without a cap.
        cost: bytes that a set of so many frames takes.
        max_bytes: the cap, or None.
    """
    sizes = [most]
    if max_bytes is None:
        return sizes
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    shares = [cost(size) / max_bytes for size in sizes]
    few = [size for size, share in zip(sizes, shares, strict=True) if LARGE_SHARE * share <= 1] or sizes[-1:]
    enough = [size for size, share in zip(sizes, shares, strict=True) if SMALL_SHARE * share <= 1]
    return [size for size in few if not enough or size >= enough[0]]


class PayingPlanner(SetPlanner):
    """Checks ever more rarely whether new reference frames pay, and builds a set when they do.

    The first checks come when FIRST_CHECK_BYTES of raw frames are stored, then GROWTH times as many, and so on,
    later every `interval` frames. A set is built only after a trial: until STARTUP_BYTES are stored, if it makes
    frames smaller by STARTUP_GAIN; then only if, by newer frames than it was chosen from, it will save more bytes until
    the next check than it takes.

    Under a cap a set is built only if more frames are held with it, and of several sizes the one with which the most
    are held. Later checks then come after CAPPED_INTERVAL frames, or when all that is held has changed.

    Args:
        sizes: how many frames a set may have, the largest first.
        cost: bytes that a set of so many frames takes, and what coding against it takes besides.
        interval: frames between two checks, at most.
        trial: gives the coded bytes of frames, in arrays (N, H, W, C), against reference frames (K, H, W, C).
        frame_bytes: bytes of a raw frame.
        max_bytes: cap on the store's memory, or None.
        share: of the frames that a set is chosen from, at most.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        cost: Callable[[int], int],
        interval: int,
        trial: Callable[[Iterable[NDArray[np.uint8]], NDArray[np.uint8]], int],
        frame_bytes: int,
        max_bytes: int | None = None,
        share: float = SHARE,
    ) -> None:
        self._sizes, self._cost, self._interval, self._trial = sizes, cost, interval, trial
        self.next_check = 1
        self._share = share
        candidate_bytes, self._buckets_log2 = CANDIDATE_BYTES, BUCKETS_LOG2
        if max_bytes is not None:
            candidate_bytes = min(candidate_bytes, max_bytes // 8)
            self._buckets_log2 = min(BUCKETS_LOG2, (max_bytes // 256).bit_length())
        self._candidates = min(CANDIDATES, max(candidate_bytes // frame_bytes, sizes[0], 4))
        self._trial_frames = min(TRIAL_FRAMES, max(TRIAL_BYTES // frame_bytes, 8))
        piece = max(PIECE_BYTES, frame_bytes)
        choosing = (4 << self._buckets_log2) + self._candidates * frame_bytes // 2 + 4 * piece
        self.working_bytes = max(choosing, max(cost(size) for size in sizes) + 2 * piece)

    def due(self, head: int) -> bool:
        """Whether `choose` should be asked now that `head` rows are written."""
        return head >= self.next_check

    def choose(self, store: FrameSource) -> NDArray[np.uint8] | None:
        """Reference frames (K, H, W, C) of a new set, or None to go on with the present one."""
        head, frame_bytes, room, interval = store.head, store.frame_bytes, store.room, self._interval
        first_check = max(2, -(-FIRST_CHECK_BYTES // frame_bytes))
        if head < first_check:
            self.next_check = first_check
            return None
        if room is not None:  # each check takes room, and so costs frames; but all may look different by now
            interval = max(min(interval, CAPPED_INTERVAL), head - store.tail)
        self.next_check = min(head * GROWTH, head + interval)
        if room is not None:
            if self.working_bytes > LARGEST_WORK * room:
                return None
            store.make_room(self.working_bytes)
        first = max(store.tail, head - self._interval)
        span = head - first
        if span < first_check:  # nearly all was evicted
            return None
        startup = head * frame_bytes <= STARTUP_BYTES
        held_out = 0 if startup else span // 8
        rows = store.present(_spread(first, head - held_out, self._candidates))
        if len(rows) < 2:
            return None
        count = min(self._sizes[0], max(1, int(len(rows) * self._share)))
        chosen = select_references(_pieces(store, rows), count, self._buckets_log2)
        trial_rows = np.delete(rows, chosen) if startup else store.present(np.arange(head - held_out, head))
        trial_rows = trial_rows[_spread(0, len(trial_rows), self._trial_frames)]
        return self._best(store, rows[chosen], trial_rows, startup) if len(trial_rows) else None

    def _best(
        self, store: FrameSource, rows: NDArray[np.int64], trial_rows: NDArray[np.int64], startup: bool
    ) -> NDArray[np.uint8] | None:
        """The frames of `rows`, or under a cap the most valuable of them; None where no set pays."""
        best, references = None, store.read(rows)
        before = int(store.lengths(trial_rows).sum())
        held = 0.0 if store.room is None else store.room / max(before, 1)
        for size in sorted({min(size, len(rows)) for size in self._sizes}, reverse=True):
            frames = references[-size:]
            after = self._trial(_pieces(store, trial_rows), frames)
            needed = STARTUP_GAIN * before
            if not startup:
                needed = frames.size * len(trial_rows) / (self.next_check - store.head)
            with_it = 1.0 if store.room is None else (store.room - self._cost(size)) / max(after, 1)
            if before - after > needed and with_it > held:
                best, held = frames, with_it
        return best


def _pieces(store: FrameSource, rows: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Frames of rows, a few at a time."""
    step = max(1, PIECE_BYTES // store.frame_bytes)
    for begin in range(0, len(rows), step):
        yield store.read(rows[begin : begin + step])


def _spread(first: int, end: int, count: int) -> NDArray[np.int64]:
    """At most `count` different rows of [first, end), evenly spread."""
    return np.unique(np.linspace(first, end - 1, min(count, max(end - first, 0))).astype(np.int64))

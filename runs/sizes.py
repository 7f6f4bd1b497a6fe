"""What a run says of its buffer's size, in one line."""

from __future__ import annotations

from bisect import bisect_right

from diffreplay import ReplayStats


class Sizes:
    """Tells what a buffer takes, and what it will take when it is full.

    Args:
        capacity: transitions that it may hold.
        max_bytes: cap on its bytes, or None.
    """

    def __init__(self, capacity: int, max_bytes: int | None = None) -> None:
        self._capacity, self._max_bytes = capacity, max_bytes
        self._told: list[ReplayStats] = []

    def line(self, stats: ReplayStats) -> str:
        """The line of a run's progress, of at most 100 characters."""
        return f"| replay | {stats.transitions} transitions | {_each(stats)} | {self._full(stats)} when full |"

    def end(self, stats: ReplayStats, what: str) -> str:
        """The last line of a run; `what` says in words what the ratio is against."""
        nbytes = stats.stacked_bytes // max(stats.transitions, 1)
        return (
            f"compression ratio: {stats.compression_ratio:.1f} against {what} of {nbytes} bytes; {stats.transitions} "
            f"transitions, {_each(stats)}; {_size(stats.total_bytes)} of memory in all, about {self._full(stats)} with "
            f"{self._capacity} transitions"
        )

    def _full(self, stats: ReplayStats) -> str:
        """Memory at the capacity, as the transitions since about half as many were held take."""
        transitions = [earlier.transitions for earlier in self._told]
        place = bisect_right(transitions, stats.transitions // 2)
        nbytes = stats.forecast(self._capacity, self._told[place - 1] if place else None)
        if not self._told or stats.transitions > transitions[-1]:
            self._told.append(stats)
        return _size(nbytes if self._max_bytes is None else min(nbytes, max(self._max_bytes, stats.total_bytes)))


def _each(stats: ReplayStats) -> str:
    count = max(stats.transitions, 1)
    each = f"{stats.observation_bytes / count:.0f} bytes each"
    return f"{each}, {stats.reference_bytes / count:.0f} of them references" if stats.reference_bytes else each


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"

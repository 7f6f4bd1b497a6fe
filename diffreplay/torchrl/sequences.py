"""Finds what an observation follows, or where it is stored already; compared byte by byte before it is believed.

Transitions come in any order: one environment's after another's, all environments' step after step, with a next
observation several steps ahead, or shuffled. A sequence is a stream of the store, whose newest observation may be
continued.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from diffreplay.store import NO_ROW, Stack, Stream, continues, same
from diffreplay.tables import ImageStore

MOST = 256  # sequences that may be continued: environments that take turns
KEPT = 4096  # further observations that are found again
MOVED = -1  # the stream of observations that are stored anew


class Sequences:
    """Puts observations of one image into an ImageStore, each as what goes on where it belongs.

    Attributes:
        span: rows that any observation reaches back at most.
    """

    def __init__(self, store: ImageStore) -> None:
        self._store, self._frames, self.span = store, store.frames, 0
        self._keys: OrderedDict[int, tuple[int, int]] = OrderedDict()  # of each sequence, the least recent first
        self._whole: dict[int, int] = {}  # sequences by checksums of their newest observation
        self._newer: dict[int, int] = {}  # the same without its oldest frame
        self._seen: dict[int, int] = {}  # rows of observations before those, by checksums
        self._ended: list[int] = []
        self._current = MOVED

    def put(self, stack: Stack, follows: bool) -> int:
        """Store an observation unless it is held already.

        Args:
            stack: its frames.
            follows: it follows the one before; otherwise only where its frames show it.

        Returns:
            its row.
        """
        newest, several = self._newest(self._current), len(stack[0]) > 1
        if newest is not None:
            if same(stack, newest.stack):
                return newest.row
            if (several or follows) and continues(stack, newest.stack):
                return self._append(stack, self._current)
        key = _checksum(stack[0])
        name = self._whole.get(key, MOVED)
        newest = self._newest(name)
        if newest is not None and same(stack, newest.stack):
            self._current = name
            return newest.row
        row = self._seen.get(key, NO_ROW)
        if self._holds(row, stack):
            return row
        if several:
            name = self._newer.get(_checksum(stack[0][:-1]), MOVED)
            newest = self._newest(name)
            if newest is not None and continues(stack, newest.stack):
                return self._append(stack, name)
        return self._append(stack, self._free())

    def end(self) -> None:
        """Note that nothing follows the newest observation, so that another sequence may begin in its place."""
        if self._current != MOVED:
            self._ended.append(self._current)
            self._current = MOVED

    def move(self, row: int) -> int:
        """Store the observation at a row once more; return where. They come in ascending order."""
        stack = self._frames.readable_stack(row)
        assert stack is not None  # of a row that an entry needs
        return self._stored(stack, MOVED)

    def _append(self, stack: Stack, name: int) -> int:
        """Store an observation as the newest one of a sequence."""
        before = self._newest(name)
        if (keys := self._keys.get(name)) is not None:
            for table, key in zip((self._whole, self._newer), keys, strict=True):
                if table.get(key) == name:
                    del table[key]
            if before is not None:
                self._remember(keys[0], before.row)
        row = self._stored(stack, name)
        keys = _checksum(stack[0]), _checksum(stack[0][1:])
        self._keys[name] = keys
        self._whole[keys[0]] = self._newer[keys[1]] = self._current = name
        self._keys.move_to_end(name)
        return row

    def _stored(self, stack: Stack, name: int) -> int:
        row = self._store.put_one(stack, name)
        self.span = max(self.span, row - min(self._frames.streams[name].needed, default=row))
        return row

    def _remember(self, key: int, row: int) -> None:
        self._seen.pop(key, None)  # so that the newest are the last
        self._seen[key] = row
        if len(self._seen) > KEPT:
            del self._seen[next(iter(self._seen))]

    def _free(self) -> int:
        """A sequence that may begin anew: one that ended, a new one, or the least recent one."""
        while self._ended:
            name = self._ended.pop()
            if name != self._current:
                return name
        return len(self._keys) if len(self._keys) < MOST else next(iter(self._keys))

    def _newest(self, name: int) -> Stream | None:
        """A sequence by the observation that may be continued; None where it left."""
        return None if name == MOVED else self._store.newest(name)

    def _holds(self, row: int, stack: Stack) -> bool:
        stored = self._frames.readable_stack(row) if row != NO_ROW else None
        return stored is not None and same(stack, stored)


def _checksum(frames: NDArray[np.uint8]) -> int:
    """A number that is the same for equal frames."""
    words = frames.reshape(-1)
    if words.size % 8 == 0 and words.flags.c_contiguous:
        words = words.view(np.uint64)
    return int(words.sum(dtype=np.uint64))

"""The images of a key and, where there is one, of its next one, coded, at entries that are written in any order.

Rows leave the store first in, first out. What entries still need of the oldest rows is stored anew where too much
between them is needed no more, which costs nothing as long as entries are overwritten in turns.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Codec
from diffreplay.errors import ReadOnlyError
from diffreplay.parts import Part
from diffreplay.store import NO_ROW, Rows
from diffreplay.tables import FrameWatch, ImageStore, ImageTable, channels_of, with_channels
from diffreplay.torchrl.sequences import Sequences

PIECE = 256  # entries written, and rows stored anew, between two looks at what may leave
NEEDLESS = 2  # rows held for each that is needed, at most


class CodedImages:
    """One or two tables of images, which share a store.

    Args:
        part: how an image is a stack of frames.
        item: shape of an image in the storage.
        shape: of the entries.
        count: 2 with the next images, else 1.
        codec: how frames are coded.
        guessed: the part is a guess, to be corrected by what comes.

    Attributes:
        tables: of the images and of the next ones.
    """

    def __init__(
        self, part: Part, item: tuple[int, ...], shape: tuple[int, ...], count: int, codec: Codec, *, guessed: bool
    ) -> None:
        self.part, self.item, self._codec = part, item, codec
        images = count * int(np.prod(shape))
        self._batch = max(PIECE, images // 16)  # rows that are stored anew at once
        # At worst all images are stored anew while each is still needed where it was.
        self.store = ImageStore([part], 1, 2 * (images + 2 * count * PIECE + self._batch), codec)
        self.tables = [ImageTable(self.store, shape) for _ in range(count)]
        if count == 2:
            self.tables[0].then, self.tables[1].then = self.tables[1], self.tables[0]
        self._begin()
        channels = channels_of(part) if guessed else 1
        self._watch = FrameWatch(channels) if channels > 1 else None

    def _begin(self) -> None:
        self._sequences = Sequences(self.store)
        self._lock, self._owner = threading.RLock(), os.getpid()
        self._written, self._look_at = 0, 4 * PIECE

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the entries."""
        return self.tables[0].shape

    @property
    def nbytes(self) -> int:
        """Bytes taken now."""
        return self.store.nbytes + sum(table.nbytes for table in self.tables)

    def read(self, which: int, key: Any, steps: slice = slice(None)) -> NDArray[Any]:
        """Images at a NumPy index of the entries, or of some of their steps: a new array.

        Raises:
            ReadOnlyError: this is another process.
        """
        self._check_process()
        with self._lock:
            table = self.tables[which]
            then = None if table.then is None else table.then.rows(key, steps)
            rows = table.rows(key, steps)
            return self._shaped(table.read(rows, 0, then), rows)

    def write(
        self, entries: NDArray[np.int64], images: Sequence[NDArray[Any] | None], ended: NDArray[np.bool_] | None = None
    ) -> None:
        """Store images, in the order in which they came, at entries by their numbers.

        Args:
            entries: (N,), all different.
            images: for each table (N, *item), or None where its images stay.
            ended: (N,) whether nothing follows the next image.

        Raises:
            ReadOnlyError: this is another process.
        """
        self._check_process()
        with self._lock:
            self._find_frames(images)
            for begin in range(0, len(entries), PIECE):
                piece = slice(begin, begin + PIECE)
                self._make_room()
                ends = None if ended is None else ended[piece].tolist()
                self._write(entries[piece], [None if some is None else some[piece] for some in images], ends)

    def clear(self) -> None:
        """Forget all images; reference frames stay."""
        with self._lock:
            self.store.clear()
            for table in self.tables:
                table.clear()
            self._begin()

    def _write(
        self, entries: NDArray[np.int64], images: Sequence[NDArray[Any] | None], ended: list[bool] | None
    ) -> None:
        stacks = [
            None if some is None else self.part.stacks(np.ascontiguousarray(some).reshape(-1, *self.part.shape))
            for some in images
        ]
        both, put = all(some is not None for some in stacks), self._sequences.put
        follows = [not both, True]
        rows = np.empty((len(stacks), len(entries)), np.int64)
        for k in range(len(entries)):
            for which, some in enumerate(stacks):
                if some is not None:
                    rows[which, k] = put((some[k],), follows[which])
            if ended is not None and ended[k]:
                self._sequences.end()
        for table, some, its in zip(self.tables, stacks, rows, strict=True):
            if some is not None:
                table.assign(np.unravel_index(entries, self.shape), its)
        self._written += len(entries)

    def _find_frames(self, images: Sequence[NDArray[Any] | None]) -> None:
        """Have the images in frames as these show them, once enough of them were seen."""
        watch, arrays = self._watch, [some for some in images if some is not None]
        if watch is None or not arrays:
            return
        pairs = zip(*arrays, strict=True) if len(arrays) == 2 else zip(arrays[0], arrays[0][1:], strict=False)
        for one, other in pairs:
            watch.see(*(self._planes(image) for image in (one, other)))
            if (channels := watch.frame_channels()) is not None:
                self._watch = None
                if (part := with_channels(self.part, channels)) != self.part:
                    self._cut_anew(part)
                return

    def _planes(self, image: NDArray[Any]) -> NDArray[Any]:
        observation = image.reshape(self.part.shape)
        return observation.transpose(2, 0, 1) if self.part.spec.layout == "HWC" else observation

    def _cut_anew(self, part: Part) -> None:
        """Have what was written so far in other frames."""
        other = CodedImages(part, self.item, self.shape, len(self.tables), self._codec, guessed=False)
        held = [table.rows(...).reshape(-1) != NO_ROW for table in self.tables]
        entries = np.flatnonzero(np.logical_or.reduce(held))
        for begin in range(0, len(entries), PIECE):
            some = entries[begin : begin + PIECE]
            key = np.unravel_index(some, self.shape)
            other.write(some, [self.read(which, key) for which in range(len(self.tables))])
        for which, its in enumerate(held):  # what was never written reads as zeros, and stays so
            other.tables[which].assign(np.unravel_index(np.flatnonzero(~its), self.shape), np.array(NO_ROW))
        del other._lock
        vars(self).update(vars(other))

    def _make_room(self) -> None:
        """Drop rows that nothing needs, and see to it that few of those between are held."""
        entries = self.tables[0].nbytes // 4
        if self._written >= max(64, entries // 64):
            self._written = 0
            self._evict()
        frames = self.store.frames
        if frames.head - frames.tail < self._look_at:
            return
        self._evict()
        limit, end = NEEDLESS * self._needed(), frames.head
        while frames.head - frames.tail > limit and frames.tail < end:
            self._move_before(min(frames.tail + self._batch, end))
        held = frames.head - frames.tail
        most = frames.layout.max_rows - 2 * (len(self.tables) * PIECE + self._batch) * self.part.frame_stack
        self._look_at = max(4 * PIECE, min(held + held // 4, most))

    def _rows(self) -> Rows:
        """The rows of all entries, ascending."""
        rows = np.unique(np.concatenate([table.rows(...).reshape(-1) for table in self.tables]))
        return rows[rows != NO_ROW]

    def _needed(self) -> int:
        """How many rows the entries need."""
        needed = np.unique(self.store.frames.stacks(self._rows()))
        return int((needed != NO_ROW).sum())

    def _oldest_needed(self, rows: Rows) -> Rows:
        """For each of the rows, the oldest one without which it cannot be read."""
        frames = self.store.frames
        stacks = frames.stacks(rows)
        needed = np.asarray(frames.oldest_needed(stacks.reshape(-1))).reshape(stacks.shape)
        return np.where(stacks == NO_ROW, rows[:, None], needed).min(axis=1)

    def _evict(self) -> None:
        """Drop all rows before those that entries need."""
        rows = np.concatenate([table.rows(...).reshape(-1) for table in self.tables])
        rows = rows[rows != NO_ROW]
        near = rows[rows <= rows.min(initial=self.store.frames.head) + self._sequences.span]
        self.store.evict_before(int(self._oldest_needed(near).min(initial=self.store.frames.head)))

    def measure(self) -> None:
        """Find how far back observations reach that were put here from elsewhere."""
        rows = self._rows()
        self._sequences.span = int((rows - self._oldest_needed(rows)).max(initial=0))

    def _move_before(self, end: int) -> None:
        """Drop all rows before `end`, after storing anew what entries need of them."""
        rows = self._rows()
        near = rows[rows < end + self._sequences.span]
        old = near[self._oldest_needed(near) < end]
        if len(old):
            new = np.array([self._sequences.move(row) for row in old.tolist()], np.int64)
            for table in self.tables:
                table.move(old, new)
        self.store.evict_before(end)

    def _shaped(self, pixels: NDArray[Any], rows: Rows) -> NDArray[Any]:
        return pixels.reshape(*rows.shape, *self.item)

    def _check_process(self) -> None:
        if os.getpid() != self._owner:
            raise ReadOnlyError(
                f"ReplayStorage: expected use by process {self._owner}, which made it, got process {os.getpid()}; "
                "sample there, or pickle the storage to have a copy"
            )

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            left_out = ("_sequences", "_lock", "_owner", "_written", "_look_at")
            return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()
        self.measure()

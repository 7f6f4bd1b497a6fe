"""Reads rows from the files of a snapshot: `store.FrameReader` over an index that is filled as rows are asked for."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Codec
from diffreplay.errors import CorruptDataError
from diffreplay.offline.index import BEGIN, FilledIndex, MappedLayout, mapped_layout, slot_column
from diffreplay.offline.mapping import MappedFiles
from diffreplay.snapshots import unpack_rows
from diffreplay.store import (
    BLOCK_ROWS,
    NO_ROW,
    NO_SET,
    SET_SLOTS,
    Arena,
    Column,
    Counter,
    FrameReader,
    Index,
    Layout,
    Memory,
    Rows,
    StoredRows,
    count_transitions,
    fence,
    mark_ends,
)

UNKNOWN = (1 << 64) - 1  # transitions, before somebody counted
_turn = threading.Lock()  # of the threads of this process that read files


def _renew_turn() -> None:
    global _turn
    _turn = threading.Lock()  # the one that was copied may be held by a thread that is not here


os.register_at_fork(after_in_child=_renew_turn)


class MappedFrames(FrameReader):
    """Random access to the rows of a snapshot; a file's checksum is compared when one of its rows is first asked for.

    What is known of rows, frames aside, is kept in shared memory. Processes that this is passed to by multiprocessing
    share it: each file is checked by one of them.

    Args:
        files: of the snapshot.
        plain: the layout of what was saved.
        codec: what coded the frames.
        going_on: steps whose episodes had not ended; None where it does not matter whether they had.
        arena: that another one made; a new one otherwise.

    Raises:
        SharedMemoryError: there is no memory for the index.
    """

    layout: MappedLayout

    def __init__(
        self, files: MappedFiles, plain: Layout, codec: Codec, going_on: list[int] | None, arena: Arena | None = None
    ) -> None:
        self.files, self._plain, self._going_on = files, plain, going_on
        manifest = files.manifest
        self._segments, self._sets = manifest.segments, manifest.sets
        self._firsts = np.array([entry.first for entry in self._segments], np.int64)
        self._first, self._head = int(self._firsts[0]) if len(self._firsts) else manifest.head, manifest.head
        self._bases = self._block_bases()
        layout, self._whole = self._mapped_layout(), False
        self._held = None if files.damage else manifest.held
        self._filling: int | None = None  # the thread that marks where episodes end
        super().__init__(layout, Arena(max(layout.nbytes, 1)) if arena is None else arena, codec)
        self._ready = self.arena.array("u1", (layout.segments,), layout.log_offset)
        self._checked: set[tuple[int, int]] = set()  # reference sets: image and number
        if arena is None:
            self._begin()

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedFrames, (self.files, self._plain, self.codec, self._going_on, self.arena)

    def _block_bases(self) -> NDArray[np.int64]:
        """Where in the log the file of the first row of each block begins."""
        blocks = np.arange(self._first // BLOCK_ROWS, -(-self._head // BLOCK_ROWS)) * BLOCK_ROWS
        return self.files.begins[np.searchsorted(self._firsts, np.maximum(blocks, self._first), "right") - 1]

    def _mapped_layout(self) -> MappedLayout:
        """Each block's frames end before the next block's first file but one begins."""
        begins = self.files.begins
        lasts = np.append(self._bases[1:], begins[-1]) + max([entry.nbytes for entry in self._segments], default=0)
        block_bytes = int(np.max(lasts - self._bases, initial=0))
        rows = self._head - self._first
        return mapped_layout(self._plain, rows, int(begins[-1]), len(self._segments), block_bytes)

    def _make_memory(self) -> Memory:
        memory = Memory(self.layout, self.arena)
        memory.log, memory.sets = self.files.log, self.files.sets
        return memory

    def _make_index(self) -> Index:
        return FilledIndex(self.layout, self.memory, self._fill)

    def _begin(self) -> None:
        """Say what the manifest does."""
        counters, manifest = self.memory.counters, self.files.manifest
        counters[Counter.HEAD], counters[Counter.TAIL], counters[Counter.FREED] = (
            self._head,
            manifest.tail,
            manifest.tail,
        )
        for image, (sets, table) in enumerate(zip(self._sets, self.memory.set_tables, strict=True)):
            for entry in sets:
                table[entry.first % SET_SLOTS] = (entry.end, entry.nbytes)
            numbers = [entry.first for entry in sets]
            counters[Counter.set_tail(image)] = min(numbers, default=0)
            counters[Counter.set_head(image)] = max(numbers, default=-1) + 1
        counters[Counter.REFERENCE_BYTES] = sum(entry.nbytes for sets in self._sets for entry in sets)
        counters[Counter.ALLOCATED_BYTES] = sum(entry.nbytes for entry in manifest.files())
        held = self._held
        counters[Counter.TRANSITIONS] = UNKNOWN if held is None else held.transitions
        counters[Counter.PAYLOAD_BYTES] = 0 if held is None else held.payload_bytes

    def counter(self, which: int) -> int:
        """A counter; of a snapshot that does not tell them, transitions and coded bytes take reading all of it."""
        if which in (Counter.TRANSITIONS, Counter.PAYLOAD_BYTES) and super().counter(Counter.TRANSITIONS) == UNKNOWN:
            rows = np.arange(*self.bounds())
            self.memory.counters[Counter.PAYLOAD_BYTES] = int(self.lengths(rows).sum())
            count_transitions(self)
        return super().counter(which)

    @property
    def index_columns(self) -> tuple[Column, ...]:
        """What is stored of each row to find its frames: what only this index has lies in no file."""
        return self._plain.index

    def frames_elsewhere(self, tail: int, head: int) -> int:
        """How many of the rows hold no frame, as another row has it already."""
        held = self._held
        return super().frames_elsewhere(tail, head) if held is None else head - tail - held.frames

    def fill_all(self) -> None:
        """Compare all checksums, and have all rows in the index.

        Raises:
            CorruptDataError: a file is damaged.
        """
        self._fill(self._firsts)
        for image, sets in enumerate(self._sets):
            for entry in sets:
                if (image, entry.first) not in self._checked:
                    self.files.checked(entry)

    def _fill(self, rows: Rows) -> bool:
        """Have rows in the index, and all others of their files; whether any of them was not."""
        if self._whole or self._filling == threading.get_ident():
            return False
        rows = rows[(rows >= self._first) & (rows < self._head)]
        asked = np.unique(np.searchsorted(self._firsts, rows, "right") - 1)
        missing = asked[self._ready[asked] == 0]
        if not len(missing):
            fence()  # what others wrote before they said so is seen now
            self._whole = bool(self._ready.all())
        elif self._going_on is None:
            for number in missing.tolist():
                with self._alone(number):
                    if not self._ready[number]:
                        self._take(number)
                        fence()
                        self._ready[number] = 1
        else:
            self._fill_with_ends(self._going_on)
        return len(missing) > 0

    def _fill_with_ends(self, going_on: list[int]) -> None:
        """Have all rows in the index: where an episode ended is known only once no step is found that follows."""
        with self._alone(0):
            if not self._ready.all():
                for number in range(len(self._segments)):
                    self._take(number)
                self._filling = threading.get_ident()
                try:
                    count_transitions(self)
                    mark_ends(self, going_on)
                finally:
                    self._filling = None
                fence()
                self._ready[:] = 1

    @contextmanager
    def _alone(self, number: int) -> Iterator[None]:
        """Keep other threads and processes from doing the same.

        The system's locks are a process's: its threads take turns, so that one of them holds at most one.
        """
        with _turn:
            try:
                fcntl.lockf(self.arena.fd, fcntl.LOCK_EX, 1, number)
                yield
            finally:
                fcntl.lockf(self.arena.fd, fcntl.LOCK_UN, 1, number)

    def _take(self, number: int) -> None:
        """Check a file, and write its rows to the index.

        Raises:
            CorruptDataError: it is damaged, or a reference set is that its frames are coded against.
        """
        files, entry = self.files, self._segments[number]
        data = files.checked(entry)
        try:
            stored = unpack_rows(self._plain, data, entry.first, entry.end)
        except ValueError as error:
            raise CorruptDataError(f"{files.directory / entry.name}: {error}") from None
        slots = self._slots(stored, entry.first, entry.end)
        rows, lengths = np.arange(entry.first, entry.end), stored.lengths.astype(np.int64)
        end = int(files.begins[number]) + entry.nbytes
        totals = lengths.sum(axis=1)
        begins = end - int(totals.sum()) + np.cumsum(totals) - totals
        blocks = rows // BLOCK_ROWS
        bases = self._bases[blocks - self._first // BLOCK_ROWS]
        self.memory.base[blocks % self.layout.blocks] = bases
        put = self.index.put
        put(BEGIN, rows, begins - bases)
        ends = begins[:, None] + np.cumsum(lengths, axis=1) if lengths.shape[1] else begins[:, None]
        for name, values in zip(self.layout.ends, ends.T, strict=True):
            put(name, rows, values - bases)
        for image, values in enumerate(slots.T):
            put(slot_column(image), rows, values)
        for name, values in stored.columns.items():
            put(name, rows, values)

    def _slots(self, stored: StoredRows, first: int, end: int) -> NDArray[np.int64]:
        """The slots of the sets that rows are coded against, (N, images); all of these sets are checked.

        Raises:
            CorruptDataError: one of them is damaged, or none of this snapshot.
        """
        found = np.empty((end - first, len(self._sets)), np.int64)
        for image, sets in enumerate(self._sets):
            entries = {entry.first: entry for entry in sets}
            if stored.sets is None:
                places = np.searchsorted([entry.end for entry in sets], np.arange(first, end), "right")
                numbers = np.array([NO_ROW, *entries], np.int64)[places]
            else:
                numbers = stored.sets[:, image].copy()
            numbers[: max(self.files.manifest.tail - first, 0)] = NO_ROW  # these have left, and their sets may have
            for number in np.unique(numbers[numbers != NO_ROW]).tolist():
                if number not in entries:
                    raise CorruptDataError(
                        f"{self.files.directory}: expected rows from row {first} on to be coded against reference sets "
                        f"{list(entries)}, got set {number}"
                    )
                if (image, number) not in self._checked:
                    self.files.checked(entries[number])
                    self._checked.add((image, number))
            found[:, image] = np.where(numbers == NO_ROW, NO_SET, numbers % SET_SLOTS)
        return found

"""Reference sets: raw frames in shared memory that many frames are coded against.

They are numbered for ever. Set s serves the rows from its first row on, up to the first row of set s + 1; the rows
before set 0 are coded against an empty one, which goes by NO_ROW.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Buffer, Codec
from diffreplay.store.arena import PAGE, Arena, Ring, fence
from diffreplay.store.index import NO_ROW, OverrunError, Rows
from diffreplay.store.layout import HEADER_BYTES, SET_SLOTS, Counter, Layout, Memory


class ReferenceSets:
    """Finds reference sets and opens them, in any process."""

    def __init__(self, layout: Layout, memory: Memory) -> None:
        self._layout, self._counters, self._table, self._bytes = layout, memory.counters, memory.set_table, memory.sets
        self.memory = memory.sets
        self._opened: dict[int, Any] = {}  # by number, as the codec opened them
        self.reference: Any = None  # the one that the writer codes against

    def numbers(self) -> range:
        """The sets that still have rows, or will."""
        return range(self._counters[Counter.SET_TAIL], self._counters[Counter.SET_HEAD])

    def first_row(self, number: int) -> int:
        """The first row that a set serves."""
        return int(self._table["first_row"][number % SET_SLOTS])

    def frames(self, number: int) -> memoryview:
        """The frames of a set, end to end: a view of shared memory."""
        begin, nbytes = number % SET_SLOTS * self._layout.set_slot, int(self._table["nbytes"][number % SET_SLOTS])
        return self._bytes[begin : begin + min(nbytes, self._layout.set_slot)]

    def serving(self, row: int) -> int:
        """The set that a row is coded against; NO_ROW for none."""
        return max((number for number in self.numbers() if self.first_row(number) <= row), default=NO_ROW)

    def split(self, rows: Rows, places: NDArray[np.intp]) -> list[tuple[int, NDArray[np.intp]]]:
        """Split places in `rows` by the rows' sets, and order them by row: near ones use the same references.

        Raises:
            OverrunError: sets were given up meanwhile.
        """
        numbers, first_rows, _ = self._live()
        places = places[np.argsort(rows[places])]
        parts = np.split(places, np.searchsorted(rows[places], first_rows))
        return [(number, part) for number, part in zip((NO_ROW, *numbers), parts, strict=True) if len(part)]

    def locate(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where in `memory` the set of each row begins, and its bytes; 0 where it has none.

        Raises:
            OverrunError: sets were given up meanwhile.
        """
        numbers, first_rows, nbytes = self._live()
        # Entry 0 is the empty set before the first one.
        which = np.searchsorted(first_rows, rows, side="right")
        slot = self._layout.set_slot
        starts = np.array([0, *(number % SET_SLOTS * slot for number in numbers)], np.int64)
        return starts[which], np.array([0, *np.minimum(nbytes, slot)], np.int64)[which]

    def _live(self) -> tuple[range, NDArray[np.int64], NDArray[np.int64]]:
        """The sets that still have rows, the first row that each serves, and its bytes."""
        numbers = self.numbers()
        table = self._table[np.array(numbers, np.int64) % SET_SLOTS]
        fence()
        if self._counters[Counter.SET_TAIL] != numbers.start:
            raise OverrunError  # an entry may have been reused, and the table no longer be in order
        return numbers, table["first_row"].astype(np.int64), table["nbytes"].astype(np.int64)

    def opened(self, number: int, codec: Codec) -> Any:
        """A set as the codec opened it, from a checked copy of its frames.

        Raises:
            OverrunError: it was given up meanwhile.
        """
        found = self._opened.get(number)
        if found is None:
            found = self._opened[number] = self._open(number, codec)
        return found

    def _open(self, number: int, codec: Codec) -> Any:
        if number == NO_ROW:
            return codec.open_set(b"", self._layout.frame_shape)
        frames = bytes(self.frames(number))
        fence()
        oldest = self._counters[Counter.SET_TAIL]
        if number < oldest:
            raise OverrunError
        for old in [k for k in list(self._opened) if k < oldest]:  # no row needs them any more
            self._opened.pop(old, None)
        return codec.open_set(frames, self._layout.frame_shape)


class SetWriter(ReferenceSets):
    """Stores reference sets, and knows the one that frames are coded against.

    Attributes:
        ring: the memory that the sets take, a slot each.
        coding_set: number of the set that frames are coded against from now on.
        reference: that set as the codec opened it.
    """

    def __init__(self, layout: Layout, memory: Memory, arena: Arena, codec: Codec) -> None:
        super().__init__(layout, memory)
        self.ring = Ring(arena, HEADER_BYTES, layout.set_slot, SET_SLOTS)
        self.coding_set, self.reference = NO_ROW, codec.open_set(b"", layout.frame_shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all frames of all sets."""
        return self._counters[Counter.REFERENCE_BYTES]

    @property
    def page_bytes(self) -> int:
        """Bytes of shared memory that the sets take at most, in whole pages."""
        return self.nbytes + (self.ring.end - self.ring.first) * PAGE

    @property
    def is_full(self) -> bool:
        """Whether there is no slot for another set."""
        return self._counters[Counter.SET_HEAD] - self.ring.first >= SET_SLOTS

    def add(self, frames: Buffer, first_row: int) -> None:
        """Store a set for the rows from `first_row` on."""
        number = self._counters[Counter.SET_HEAD]
        begin = number % SET_SLOTS * self._layout.set_slot
        self._bytes[begin : begin + len(frames)] = frames
        self._table[number % SET_SLOTS] = (first_row, len(frames))
        self.ring.end = number + 1
        fence()
        self._counters[Counter.SET_HEAD] = number + 1
        self.count_bytes()

    def begin_at(self, number: int) -> None:
        """Without any set yet, have the first one be `number`."""
        self._counters[Counter.SET_HEAD] = self._counters[Counter.SET_TAIL] = number
        self.ring.first = self.ring.end = number

    def code_against_newest(self, codec: Codec, opened: Any = None) -> None:
        """Code frames against the newest set from now on; `opened` is that set, where it is open already."""
        number = self._counters[Counter.SET_HEAD] - 1
        if opened is None:
            opened = codec.open_set(bytes(self.frames(number)), self._layout.frame_shape)
        # Where the set before was kept open for coding, reading opens it anew, without the tables that coding takes.
        self._opened.pop(number - 1, None)
        self.reference = self._opened[number] = opened
        self.coding_set = number

    def oldest_serving(self, row: int) -> int:
        """The oldest set that rows from `row` on need; the newest one stays for rows to come."""
        numbers = self.numbers()
        oldest = numbers.start
        while oldest + 1 < numbers.stop and row >= self.first_row(oldest + 1):
            oldest += 1
        return oldest

    def drop_before(self, number: int) -> None:
        """Have the sets before `number` count no more; their memory stays until `ring.release`."""
        self._counters[Counter.SET_TAIL] = number
        self.count_bytes()

    def count_bytes(self) -> None:
        """Count the bytes of all sets that still have rows."""
        slots = np.array(self.numbers(), np.int64) % SET_SLOTS
        self._counters[Counter.REFERENCE_BYTES] = int(self._table["nbytes"][slots].sum())

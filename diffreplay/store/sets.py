"""Reference sets: raw frames in shared memory that many frames are coded against; each image has its own.

They are numbered for ever. Which one a row's frame is coded against stands in the index, as the slot where it lies: the
newest one of the time for frames that were coded here, an older one maybe for those that were taken in coded; the rows
before set 0 are coded against an empty one, which goes by NO_ROW.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Buffer, Codec
from diffreplay.store.arena import PAGE, Arena, Ring, fence
from diffreplay.store.index import NO_ROW, Index, OverrunError, Rows
from diffreplay.store.layout import NO_SET, SET_SLOTS, Counter, Layout, Memory


class ReferenceSets:
    """Finds the reference sets of an image and opens them, in any process.

    Attributes:
        memory: all of their slots.
        reference: for the writer, the one that it codes against.
    """

    def __init__(self, layout: Layout, memory: Memory, index: Index, image: int) -> None:
        self._layout, self._counters, self._index, self._image = layout.images[image], memory.counters, index, image
        self._table, self.memory = memory.set_tables[image], memory.sets[image]
        self._head, self._tail = Counter.set_head(image), Counter.set_tail(image)
        self._opened: dict[int, Any] = {}  # by number, as the codec opened them
        self.reference: Any = None

    def numbers(self) -> range:
        """The sets that still have rows, or will."""
        return range(self._counters[self._tail], self._counters[self._head])

    def holds(self, sets: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these numbers, NO_ROW among them, can be named by rows: (N,)."""
        numbers = self.numbers()
        return (sets == NO_ROW) | ((sets >= numbers.start) & (sets < numbers.stop))

    def first_row(self, number: int) -> int:
        """The row before which none is coded against a set."""
        return int(self._table["first_row"][number % SET_SLOTS])

    def frames(self, number: int) -> memoryview:
        """The frames of a set, end to end: a view of shared memory."""
        begin, nbytes = number % SET_SLOTS * self._layout.set_slot, int(self._table["nbytes"][number % SET_SLOTS])
        return self.memory[begin : begin + min(nbytes, self._layout.set_slot)]

    def serving(self, rows: Rows) -> NDArray[np.int64]:
        """The sets that the frames of rows are coded against; NO_ROW for none.

        Raises:
            OverrunError: sets were given up meanwhile.
        """
        numbers, slots = self.numbers(), self._index.slots(rows, self._image)
        found = numbers.start + (slots - numbers.start) % SET_SLOTS
        found[slots == NO_SET] = NO_ROW
        if len(found) and found.max() >= numbers.stop:
            raise OverrunError
        return found

    def split(self, rows: Rows, places: NDArray[np.intp]) -> list[tuple[int, NDArray[np.intp]]]:
        """Split places in `rows` by the rows' sets, and order them by row: near ones use the same references.

        Raises:
            OverrunError: sets were given up meanwhile.
        """
        places = places[np.argsort(rows[places])]
        numbers = self.serving(rows[places])
        return [(int(number), places[numbers == number]) for number in np.unique(numbers)]

    def locate(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where in `memory` the set of each row begins, and its bytes; 0 where it has none."""
        slots, slot = self._index.slots(rows, self._image), self._layout.set_slot
        starts = np.arange(SET_SLOTS + 1) * slot
        nbytes = np.zeros(SET_SLOTS + 1, np.int64)  # the last entry is for none
        np.minimum(self._table["nbytes"], slot, out=nbytes[:-1], casting="unsafe")
        starts[-1] = 0
        np.minimum(slots, SET_SLOTS, out=slots)
        return starts[slots], nbytes[slots]

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
        oldest = self._counters[self._tail]
        if number < oldest:
            raise OverrunError
        for old in [k for k in list(self._opened) if k < oldest]:  # no row needs them any more
            self._opened.pop(old, None)
        return codec.open_set(frames, self._layout.frame_shape)


class SetWriter(ReferenceSets):
    """Stores the reference sets of an image, and knows the one that its frames are coded against.

    Attributes:
        ring: the memory that the sets take, a slot each.
        coding_set: number of the set that frames are coded against from now on.
        reference: that set as the codec opened it.
        nbytes: of all frames of all sets.
    """

    def __init__(self, layout: Layout, memory: Memory, index: Index, image: int, arena: Arena, codec: Codec) -> None:
        super().__init__(layout, memory, index, image)
        self.ring = Ring(arena, layout.sets_offsets[image], self._layout.set_slot, SET_SLOTS)
        self.coding_set, self.reference = NO_ROW, codec.open_set(b"", self._layout.frame_shape)
        self.nbytes = 0
        self._last_rows: dict[int, int] = {}  # of sets that rows name after a newer one has begun to serve

    @property
    def page_bytes(self) -> int:
        """Bytes of shared memory that the sets take at most, in whole pages."""
        return self.nbytes + (self.ring.end - self.ring.first) * PAGE

    @property
    def is_full(self) -> bool:
        """Whether there is no slot for another set."""
        return self._counters[self._head] - self.ring.first >= SET_SLOTS

    @property
    def coding_slot(self) -> int:
        """The slot of the set that frames are coded against; NO_SET for none."""
        return NO_SET if self.coding_set == NO_ROW else self.coding_set % SET_SLOTS

    def add(self, frames: Buffer, first_row: int) -> None:
        """Store a set for the rows from `first_row` on."""
        number = self._counters[self._head]
        begin = number % SET_SLOTS * self._layout.set_slot
        self.memory[begin : begin + len(frames)] = frames
        self._table[number % SET_SLOTS] = (first_row, len(frames))
        self.ring.end = number + 1
        fence()
        self._counters[self._head] = number + 1
        self.count_bytes()

    def forget_after(self, row: int, codec: Codec) -> None:
        """Drop the sets for rows after `row`, which were never published."""
        head = self._counters[self._head]
        while head > self._counters[self._tail] and self.first_row(head - 1) > row:
            head -= 1
            self._opened.pop(head, None)
            self.ring.end = self._counters[self._head] = head
        if not self.numbers() and self.coding_set != NO_ROW:
            self.coding_set, self.reference = NO_ROW, codec.open_set(b"", self._layout.frame_shape)

    def begin_at(self, number: int) -> None:
        """Without any set yet, have the first one be `number`."""
        self._counters[self._head] = self._counters[self._tail] = number
        self.ring.first = self.ring.end = number

    def code_against_newest(self, codec: Codec, opened: Any = None) -> None:
        """Code frames against the newest set from now on; `opened` is that set, where it is open already."""
        number = self._counters[self._head] - 1
        if opened is None:
            opened = codec.open_set(bytes(self.frames(number)), self._layout.frame_shape)
        # Where the set before was kept open for coding, reading opens it anew, without the tables that coding takes.
        self._opened.pop(number - 1, None)
        self.reference = self._opened[number] = opened
        self.coding_set = number

    def oldest_serving(self, row: int) -> int:
        """The oldest set that rows from `row` on need; the newest one stays for rows to come."""
        numbers = self.numbers()
        oldest, last_rows = numbers.start, self._last_rows
        while oldest + 1 < numbers.stop and row >= self.first_row(oldest + 1) and row > last_rows.get(oldest, NO_ROW):
            oldest += 1
        return oldest

    def keep_for(self, sets: NDArray[np.int64], row: int) -> None:
        """Have the sets that rows name, (N,), be kept at least until `row` has left."""
        for number in np.unique(sets).tolist():
            if number != NO_ROW:
                self._last_rows[number] = max(row, self._last_rows.get(number, NO_ROW))

    def note_rows(self, sets: NDArray[np.int64], first: int) -> None:
        """Have the sets that rows from `first` on name, (N,), be kept as long as these are."""
        if not len(sets):
            return
        last = np.flatnonzero(np.append(sets[1:] != sets[:-1], True))  # of each run of one set
        for number, row in zip(sets[last].tolist(), (first + last).tolist(), strict=True):
            if number != NO_ROW and number + 1 < self._counters[self._head]:
                self._last_rows[number] = max(row, self._last_rows.get(number, NO_ROW))

    def drop_before(self, number: int) -> None:
        """Have the sets before `number` count no more; their memory stays until `ring.release`."""
        self._counters[self._tail] = number
        for gone in [each for each in self._last_rows if each < number]:
            del self._last_rows[gone]
        self.count_bytes()

    def count_bytes(self) -> None:
        """Count the bytes of all sets that still have rows; `Budget.publish` tells readers."""
        slots = np.array(self.numbers(), np.int64) % SET_SLOTS
        self.nbytes = int(self._table["nbytes"][slots].sum())

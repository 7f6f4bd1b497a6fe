"""FrameStore: observations in, rows of frames out. The writer's half of the store.

Each frame is stored once, as one row. The older frames of an observation are dropped only after comparing
their bytes with the observation before it; see `FrameStore.add_observation` for what happens where they differ.

Everything that changes the store runs within `FrameStore.change`, which publishes it in one place.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Buffer, Codec
from diffreplay.errors import InputError, ReadOnlyError
from diffreplay.store.arena import PAGE, Arena, fence, round_up, trim_heap
from diffreplay.store.layout import (
    BLOCK_ROWS,
    END,
    FLAGS,
    HEADER_BYTES,
    LINK,
    LOG_SEGMENT_BYTES,
    MAGIC,
    REFERENCE,
    SET_SLOTS,
    VERSION,
    Column,
    Counter,
    Flag,
    Layout,
)
from diffreplay.store.reader import NO_ROW, FrameReader
from diffreplay.store.recount import count_reference_bytes, mark_ends, recount
from diffreplay.store.turns import Turns

MAX_LINK = np.iinfo(np.uint16).max
# A block's frames, and what is skipped at the ring's end between them, are addressed with 32 bits.
MAX_FRAME_BYTES = (1 << 32) // BLOCK_ROWS // 2


@dataclass
class Stream:
    """What the writer remembers of one sequence of observations."""

    stack: NDArray[np.uint8]  # the newest observation, (frame_stack, H, W, C)
    row: int = NO_ROW  # its row; NO_ROW where there is none to go on from
    reference_row: int = NO_ROW  # for codecs with reference frames: the raw one of the present group
    reference: NDArray[np.uint8] | None = None
    group_size: int = 0
    is_open: bool = False  # whether its episode goes on

    def mark(self) -> tuple[Any, ...]:
        """All but the pixels, for `go_back`."""
        return self.row, self.reference_row, self.reference, self.group_size, self.is_open

    def go_back(self, mark: tuple[Any, ...]) -> None:
        """Be as when `mark` was called."""
        self.row, self.reference_row, self.reference, self.group_size, self.is_open = mark


_process = os.getpid()  # asking the system at each addition would show


def _note_fork() -> None:
    global _process
    _process = os.getpid()


os.register_at_fork(after_in_child=_note_fork)


def same(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Whether pixels are equal, for shapes that fit; `np.array_equal` swallows what a signal handler raises in it."""
    return bool((one == other).all())


class FrameStore(FrameReader):
    """Frames of any number of streams in one arena, first in, first out.

    Args:
        frame_shape: (H, W, C) of a frame, uint8.
        frame_stack: frames in an observation.
        max_rows: frames held at most.
        codec: how frames are coded.
        columns: further values that are stored for each row.
        max_bytes: the allocated bytes never exceed this; the oldest frames leave first.
        window_frames: frames that `max_bytes` must hold at least, even if none compresses.
        log_limit: no cap will ever be larger, which saves address space; None where one may be.
        marks_ends: the last step of each episode that ended is flagged LAST.
    """

    def __init__(
        self,
        frame_shape: tuple[int, int, int],
        frame_stack: int,
        max_rows: int,
        codec: Codec,
        columns: tuple[Column, ...] = (),
        max_bytes: int | None = None,
        window_frames: int = 0,
        *,
        log_limit: int | None = None,
        marks_ends: bool = False,
    ) -> None:
        index = (END, LINK, FLAGS) + ((REFERENCE,) if codec.reference == "frame" else ())
        set_bytes = codec.set_frames(math.prod(frame_shape)) * math.prod(frame_shape)
        layout = Layout(frame_shape, frame_stack, max_rows, index, columns, set_bytes, log_limit)
        if layout.frame_bytes > MAX_FRAME_BYTES:
            raise InputError(
                f"observation_shape: expected frames of at most {MAX_FRAME_BYTES} bytes, got {layout.frame_bytes}"
            )
        super().__init__(layout, Arena(layout.nbytes), codec)
        self.marks_ends = marks_ends
        self._set_cap(codec, max_bytes)
        self._least_frames = max(window_frames, 4 * frame_stack)
        # The newest observation, and the frame that the next ones are coded against.
        self._stream_frames = frame_stack + (codec.reference == "frame")
        self.streams: dict[int, Stream] = {}
        self._owner = _process
        self._turns = Turns(FrameStore.change.__code__)
        # What a change that is cut short has to put back: the stream and its mark, the planner's next check, the set
        # that frames were coded against; None while there is nothing.
        self._undo: tuple[Any, tuple[Any, ...] | None, int, int] | None = None
        self._touched = False  # whether the present change has changed anything yet
        self._next = 0  # the row that is written next: HEAD, and the rows that are written and not published yet
        self._sets, self._blocks, self._log = layout.rings(self.arena)
        self._log_tail = 0  # where the coded frame of the oldest row begins in the log
        self._reference_set: Any = codec.open_set(b"", frame_shape)
        self._coding_set = NO_ROW  # its number
        self._count(Counter.MAGIC, MAGIC)
        self._count(Counter.VERSION, VERSION)
        self._check_cap()
        self._publish_allocated()

    @property
    def head(self) -> int:
        """Rows written so far."""
        return self.counter(Counter.HEAD)

    @property
    def tail(self) -> int:
        """The oldest row that still counts."""
        return self.counter(Counter.TAIL)

    def allocated_bytes(self) -> int:
        """Bytes of memory taken now, by the shared store and by the writer's own copies."""
        stacks = len(self.streams) * self._stream_frames * self.layout.frame_bytes
        rings = self._set_pages() + self._blocks.allocated + self._log.allocated
        return HEADER_BYTES + rings + stacks + self._private_bytes()

    def change(self, step: Callable[..., None], stream: int | None, *arguments: Any) -> None:
        """Run `step(*arguments)`, which adds observations to `stream` or evicts, as one change.

        Threads take turns. All rows that the step wrote are published by one statement, the last one that runs. Where
        anything is raised before it, an interrupt included, no row was written, and the same step may be tried again;
        what was evicted to make room stays evicted.

        Raises:
            ReadOnlyError: this process is not the writer.
            ReplayError: this thread is changing the store already.
        """
        self.check_owner()
        cut_short = self._turns.take()
        try:
            if cut_short:
                self._repair()
            self._begin(stream)
            step(*arguments)
            fence()  # a reader that sees the new head sees all of the rows
            self.memory.counters[Counter.HEAD], self._undo, self._turns.claim = self._next, None, {}
        except BaseException:
            self._repair()
            self._turns.claim = {}
            raise

    def append(
        self, stack: NDArray[np.uint8], values: tuple[Any, ...] = (), stream: int = 0, *, first: bool = False
    ) -> int:
        """Store an observation as a change of its own; see `add_observation`. Returns the row of its newest frame."""
        self.change(self.add_observation, stream, stack, values, stream, first)
        return self.streams[stream].row

    def add_observation(
        self, stack: NDArray[np.uint8], values: tuple[Any, ...], stream: int, first: bool, older_at: int = NO_ROW
    ) -> None:
        """Within a change, store an observation: its newest frame alone where the rest is known, else all of it.

        - In mid-episode the older frames are dropped when they equal the newer ones of the observation
          before; otherwise the whole stack is stored as it came.
        - At an episode's start they are dropped when they are copies of the newest frame, or zeros.

        Args:
            stack: (frame_stack, C, H, W) uint8, oldest first; copied.
            values: one value for each of the further columns.
            stream: which sequence it continues.
            first: it begins an episode. So it does, too, when the step before it was evicted.
            older_at: a step whose newest frames are its older ones, if there is one besides the step before it.
        """
        state = self._stream(stream)
        first = first or state.row < self.tail
        if not first and self._next - state.row > MAX_LINK - self.layout.frame_stack:
            blank = tuple(np.zeros(c.shape, c.dtype) for c in self.layout.scalars)
            self.add_observation(state.stack, blank, stream, True)
        previous, link = state.row, self._next - state.row
        older, newest = stack[:-1], stack[-1]
        if first:
            if state.is_open:
                self._mark_end(state)  # it is cut off there
            state.group_size, link = 0, 0
            flags = Flag.FIRST
            if not same(older, newest):
                if not older.any():
                    flags |= Flag.ZEROS
                elif older_at >= self.tail:
                    flags |= Flag.RESTART | Flag.LOST
                    link = self._next - older_at
                else:
                    flags |= self._append_context(state, older, 0)
                    link = 1
        elif len(older) == 0 or same(older, state.stack[1:]):
            flags = 0
        elif older_at >= self.tail:
            flags = self._append_stand_ins(link)
            link = self._next - older_at
        else:
            state.group_size = 0
            flags = self._append_context(state, older, link)
            link = 1
        state.row = self._append_frame(state, newest, link, flags, values)
        if not first and previous >= self.tail:
            self._start_transition(previous)
        np.copyto(state.stack, stack)

    def go_back_to(self, row: int, stack: NDArray[np.uint8], stream: int) -> None:
        """Within a change, have a stream go on from an older step of it, whose observation `stack` is."""
        self._touched = True
        state = self.streams[stream]
        state.row = row
        np.copyto(state.stack, stack)

    def is_open(self, stream: int) -> bool:
        """Whether an episode of the stream goes on."""
        return stream in self.streams and self.streams[stream].is_open

    def set_open(self, stream: int, is_open: bool) -> None:
        """Within a change, say whether the episode of a stream goes on after its newest step."""
        state = self.streams[stream]
        state.is_open = is_open
        if not is_open:
            self._mark_end(state)

    def find_ends(self) -> None:
        """Mark anew where episodes have ended."""
        if self.marks_ends:
            mark_ends(self, [state.row for state in self.streams.values() if state.is_open])

    def _mark_end(self, state: Stream) -> None:
        row = state.row
        if self.marks_ends and row >= self.tail:
            self._touched = True
            self.memory.columns["flags"][row // BLOCK_ROWS % self.layout.blocks, row % BLOCK_ROWS] |= Flag.LAST

    def _begin(self, stream: int | None) -> None:
        """Note what `_repair` has to put back, and renew the reference frames if it is time."""
        self._touched = False
        state = None if stream is None else self.streams.get(stream)
        mark = None if state is None else state.mark()
        self._undo = stream, mark, self.planner.next_check, self._coding_set
        if stream is not None and self.planner.due(self._next):
            self._plan_set()

    def _repair(self) -> None:
        """Make all that is not in published rows agree with them again, after a change that was cut short.

        It may be cut short itself: then it is begun anew.
        """
        if not self._touched:
            return
        self._next = self.head
        self._log_tail = self._oldest_log_byte()
        recount(self)
        self._count(Counter.LOG_HEAD, self._log_end())
        self._finish_eviction()
        newest = self.counter(Counter.SET_HEAD) - 1
        if newest >= self.counter(Counter.SET_TAIL) and self._coding_set != newest:
            self.code_against(self._set_bytes(newest))
        if self._undo is not None:
            stream, mark, next_check, coding_set = self._undo
            if coding_set == self._coding_set:
                self.planner.next_check = next_check
            if stream is not None:
                self._restore_stream(stream, mark)
        self.find_ends()
        self._publish_allocated()
        self._undo = None

    def _restore_stream(self, stream: int, mark: tuple[Any, ...] | None) -> None:
        """Put a stream back to where it was, if it was there: its observation is read from its rows."""
        if mark is None:
            self.streams.pop(stream, None)
            return
        state = self.streams[stream]
        state.go_back(mark)
        stack = self.readable_stack(state.row)
        if stack is None:
            state.row = NO_ROW
        else:
            np.copyto(state.stack, stack)

    def readable_stack(self, row: int) -> NDArray[np.uint8] | None:
        """The observation at a row, (frame_stack, C, H, W); None where some of it was evicted or lost."""
        if row < self.tail or not len(self.present(np.array([row]))):
            return None
        frames = self.stacks(np.array([row]))[0]
        if np.any((frames != NO_ROW) & (self.oldest_needed(frames) < self.tail)):
            return None
        return self.read(frames).transpose(0, 3, 1, 2)

    def _stream(self, stream: int) -> Stream:
        state = self.streams.get(stream)
        if state is None:
            height, width, channels = self.layout.frame_shape
            self._check_cap(f"max_bytes, with {len(self.streams) + 1} streams", len(self.streams) + 1)
            stack = np.zeros((self.layout.frame_stack, channels, height, width), np.uint8)
            self._touched = True
            self.make_room(self._stream_frames * self.layout.frame_bytes)
            state = self.streams[stream] = Stream(stack)
            self._publish_allocated()
        return state

    def reopen_stream(self, stream: int, row: int, is_open: bool, reference_row: int, group_size: int) -> None:
        """Have a stream of a loaded store go on from `row`, or begin anew where its observation is not whole.

        It begins anew, too, where a cap that was set before reference frames counted leaves no room for it.
        """
        stack = self.readable_stack(row)
        if stack is None and not is_open:
            return
        if self.max_bytes is not None and self._least_bytes(len(self.streams) + 1) > self.max_bytes:
            return
        state = self._stream(stream)
        state.is_open = is_open
        if stack is None:
            return
        np.copyto(state.stack, stack)
        state.row = row
        if self.tail <= reference_row < self.head and len(self.present(np.array([reference_row]))):
            state.reference, state.reference_row = self.read(np.array([reference_row]))[0], reference_row
            state.group_size = group_size

    def _append_context(self, state: Stream, older: NDArray[np.uint8], link: int) -> int:
        """Store the older frames of a stack that nothing else holds; the first one links to the step before."""
        blank = tuple(np.zeros(c.shape, c.dtype) for c in self.layout.scalars)
        for k, frame in enumerate(older):
            self._append_frame(state, frame, 1 if k else link, Flag.CONTEXT, blank)
        return Flag.RESTART

    def _append_stand_ins(self, link: int) -> int:
        """Write rows without a frame in place of older ones that are stored elsewhere; the first one links as told."""
        blank = tuple(np.zeros(c.shape, c.dtype) for c in self.layout.scalars)
        for k in range(self.layout.frame_stack - 1):
            start = self._reserve(0)
            self._write_row(start, b"", 1 if k else link, NO_ROW, Flag.CONTEXT | Flag.LOST, blank)
        return Flag.RESTART | Flag.LOST

    def _append_frame(
        self, state: Stream, frame: NDArray[np.uint8], link: int, flags: int, values: tuple[Any, ...]
    ) -> int:
        """Code a frame (C, H, W) and write it as a row, which counts once the change is published."""
        self._touched = True
        pixels = np.ascontiguousarray(frame.transpose(1, 2, 0))
        blob, reference_row = self._encode(state, pixels)
        start = self._reserve(len(blob))
        row = self._next
        if reference_row < self.tail and reference_row != NO_ROW:  # making room evicted the reference
            state.group_size = 0
            blob, reference_row = self._encode(state, pixels)
            start = self._reserve(len(blob))
        self._write_row(start, blob, link, reference_row, flags, values)
        return row

    def _write_row(
        self, start: int, blob: Any, link: int, reference_row: int, flags: int, values: tuple[Any, ...]
    ) -> None:
        """Write coded bytes and index of the next row, for which there is room from `start` on."""
        row, place = self._next, start % self.layout.log_bytes
        self.memory.log[place : place + len(blob)] = blob
        block, within = row // BLOCK_ROWS % self.layout.blocks, row % BLOCK_ROWS
        columns = self.memory.columns
        if within == 0:
            self.memory.base[block] = self._log_end()
        columns["end"][block, within] = start + len(blob) - int(self.memory.base[block])
        columns["link"][block, within] = link
        columns["flags"][block, within] = flags
        if self.codec.reference == "frame":
            columns["reference"][block, within] = row - reference_row if reference_row != NO_ROW else 0
        for column, value in zip(self.layout.scalars, values, strict=True):
            columns[column.name][block, within] = value
        self._count(Counter.LOG_HEAD, start + len(blob))
        self._add(Counter.PAYLOAD_BYTES, len(blob))
        self._next = row + 1

    def _encode(self, state: Stream, pixels: NDArray[np.uint8]) -> tuple[Any, int]:
        """Coded or raw bytes of a frame (H, W, C), and the row it is coded against or NO_ROW."""
        raw = pixels.reshape(-1).data
        if self.codec.reference != "frame":
            blob = self.codec.encode(pixels, self._reference_set)
            return (raw if blob is None else blob), NO_ROW
        lost = state.reference_row < self.tail or self._next - state.reference_row > MAX_LINK
        if state.group_size % self.layout.frame_stack == 0 or lost:
            # A copy: gray pixels are a view of what the caller gave, who may use the array again.
            state.reference, state.reference_row, state.group_size = pixels.copy(), self._next, 1
            return raw, NO_ROW
        state.group_size += 1
        blob = self.codec.encode(pixels, state.reference)
        return (raw, NO_ROW) if blob is None else (blob, state.reference_row)

    def _reserve(self, nbytes: int) -> int:
        """Make room for a row of `nbytes` coded bytes; return where in the log they go.

        Evicts rows until the ring, the log and the byte cap allow it, before any memory is taken.
        """
        head, log_head, ring = self._next, self._log_end(), self.layout.log_bytes
        start = log_head if log_head % ring + nbytes <= ring else round_up(log_head, ring)
        block_end, log_end = head // BLOCK_ROWS + 1, -(-(start + nbytes) // LOG_SEGMENT_BYTES)
        while self.tail < self.head:
            more = (max(block_end - self._blocks.end, 0)) * self.layout.block_bytes
            more += max(log_end - self._log.end, 0) * LOG_SEGMENT_BYTES
            over_cap = self.max_bytes is not None and self.allocated_bytes() + more > self.max_bytes
            # So no segment holds both the oldest and the newest bytes.
            over_ring = start + nbytes - self._log_tail > ring - LOG_SEGMENT_BYTES
            if not over_cap and not over_ring and head - self.tail < self.layout.max_rows:
                break
            self.evict()
        if block_end > self._blocks.end or log_end > self._log.end:
            self._blocks.end, self._log.end = max(block_end, self._blocks.end), max(log_end, self._log.end)
            self._publish_allocated()
        return start

    def _log_end(self) -> int:
        """Where the newest row's coded frame ends in the log."""
        row = self._next - 1
        if row < self.tail:
            return self._log_tail
        block, within = row // BLOCK_ROWS % self.layout.blocks, row % BLOCK_ROWS
        return int(self.memory.base[block]) + int(self.memory.columns["end"][block, within])

    def _oldest_log_byte(self) -> int:
        """Where in the log the coded frame of the oldest row begins, or the next one will, by the rows alone."""
        tail = self.tail
        row = tail - 1 if tail % BLOCK_ROWS or tail == self.head else tail
        block = row // BLOCK_ROWS
        if block < self._blocks.first:
            return self._log_tail  # the block went after this was counted
        begin = int(self.memory.base[block % self.layout.blocks])
        if row < tail:
            begin += int(self.memory.columns["end"][block % self.layout.blocks, row % BLOCK_ROWS])
        return max(begin, self._log_tail)  # 0 in a block that is being given back

    def evict_before(self, row: int) -> None:
        """As a change of its own, drop all rows before `row`, which none that is still wanted may need."""
        self.change(self._evict_before, None, row)

    def _evict_before(self, row: int) -> None:
        while self.tail < row:
            self.evict()

    def evict(self) -> None:
        """Within a change, drop the oldest row, and those that cannot be decoded without it."""
        self._evict_row()
        self._finish_eviction()

    def _finish_eviction(self) -> None:
        """Drop the oldest rows as long as what they are coded against is gone, and give back what nothing needs."""
        if self.codec.reference == "frame":
            references, blocks = self.memory.columns["reference"], self.layout.blocks
            while self.tail < self.head and references[self.tail // BLOCK_ROWS % blocks, self.tail % BLOCK_ROWS]:
                self._evict_row()
        self._release()

    def _evict_row(self) -> None:
        self._touched = True
        row, columns = self.tail, self.memory.columns
        block, within = row // BLOCK_ROWS % self.layout.blocks, row % BLOCK_ROWS
        end = int(self.memory.base[block]) + int(columns["end"][block, within])
        start = max(self._log_tail, (end - 1) // self.layout.log_bytes * self.layout.log_bytes)
        self._add(Counter.PAYLOAD_BYTES, start - end)
        if int(columns["flags"][block, within]) & Flag.STARTS:
            self._add(Counter.TRANSITIONS, -1)
        self._count(Counter.TAIL, row + 1)
        self._log_tail = end  # after TAIL, from which `_repair` makes up for it

    def _release(self) -> None:
        """Give back what lies wholly before the oldest row."""
        tail, set_tail = self.tail, self.counter(Counter.SET_TAIL)
        block, segment = tail // BLOCK_ROWS, self._log_tail // LOG_SEGMENT_BYTES
        while set_tail + 1 < self.counter(Counter.SET_HEAD) and tail >= self._first_row(set_tail + 1):
            set_tail += 1
        if block <= self._blocks.first and segment <= self._log.first and set_tail <= self._sets.first:
            return
        self._count(Counter.FREED, tail)
        self._count(Counter.SET_TAIL, set_tail)
        count_reference_bytes(self)
        fence()  # a reader that sees any of the memory reused sees that it was freed
        for ring, first in ((self._blocks, block), (self._log, segment), (self._sets, set_tail)):
            ring.release(first)
        self._publish_allocated()

    def _first_row(self, number: int) -> int:
        return int(self.memory.set_table["first_row"][number % SET_SLOTS])

    def _start_transition(self, row: int) -> None:
        self.memory.columns["flags"][row // BLOCK_ROWS % self.layout.blocks, row % BLOCK_ROWS] |= Flag.STARTS
        self._add(Counter.TRANSITIONS, 1)

    def _plan_set(self) -> None:
        """Ask the codec whether the rows so far make a better reference set, and build it."""
        self._touched = True
        frames = self.planner.choose(self)
        if frames is not None:
            self._build_set(frames.reshape(-1).data)
        trim_heap()

    def _build_set(self, data: Buffer) -> None:
        number = self.counter(Counter.SET_HEAD)
        opened = self.codec.open_set(data, self.layout.frame_shape)
        if number - self._sets.first < SET_SLOTS and self._make_room_for_set(opened, len(data)):
            self.store_set(data, self.head)
            self._code_against(opened)

    def store_set(self, data: Buffer, first_row: int) -> None:
        """Store a reference set for the rows from `first_row` on."""
        number = self.counter(Counter.SET_HEAD)
        begin = number % SET_SLOTS * self.layout.set_slot
        self.memory.sets[begin : begin + len(data)] = data
        self.memory.set_table[number % SET_SLOTS] = (first_row, len(data))
        self._sets.end = number + 1
        fence()
        self._count(Counter.SET_HEAD, number + 1)
        count_reference_bytes(self)

    def _set_bytes(self, number: int) -> bytes:
        begin, nbytes = number % SET_SLOTS * self.layout.set_slot, self.memory.set_table["nbytes"][number % SET_SLOTS]
        return bytes(self.memory.sets[begin : begin + int(nbytes)])

    def code_against(self, data: Buffer) -> None:
        """Code against the newest reference set, whose frames are `data`, from now on."""
        self._code_against(self.codec.open_set(data, self.layout.frame_shape))

    def _code_against(self, opened: Any) -> None:
        number = self.counter(Counter.SET_HEAD) - 1
        self._open_sets.pop(number - 1, None)  # to read by, it is opened anew, without what only coding needs
        self._reference_set = self._open_sets[number] = opened
        self._coding_set = number
        self._publish_allocated()

    def _make_room_for_set(self, opened: Any, nbytes: int) -> bool:
        """Evict rows for one more set, unless all sets would take more than half of the cap."""
        if self.max_bytes is None:
            return True
        tables = self.codec.private_bytes(opened)
        more = 2 * nbytes + PAGE + tables - self.codec.private_bytes(self._reference_set)
        sets = self._set_pages() + self._private_bytes() + more
        if 2 * sets > self.max_bytes or self._least_bytes(len(self.streams), more) > self.max_bytes:
            return False
        self.make_room(more)
        return True

    def _set_cap(self, codec: Codec, max_bytes: int | None) -> None:
        self.max_bytes = max_bytes
        self.codec = codec.within(max_bytes)
        self.planner = self.codec.planner(self.layout.frame_shape)

    @property
    def room(self) -> int | None:
        """Bytes that the cap leaves for frames beside the sets that there are; None without a cap."""
        if self.max_bytes is None:
            return None
        taken = self.allocated_bytes() - self._log.allocated - self._blocks.allocated
        return max(self.max_bytes - taken, 0)

    def _set_pages(self) -> int:
        """Bytes of shared memory that the reference sets take at most, in whole pages."""
        return self.counter(Counter.REFERENCE_BYTES) + (self._sets.end - self._sets.first) * PAGE

    def _private_bytes(self) -> int:
        """Bytes of this process alone: each reference set as the codec opened it, and what coding takes besides."""
        return self.counter(Counter.REFERENCE_BYTES) + self.codec.private_bytes(self._reference_set)

    def make_room(self, more: int) -> None:
        """Evict rows until `more` bytes may be taken besides."""
        while self.max_bytes is not None and self.tail < self.head and self.allocated_bytes() + more > self.max_bytes:
            self.evict()

    def change_cap(self, max_bytes: int | None) -> None:
        """Have another cap from now on, and evict what is over it.

        Raises:
            InputError: the cap does not hold a few windows beside the reference sets.
        """
        next_check = self.planner.next_check
        self._set_cap(self.codec, max_bytes)
        self.planner.next_check = next_check
        self.make_room(0)
        self._check_cap(streams=len(self.streams))

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Frames of live rows, for the writer itself: a new array (N, H, W, C)."""
        out = np.empty((len(rows), *self.layout.frame_shape), np.uint8)
        self.decode(self.fetch(rows, out), out)
        return out

    def check_owner(self) -> None:
        if _process != self._owner:
            raise ReadOnlyError(f"only process {self._owner}, which made the buffer, may add to it")

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Coded bytes of live rows, (N,)."""
        return self.locate(rows)[1]

    def present(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the live rows `rows` that were not lost with a damaged snapshot."""
        lost = Flag.LOST | Flag.CONTEXT
        return rows[(self.column("flags", rows) & lost) != lost]

    @property
    def frame_bytes(self) -> int:
        """Bytes of a raw frame."""
        return self.layout.frame_bytes

    def _check_cap(self, name: str = "max_bytes", streams: int = 1) -> None:
        """Refuse a cap under which not even a few windows fit uncompressed."""
        least = self._least_bytes(streams)
        if self.max_bytes is not None and self.max_bytes < least:
            raise InputError(f"{name}: expected at least {least} to hold a few windows, got {self.max_bytes}")

    def _least_bytes(self, streams: int, more: int = 0) -> int:
        """Bytes for so many streams, `more` for reference sets, and a few windows that do not compress."""
        sets = self._set_pages() + self._private_bytes() + more
        frames = (self._least_frames + streams * self._stream_frames) * self.layout.frame_bytes
        return HEADER_BYTES + 2 * self.layout.block_bytes + sets + frames + 4 * LOG_SEGMENT_BYTES

    def _count(self, which: int, value: int) -> None:
        self.memory.counters[which] = value

    def _add(self, which: int, value: int) -> None:
        self.memory.counters[which] = self.counter(which) + value

    def _publish_allocated(self) -> None:
        self._count(Counter.ALLOCATED_BYTES, self.allocated_bytes())

"""FrameStore: the writer's half of the store, made of parts.

Everything that changes a store in use runs within `FrameStore.change`, which publishes it in one place; `state` fills a
fresh one without.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from diffreplay.codecs import Codec
from diffreplay.errors import CorruptDataError, InputError, ReadOnlyError
from diffreplay.store.arena import Arena, fence, trim_heap
from diffreplay.store.budget import Budget
from diffreplay.store.coding import coding_of
from diffreplay.store.eviction import Eviction
from diffreplay.store.index import NO_ROW, OverrunError
from diffreplay.store.layout import BLOCK_ROWS, END, FLAGS, LINK, MAGIC, VERSION, Column, Counter, Flag, Layout
from diffreplay.store.reader import FrameReader
from diffreplay.store.recount import mark_ends, recount
from diffreplay.store.rows import RowWriter
from diffreplay.store.sets import SetWriter
from diffreplay.store.streams import Stream, Streams
from diffreplay.store.turns import Turns

# A block's frames, and what is skipped at the ring's end between them, are addressed with 32 bits.
MAX_FRAME_BYTES = (1 << 32) // BLOCK_ROWS // 2

_process = os.getpid()  # asking the system at each addition would show


def _note_fork() -> None:
    global _process
    _process = os.getpid()


os.register_at_fork(after_in_child=_note_fork)


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

    Attributes:
        rows: appends rows and drops them.
        sets: the reference sets.
        coding: codes frames.
        streams: where each sequence goes on.
        budget: what the memory comes to.
        eviction: makes room.
        planner: decides when a reference set is built.
    """

    sets: SetWriter

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
        index = (END, LINK, FLAGS, *coding_of(codec).columns)
        set_bytes = codec.set_frames(math.prod(frame_shape)) * math.prod(frame_shape)
        layout = Layout(frame_shape, frame_stack, max_rows, index, columns, set_bytes, log_limit)
        if layout.frame_bytes > MAX_FRAME_BYTES:
            raise InputError(
                f"observation_shape: expected frames of at most {MAX_FRAME_BYTES} bytes, got {layout.frame_bytes}"
            )
        super().__init__(layout, Arena(layout.nbytes), codec.within(max_bytes))
        memory, self.streams = self.memory, Streams()
        self.rows = RowWriter(layout, memory, self.index, self.arena)
        self.budget = Budget(layout, memory, self.rows, self.sets, self.coding, self.streams, max_bytes, window_frames)
        self.eviction = Eviction(layout, memory, self.rows, self.sets, self.coding, self.budget)
        self.planner = self.codec.planner(frame_shape)
        self.marks_ends = marks_ends
        self._owner = _process
        self._turns = Turns(FrameStore.change.__code__)
        # What a change that is cut short has to put back: the stream and its mark, the planner's next check, the set
        # that frames were coded against; None while there is nothing.
        self._undo: tuple[Any, tuple[Any, ...] | None, int, int] | None = None
        memory.counters[Counter.MAGIC], memory.counters[Counter.VERSION] = MAGIC, VERSION
        self.budget.check()
        self.budget.publish()

    def _make_sets(self, codec: Codec) -> SetWriter:
        return SetWriter(self.layout, self.memory, self.arena, codec)

    @property
    def head(self) -> int:
        """Rows written so far."""
        return self.memory.counters[Counter.HEAD]

    @property
    def tail(self) -> int:
        """The oldest row that still counts."""
        return self.memory.counters[Counter.TAIL]

    @property
    def max_bytes(self) -> int | None:
        """What the allocated bytes never exceed; None without a cap."""
        return self.budget.max_bytes

    def allocated_bytes(self) -> int:
        """Bytes of memory taken now, by the shared store and by the writer's own copies."""
        return self.budget.allocated()

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
            self.memory.counters[Counter.HEAD], self._undo, self._turns.claim = self.rows.next, None, {}
        except BaseException:
            self._repair()
            self._turns.claim = {}
            raise

    def note_end(self, stream: int, ended: bool) -> None:
        """Within a change, say whether the episode of a stream ended with its newest step."""
        state = self.streams[stream]
        state.is_open = not ended
        if ended:
            self.mark_end(state)

    def mark_end(self, state: Stream) -> None:
        """Within a change, note that the episode of a stream ended with its newest step."""
        if self.marks_ends and state.row >= self.tail:
            self.rows.touched = True
            self.index.add_flag(state.row, Flag.LAST)

    def find_ends(self) -> None:
        """Mark anew where episodes have ended."""
        if self.marks_ends:
            mark_ends(self, self.streams.open_rows())

    def evict_before(self, row: int) -> None:
        """As a change of its own, drop all rows before `row`, which none that is still wanted may need."""
        self.change(self.eviction.evict_before, None, row)

    def change_cap(self, max_bytes: int | None) -> None:
        """Have another cap from now on, and evict what is over it.

        Raises:
            InputError: the cap does not hold a few windows beside the reference sets.
        """
        next_check = self.planner.next_check
        self.budget.max_bytes = max_bytes
        self.coding.codec = self.codec.within(max_bytes)
        self.planner = self.codec.planner(self.layout.frame_shape)
        self.planner.next_check = next_check
        self.make_room(0)
        self.budget.check(streams=len(self.streams))

    def open_stream(self, name: Any) -> Stream:
        """Within a change, the stream of that name; where there is none a new one, for which rows may leave.

        Raises:
            InputError: the cap does not hold one more.
        """
        state = self.streams.get(name)
        if state is None:
            height, width, channels = self.layout.frame_shape
            self.budget.check(f"max_bytes, with {len(self.streams) + 1} streams", len(self.streams) + 1)
            stack = np.zeros((self.layout.frame_stack, channels, height, width), np.uint8)
            self.rows.touched = True
            self.make_room(self.budget.stream_bytes)
            state = self.streams[name] = Stream(stack)
            self.budget.publish()
        return state

    def check_owner(self) -> None:
        """Refuse to change what another process made.

        Raises:
            ReadOnlyError: so it is.
        """
        if _process != self._owner:
            raise ReadOnlyError(f"only process {self._owner}, which made the buffer, may add to it")

    # What a planner asks of a store, see codecs.FrameSource.

    @property
    def frame_bytes(self) -> int:
        """Bytes of a raw frame."""
        return self.layout.frame_bytes

    @property
    def room(self) -> int | None:
        """Bytes that the cap leaves for frames beside the sets that there are; None without a cap."""
        return self.budget.room()

    def make_room(self, more: int) -> None:
        """Evict rows until `more` bytes may be taken besides."""
        self.eviction.make_room(more)

    # Steps of a change.

    def _begin(self, stream: int | None) -> None:
        """Note what `_repair` has to put back, and renew the reference frames if it is time."""
        self.rows.touched = False
        self._undo = stream, self.streams.mark(stream), self.planner.next_check, self.sets.coding_set
        if stream is not None and self.planner.due(self.rows.next):
            self._plan_set()

    def _repair(self) -> None:
        """Make all that is not in published rows agree with them again, after a change that was cut short.

        It may be cut short itself: then it is begun anew.
        """
        if not self.rows.touched:
            return
        self.rows.forget_unpublished()
        recount(self, self.sets)
        self.memory.counters[Counter.LOG_HEAD] = self.rows.log_end()
        self.eviction.finish()
        sets = self.sets.numbers()
        if sets and self.sets.coding_set != sets[-1]:
            self._code_against_newest()
        if self._undo is not None:
            stream, mark, next_check, coding_set = self._undo
            if coding_set == self.sets.coding_set:
                self.planner.next_check = next_check
            if stream is not None:
                self._restore_stream(stream, mark)
        self.find_ends()
        self.budget.publish()
        self._undo = None

    def _restore_stream(self, stream: int, mark: tuple[Any, ...] | None) -> None:
        """Put a stream back to where it was, if it was there: its observation is read from its rows."""
        state = self.streams.go_back(stream, mark)
        if state is None:
            return
        try:
            stack = self.readable_stack(state.row)
        except (CorruptDataError, OverrunError):  # damaged in memory: everything else goes on
            stack = None
        if stack is None:
            state.row = NO_ROW
        else:
            np.copyto(state.stack, stack)

    def _plan_set(self) -> None:
        """Ask the codec whether the rows so far make a better reference set, and build it."""
        self.rows.touched = True
        frames = self.planner.choose(self)
        if frames is not None:
            data = frames.reshape(-1).data
            opened = self.codec.open_set(data, self.layout.frame_shape)
            private = self.codec.private_bytes(opened)
            if not self.sets.is_full and self.budget.allows_set(private, len(data)):
                self.make_room(self.budget.set_bytes(private, len(data)))
                self.sets.add(data, self.head)
                self._code_against_newest(opened)
        trim_heap()

    def _code_against_newest(self, opened: Any = None) -> None:
        self.sets.code_against_newest(self.codec, opened)
        self.budget.publish()

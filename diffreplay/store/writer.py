"""FrameStore: the writer's half of the store, made of parts.

Everything that changes a store in use runs within `FrameStore.change`, which publishes it in one place; `state` fills a
fresh one without.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffreplay.codecs import Codec
from diffreplay.errors import CorruptDataError, InputError, ReadOnlyError
from diffreplay.store.against import layout_of
from diffreplay.store.arena import Arena, fence
from diffreplay.store.budget import Budget
from diffreplay.store.coding import Ahead
from diffreplay.store.eviction import Eviction
from diffreplay.store.index import NO_ROW, OverrunError
from diffreplay.store.layout import (
    MAGIC,
    MAX_IMAGES,
    VERSION,
    Column,
    Counter,
    Flag,
)
from diffreplay.store.planning import SetPlanning
from diffreplay.store.reader import FrameReader
from diffreplay.store.recount import mark_ends, recount
from diffreplay.store.rows import RowWriter
from diffreplay.store.sets import SetWriter
from diffreplay.store.streams import Stack, Stream, Streams
from diffreplay.store.turns import Turns

_process = os.getpid()  # asking the system at each addition would show


def _note_fork() -> None:
    global _process
    _process = os.getpid()


os.register_at_fork(after_in_child=_note_fork)


class FrameStore(FrameReader):
    """Rows of any number of streams in one arena, first in, first out.

    Args:
        frame_shapes: (H, W, C) of the frames of each image, uint8.
        frame_stack: steps in an observation.
        max_rows: rows held at most.
        codec: how frames are coded.
        columns: further values that are stored for each row.
        max_bytes: the allocated bytes never exceed this; the oldest rows leave first.
        window_frames: rows that `max_bytes` must hold at least, even if none compresses.
        log_limit: no cap will ever be larger, which saves address space; None where one may be.
        marks_ends: the last step of each episode that ended is flagged LAST.
        stacked: how many of `columns`, the first ones, are part of an observation.
        planar: of each image, whether observations come as (frame_stack, C, H, W); else as (frame_stack, H, W, C).
        directory: on whose disk it lies, see `Arena`; None for memory.

    Attributes:
        rows: appends rows and drops them.
        encode_row: codes a row's frames, see `Coding.encode_row`.
        sets: the reference sets of each image.
        streams: where each sequence goes on.
        budget: what the memory comes to.
        eviction: makes room.
        planning: decides when a reference set of each image is built.
    """

    def __init__(
        self,
        frame_shapes: Sequence[tuple[int, int, int]],
        frame_stack: int,
        max_rows: int,
        codec: Codec,
        columns: tuple[Column, ...] = (),
        max_bytes: int | None = None,
        window_frames: int = 0,
        *,
        log_limit: int | None = None,
        marks_ends: bool = False,
        stacked: int = 0,
        planar: Sequence[bool] = (),
        directory: Path | None = None,
    ) -> None:
        if len(frame_shapes) > MAX_IMAGES:
            raise InputError(f"observation_shape: expected at most {MAX_IMAGES} images, got {len(frame_shapes)}")
        layout = layout_of(frame_shapes, frame_stack, max_rows, codec, columns, log_limit, stacked)
        self.sets: list[SetWriter] = []
        super().__init__(layout, Arena(layout.nbytes, directory=directory), codec.within(max_bytes))
        memory, self.streams = self.memory, Streams()
        self.rows = RowWriter(layout, memory, self.index, self.arena)
        self.budget = Budget(layout, memory, self.rows, self.sets, self.codings, self.streams, max_bytes, window_frames)
        self.encode_row = self._coding.encode_row
        self.eviction = Eviction(layout, memory, self.rows, self.sets, self._coding, self.budget)
        make_room = self.eviction.make_room
        self.planning = SetPlanning(self.codec, self.codings, self.sets, self.rows, self.budget, make_room)
        self.marks_ends, self.planar = marks_ends, tuple(planar) or (False,) * len(frame_shapes)
        self._owner = _process
        self._turns = Turns(FrameStore.change.__code__)
        # What a change that is cut short has to put back: streams and their marks, and for each image the planner's
        # next check and the set that frames were coded against; None while there is nothing.
        self._undo: tuple[dict[Any, tuple[Any, ...] | None], list[tuple[int, int]]] | None = None
        memory.counters[Counter.MAGIC], memory.counters[Counter.VERSION] = MAGIC, VERSION
        self.budget.check()
        self.budget.publish()

    def _make_sets(self, image: int) -> SetWriter:
        sets = SetWriter(self.layout, self.memory, self.index, image, self.arena, self.codec)
        self.sets.append(sets)
        return sets

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
        """Run `step(*arguments)`, which adds observations to `stream`, or calls `go_on_with`, or evicts, as one change.

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
        self.budget.max_bytes = max_bytes
        self.codec = self.codec.within(max_bytes)
        self.planning.change_codec(self.codec)
        self.make_room(0)
        self.budget.check(streams=len(self.streams))

    def encode_ahead(self, stacks: Sequence[Stack]) -> list[tuple[Ahead, ...]]:
        """Of several observations, the newest frame of each image, see `Coding.encode_ahead`."""
        images = []
        for image, coding in enumerate(self.codings):
            frames = np.empty((len(stacks), *coding.image.frame_shape), np.uint8)
            by_channel = frames.transpose(0, 3, 1, 2) if self.planar[image] else frames
            for place, stack in zip(by_channel, stacks, strict=True):  # np.stack takes longer
                place[...] = stack[image][-1]
            images.append(coding.encode_ahead(frames))
        return list(zip(*images, strict=True)) if all(images) and images else [()] * len(stacks)

    def open_stream(self, name: Any, stack: Stack) -> Stream:
        """Within a change, the stream of that name; where there is none a new one, for which rows may leave.

        Args:
            name: of the stream.
            stack: an observation of it, as whose copy it begins.

        Raises:
            InputError: the cap does not hold one more.
        """
        state = self.streams.get(name)
        if state is None:
            self.budget.check(f"max_bytes, with {len(self.streams) + 1} streams", len(self.streams) + 1)
            self.rows.touched = True
            self.make_room(self.budget.stream_bytes)
            state = Stream(())
            state.keep(stack)
            self.streams[name] = state
            self.budget.publish()
        return state

    def check_batch(self, streams: Sequence[Any]) -> None:
        """Refuse steps of so many streams in one change, of which none can leave before it is published.

        Raises:
            InputError: the cap does not hold them as they may come at worst.
        """
        rows = 2 * self.layout.frame_stack * len(streams)
        new = sum(name not in self.streams for name in streams)
        self.budget.check_batch(len(self.streams) + new, rows)

    def check_owner(self) -> None:
        """Refuse to change what another process made.

        Raises:
            ReadOnlyError: so it is.
        """
        if _process != self._owner:
            raise ReadOnlyError(f"only process {self._owner}, which made the buffer, may add to it")

    def make_room(self, more: int) -> None:
        """Evict rows until `more` bytes may be taken besides."""
        self.eviction.make_room(more)

    def readable_stack(self, row: int) -> Stack | None:
        """The observation at a row; None where some of it was evicted or lost."""
        tail, layout = self.counter(Counter.TAIL), self.layout
        if row < tail or not len(self.present(np.array([row]))):
            return None
        rows = self.stacks(np.array([row]))[0]
        if np.any((rows != NO_ROW) & (self.oldest_needed(rows) < tail)):
            return None
        columns = layout.scalars[: layout.stacked]
        frames = [self.read(rows, image) for image in range(len(layout.images))]
        for image, planar in enumerate(self.planar):
            if planar:
                frames[image] = np.ascontiguousarray(frames[image].transpose(0, 3, 1, 2))
        return (*frames, *(self.stacked(column, rows) for column in columns))

    # Steps of a change.

    def _begin(self, stream: int | None) -> None:
        """Note what `_repair` has to put back."""
        self.rows.touched = False
        before: list[tuple[int, int]] = []
        self._undo = {}, before
        for planner, sets in zip(self.planning.planners, self.sets):  # noqa: B905  # it shows in `add`
            before.append((planner.next_check, sets.coding_set))
        if stream is not None:
            self.go_on_with(stream)

    def go_on_with(self, stream: Any) -> None:
        """Within a change, before a stream is added to: note where it is, and renew reference frames if it is time."""
        self.note(stream)
        self.renew_sets()

    def renew_sets(self) -> None:
        """Within a change, renew reference frames if it is time."""
        row = self.rows.next
        for image, planner in enumerate(self.planning.planners):
            if planner.due(row):
                self.planning.renew(self, image)

    def note(self, stream: Any) -> None:
        """Within a change, note where a stream is, to which it goes back if the change is cut short."""
        if self._undo is not None:
            self._undo[0][stream] = self.streams.mark(stream)

    def _repair(self) -> None:
        """Make all that is not in published rows agree with them again, after a change that was cut short.

        It may be cut short itself: then it is begun anew.
        """
        if not self.rows.touched:
            return
        self.rows.forget_unpublished()
        for sets in self.sets:
            sets.forget_after(self.head, self.codec)
        recount(self, self.sets)
        self.memory.counters[Counter.LOG_HEAD] = self.rows.log_end()
        self.eviction.finish()
        for image, sets in enumerate(self.sets):
            numbers = sets.numbers()
            if numbers and sets.coding_set != numbers[-1]:
                self.planning.code_against_newest(image)
            self.rows.slots[image] = sets.coding_slot
        if self._undo is not None:
            marks, before = self._undo
            for planner, sets, (next_check, coding_set) in zip(self.planning.planners, self.sets, before, strict=False):
                if coding_set == sets.coding_set:
                    planner.next_check = next_check
            for stream, mark in marks.items():
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
            state.keep(stack)

    def code_against_newest(self) -> None:
        """Code each image's frames against its newest set, where there is one."""
        for image in range(len(self.sets)):
            self.planning.code_against_newest(image)

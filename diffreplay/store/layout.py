"""The stored format: where everything lies in the shared memory. docs/format.md draws it.

All integers are little-endian (NumPy's "<"), the byte order of every machine this runs on. From the start:

    header      whole pages: counters (uint64), then for each image the table of its reference sets
    sets        for each image a ring of SET_SLOTS slots of `set_slot` bytes: its set s lies in slot s % SET_SLOTS
    blocks      ring of row blocks: rows [k * BLOCK_ROWS, (k + 1) * BLOCK_ROWS) lie in block k % blocks: a head, then
                column after column; a row holds a frame of each image
    log         ring of bytes: the coded frames of a row, image after image, and then those of the next

Rows, sets and log bytes are numbered for ever; a place in memory is the number modulo the ring's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from diffreplay.store.arena import Arena, round_up

VERSION = 2
MAGIC = int.from_bytes(b"dfreplay", "little")
BLOCK_ROWS = 1024
LOG_EXTENT_BYTES = 1 << 16
SET_SLOTS = 64
COUNTERS_BYTES = SET_TABLE_BYTES = 1024
MAX_IMAGES = 32
RANGES = 14  # of rows in a block that differ in their reference set, for each image; with the base they fill 64 bytes
NO_PLACE = NO_SET = (1 << 16) - 1  # of a range that is not used; of rows whose frames are coded against no set

SET_ENTRY = np.dtype([("first_row", "<u8"), ("nbytes", "<u8")])
RANGE = np.dtype([("place", "<u2"), ("slot", "<u2")])  # the rows from a place in their block on, and their set's slot


class Counter:
    """Index of each counter in the header. Plain integers: an enum's cost shows in `add`."""

    MAGIC = 0
    VERSION = 1
    HEAD = 2  # rows written so far; row HEAD - 1 is the newest
    TAIL = 3  # the oldest row that still counts
    FREED = 4  # memory of rows below this may be gone
    LOG_HEAD = 7  # log bytes written so far
    TRANSITIONS = 8
    PAYLOAD_BYTES = 9
    REFERENCE_BYTES = 10
    ALLOCATED_BYTES = 11

    @staticmethod
    def set_head(image: int) -> int:
        """The counter of the reference sets of an image that were built so far."""
        return 16 + 2 * image

    @staticmethod
    def set_tail(image: int) -> int:
        """The counter that tells the oldest reference set of an image that still has rows."""
        return 17 + 2 * image


N_COUNTERS = COUNTERS_BYTES // 8


class Flag:
    """Bits of a row's `flags`."""

    FIRST = 1  # first step of its episode: no step precedes it
    ZEROS = 2  # with FIRST: the stack before it is zeros, not copies of this frame
    CONTEXT = 4  # not a step: an older frame of the stack of the RESTART row that follows
    RESTART = 8  # the frame_stack - 1 rows before this one hold the rest of its stack
    STARTS = 16  # a transition starts here (read by the writer only)
    # With CONTEXT: a row that holds no frame, as a damaged snapshot lost it or another row has it. With RESTART: the
    # rest of its stack is not in the rows before it, but where its link leads: to a row whose newest frames they are.
    LOST = 32
    LAST = 64  # its episode ended here; written where windows may be shorter at an episode's end


@dataclass(frozen=True)
class Column:
    """A value stored for each row."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()

    @cached_property
    def row_bytes(self) -> int:
        """Bytes that one row's value takes."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=int))


END = Column("end", "<u4")  # log position where the row's last coded frame ends, relative to its block's base
LINK = Column("link", "<u2")  # rows back to the previous row of the same stream; 0 for FIRST
FLAGS = Column("flags", "u1")
REFERENCE = Column("reference", "<u2")  # rows back to the one whose frames this one's are coded against


def end_columns(images: int, row_bytes: int) -> tuple[Column, ...]:
    """Where each image's coded frame ends, in their order; the last one is `end`, which is there without images, too.

    Args:
        images: how many there are.
        row_bytes: raw bytes of their frames: with more than 32 bits hold, a block's are addressed with 64.
    """
    dtype = END.dtype if 2 * BLOCK_ROWS * row_bytes <= 1 << 32 else "<u8"
    return (*(Column(f"end{k}", dtype) for k in range(images - 1)), Column(END.name, dtype))


@dataclass(frozen=True)
class Image:
    """What is coded of each step: one camera's frame.

    Args:
        frame_shape: (H, W, C) of a stored frame, uint8.
        set_slot_bytes: largest reference set; 0 for a codec without.
    """

    frame_shape: tuple[int, int, int]
    set_slot_bytes: int = 0

    @cached_property
    def frame_bytes(self) -> int:
        """Bytes of one raw frame."""
        height, width, channels = self.frame_shape
        return height * width * channels

    @cached_property
    def set_slot(self) -> int:
        """Bytes from one reference set to the next."""
        return round_up(self.set_slot_bytes)


@dataclass(frozen=True)
class Layout:
    """Sizes and places; equal on every process that shares one buffer.

    Args:
        images: what is coded of each step, in the order in which it lies in the log.
        frame_stack: steps in an observation.
        max_rows: rows held at most.
        index: columns of the index: `end_columns`, LINK and FLAGS among them.
        scalars: columns of the caller.
        log_limit: coded bytes that a cap lets in at most; None without a cap.
        stacked: how many of `scalars`, the first ones, are part of an observation, whose older steps have theirs, too.
    """

    images: tuple[Image, ...]
    frame_stack: int
    max_rows: int
    index: tuple[Column, ...]
    scalars: tuple[Column, ...]
    log_limit: int | None = None
    stacked: int = 0

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """All columns, in the order in which they lie in a block."""
        return self.index + self.scalars

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """Names of the columns where the coded frames of each image end, in their order; `end` without images."""
        return tuple(column.name for column in self.index[: max(1, len(self.images))])

    @cached_property
    def header_bytes(self) -> int:
        """Bytes before the reference sets."""
        return round_up(COUNTERS_BYTES + len(self.images) * SET_TABLE_BYTES)

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Where each column begins in a row block, and as "" where the block ends."""
        # Before them the block's base, 8 bytes, and the ranges of each image.
        offsets, place = {}, round_up(8 + len(self.images) * RANGES * RANGE.itemsize, 64)
        for column in self.columns:
            offsets[column.name] = place
            place = round_up(place + BLOCK_ROWS * column.row_bytes, 64)
        return offsets | {"": place}

    @cached_property
    def block_bytes(self) -> int:
        """Bytes of one row block."""
        return round_up(self.offsets[""])

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of the raw frames of one row."""
        return sum(image.frame_bytes for image in self.images)

    @cached_property
    def step_bytes(self) -> int:
        """Bytes of one step's part of an observation, raw: its frames, and what else belongs to it."""
        return self.row_bytes + sum(column.row_bytes for column in self.scalars[: self.stacked])

    @cached_property
    def sets_offsets(self) -> tuple[int, ...]:
        """Where the ring of reference sets of each image begins, and where the last one ends."""
        offsets = [self.header_bytes]
        for image in self.images:
            offsets.append(offsets[-1] + SET_SLOTS * image.set_slot)
        return tuple(offsets)

    @cached_property
    def blocks(self) -> int:
        """Row blocks in the ring: the rows held, and one partly filled block at either end."""
        return -(-self.max_rows // BLOCK_ROWS) + 2

    @cached_property
    def blocks_offset(self) -> int:
        """Where the ring of row blocks begins."""
        return self.sets_offsets[-1]

    @cached_property
    def log_offset(self) -> int:
        """Where the log begins."""
        return self.blocks_offset + self.blocks * self.block_bytes

    @cached_property
    def log_bytes(self) -> int:
        """Size of the log's ring: every row raw, or what a cap lets in, and the row that would straddle its end."""
        most = self.max_rows * self.row_bytes
        if self.log_limit is not None:
            most = min(most, self.log_limit)
        return round_up(most + self.row_bytes, LOG_EXTENT_BYTES) + 2 * LOG_EXTENT_BYTES

    @property
    def nbytes(self) -> int:
        """Address space of the whole; memory is taken only as it is written."""
        return self.log_offset + self.log_bytes


class Memory:
    """NumPy views of everything in the arena."""

    def __init__(self, layout: Layout, arena: Arena) -> None:
        # Not an array: a number is read from a memoryview in a tenth of the time, and `add` reads many.
        self.counters = arena.bytes[: 8 * N_COUNTERS].cast("Q")
        blocks, head = layout.blocks, layout.blocks_offset
        places = range(COUNTERS_BYTES, layout.header_bytes, SET_TABLE_BYTES)
        self.set_tables = [
            arena.array(SET_ENTRY, (SET_SLOTS,), place) for _, place in zip(layout.images, places, strict=False)
        ]
        self.base = arena.array("<u8", (blocks,), head, (layout.block_bytes,))
        # (blocks, RANGES) of RANGE for each image
        strides = layout.block_bytes, RANGE.itemsize
        self.ranges = [
            arena.array(RANGE, (blocks, RANGES), head + 8 + k * RANGES * RANGE.itemsize, strides)
            for k in range(len(layout.images))
        ]
        self.columns = {}
        for column in layout.columns:
            dtype = np.dtype(column.dtype)
            inner = np.empty((1, *column.shape), dtype).strides[1:]
            self.columns[column.name] = arena.array(
                dtype,
                (blocks, BLOCK_ROWS, *column.shape),
                head + layout.offsets[column.name],
                (layout.block_bytes, column.row_bytes, *inner),
            )
        self.log = arena.bytes[layout.log_offset : layout.log_offset + layout.log_bytes]
        self.sets = [arena.bytes[begin:end] for begin, end in pairwise(layout.sets_offsets)]

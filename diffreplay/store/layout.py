"""The stored format: where everything lies in the shared memory. docs/format.md draws it.

All integers are little-endian (NumPy's "<"), the byte order of every machine this runs on. From the start:

    header      one page: counters (uint64), then the table of reference sets
    sets        ring of SET_SLOTS slots of `set_slot` bytes: reference set s lies in slot s % SET_SLOTS
    blocks      ring of row blocks: rows [k * BLOCK_ROWS, (k + 1) * BLOCK_ROWS) lie in block k % blocks,
                column after column; a row is a stored frame
    log         ring of bytes: coded frames, one after the other

Rows, sets and log bytes are numbered for ever; a place in memory is the number modulo the ring's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diffreplay.store.arena import PAGE, Arena, round_up

VERSION = 1
MAGIC = int.from_bytes(b"dfreplay", "little")
BLOCK_ROWS = 1024
LOG_EXTENT_BYTES = 1 << 16
SET_SLOTS = 64
SET_TABLE_OFFSET = 1024
HEADER_BYTES = PAGE

SET_ENTRY = np.dtype([("first_row", "<u8"), ("nbytes", "<u8")])


class Counter:
    """Index of each counter in the header. Plain integers: an enum's cost shows in `add`."""

    MAGIC = 0
    VERSION = 1
    HEAD = 2  # rows written so far; row HEAD - 1 is the newest
    TAIL = 3  # the oldest row that still counts
    FREED = 4  # memory of rows below this may be gone
    SET_HEAD = 5  # reference sets built so far
    SET_TAIL = 6  # the oldest reference set that still has rows
    LOG_HEAD = 7  # log bytes written so far
    TRANSITIONS = 8
    PAYLOAD_BYTES = 9
    REFERENCE_BYTES = 10
    ALLOCATED_BYTES = 11


N_COUNTERS = 12


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

    @property
    def row_bytes(self) -> int:
        """Bytes that one row's value takes."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=int))


END = Column("end", "<u4")  # log position where the row's coded frame ends, relative to its block's base
LINK = Column("link", "<u2")  # rows back to the previous frame of the same stream; 0 for FIRST
FLAGS = Column("flags", "u1")
REFERENCE = Column("reference", "<u2")  # rows back to the frame that this one is coded against


@dataclass(frozen=True)
class Layout:
    """Sizes and places; equal on every process that shares one buffer.

    Its fields and those of `Column` stand in pickles: they are never renamed, and added with a default.

    Args:
        frame_shape: (H, W, C) of one stored frame, uint8.
        frame_stack: frames in an observation.
        max_rows: rows held at most.
        index: columns of the index, END, LINK and FLAGS among them.
        scalars: columns of the caller.
        set_slot_bytes: largest reference set; 0 for a codec without.
        log_limit: coded bytes that a cap lets in at most; None without a cap.
    """

    frame_shape: tuple[int, int, int]
    frame_stack: int
    max_rows: int
    index: tuple[Column, ...]
    scalars: tuple[Column, ...]
    set_slot_bytes: int
    log_limit: int | None = None

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Where each column begins in a row block, and as "" where the block ends."""
        offsets, place = {}, 64  # the block's base fills the first 8 bytes
        for column in self.index + self.scalars:
            offsets[column.name] = place
            place = round_up(place + BLOCK_ROWS * column.row_bytes, 64)
        return offsets | {"": place}

    @cached_property
    def block_bytes(self) -> int:
        """Bytes of one row block."""
        return round_up(self.offsets[""])

    @cached_property
    def frame_bytes(self) -> int:
        """Bytes of one raw frame."""
        height, width, channels = self.frame_shape
        return height * width * channels

    @cached_property
    def set_slot(self) -> int:
        """Bytes from one reference set to the next."""
        return round_up(self.set_slot_bytes)

    @cached_property
    def blocks(self) -> int:
        """Row blocks in the ring: the rows held, and one partly filled block at either end."""
        return -(-self.max_rows // BLOCK_ROWS) + 2

    @cached_property
    def blocks_offset(self) -> int:
        """Where the ring of row blocks begins."""
        return HEADER_BYTES + SET_SLOTS * self.set_slot

    @cached_property
    def log_offset(self) -> int:
        """Where the log begins."""
        return self.blocks_offset + self.blocks * self.block_bytes

    @cached_property
    def log_bytes(self) -> int:
        """Size of the log's ring: every row raw, or what a cap lets in, and the frame that would straddle its end."""
        most = self.max_rows * self.frame_bytes
        if self.log_limit is not None:
            most = min(most, self.log_limit)
        return round_up(most + self.frame_bytes, LOG_EXTENT_BYTES) + 2 * LOG_EXTENT_BYTES

    @property
    def nbytes(self) -> int:
        """Address space of the whole; memory is taken only as it is written."""
        return self.log_offset + self.log_bytes


class Memory:
    """NumPy views of everything in the arena."""

    def __init__(self, layout: Layout, arena: Arena) -> None:
        # Not an array: a number is read from a memoryview in a tenth of the time, and `add` reads many.
        self.counters = arena.bytes[: 8 * N_COUNTERS].cast("Q")
        self.set_table = arena.array(SET_ENTRY, (SET_SLOTS,), SET_TABLE_OFFSET)
        blocks = layout.blocks
        self.base = arena.array("<u8", (blocks,), layout.blocks_offset, (layout.block_bytes,))
        self.columns = {}
        for column in layout.index + layout.scalars:
            dtype = np.dtype(column.dtype)
            inner = np.empty((1, *column.shape), dtype).strides[1:]
            self.columns[column.name] = arena.array(
                dtype,
                (blocks, BLOCK_ROWS, *column.shape),
                layout.blocks_offset + layout.offsets[column.name],
                (layout.block_bytes, column.row_bytes, *inner),
            )
        self.log = arena.bytes[layout.log_offset : layout.log_offset + layout.log_bytes]
        self.sets = arena.bytes[HEADER_BYTES : HEADER_BYTES + SET_SLOTS * layout.set_slot]

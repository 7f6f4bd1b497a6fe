"""Files of a snapshot: segments of rows, and reference sets. docs/snapshots.md describes them.

A segment holds rows [first, first + rows) of the store as they lie in memory, coded:

    header      SEGMENT_HEADER
    columns     length of each coded frame (uint32), then every column but `end`, one after the other
    payload     the coded frames, end to end

A reference set is its frames, raw, end to end. Nothing in a file is believed before its size and checksum are
found to be what the manifest says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffreplay.errors import CorruptDataError
from diffreplay.files import checksum, write_durably
from diffreplay.frames import FrameStore
from diffreplay.layout import END, SET_SLOTS, VERSION, Column, Layout
from diffreplay.manifest import FileEntry

SEGMENT_ROWS = 4096  # at most, and of coded frames at most
SEGMENT_BYTES = 1 << 23
SEGMENT_HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("rows", "<u4"),
        ("first", "<u8"),
        ("frame_bytes", "<u4"),
        ("row_bytes", "<u4"),
    ]
)
SEGMENT_MAGIC = b"dfrsegmt"
LENGTH = Column("length", "<u4")


class Rows(NamedTuple):
    """Rows of a segment in memory."""

    first: int
    columns: dict[str, NDArray[Any]]
    lengths: NDArray[np.uint32]
    payload: memoryview


def segment_columns(layout: Layout) -> tuple[Column, ...]:
    """Columns as a segment stores them, in their order."""
    return (LENGTH, *(column for column in layout.index + layout.scalars if column is not END))


def segment_header(layout: Layout, first: int, end: int) -> bytes:
    """The bytes with which the segment of rows [first, end) begins."""
    row_bytes = sum(column.row_bytes for column in segment_columns(layout))
    header = np.zeros(1, SEGMENT_HEADER)
    header[0] = (SEGMENT_MAGIC, VERSION, end - first, first, layout.frame_bytes, row_bytes)
    return header.tobytes()


def segment_end(store: FrameStore, first: int) -> int:
    """Where the segment ends that begins at row `first`."""
    lengths = store.lengths(np.arange(first, min(store.head, first + SEGMENT_ROWS)))
    return first + max(1, int(np.searchsorted(np.cumsum(lengths), SEGMENT_BYTES, side="right")))


def write_segment(directory: Path, commit: str, store: FrameStore, first: int, end: int) -> FileEntry:
    """Write rows [first, end) of a store to a new file, straight from its memory."""
    rows = np.arange(first, end)
    start, length = store.locate(rows)
    parts: list[bytes | memoryview] = [segment_header(store.layout, first, end), length.astype("<u4").tobytes()]
    parts += [store.column(column.name, rows).tobytes() for column in segment_columns(store.layout)[1:]]
    log = store.memory.log
    parts += [log[a:b] for a, b in zip(start.tolist(), (start + length).tolist(), strict=True)]
    return _write(directory, f"rows-{first:012d}-{commit}.bin", parts, first, end)


def write_set(directory: Path, commit: str, store: FrameStore, number: int) -> FileEntry:
    """Write a reference set of a store to a new file."""
    slot = number % SET_SLOTS
    first_row, nbytes = store.memory.set_table[slot].tolist()
    begin = slot * store.layout.set_slot
    parts: list[bytes | memoryview] = [store.memory.sets[begin : begin + nbytes]]
    return _write(directory, f"set-{number:06d}-{commit}.bin", parts, number, first_row)


def _write(directory: Path, name: str, parts: list[bytes | memoryview], first: int, end: int) -> FileEntry:
    write_durably(directory / name, *parts)
    return FileEntry(name, sum(map(len, parts)), checksum(*parts), first, end)


def read_file(directory: Path, entry: FileEntry) -> bytes:
    """The bytes of a file that is as the manifest says.

    Raises:
        CorruptDataError: it is missing, or of another size or checksum.
    """
    path = directory / entry.name
    try:
        found = path.stat().st_size
        if found != entry.nbytes:
            raise CorruptDataError(f"{path}: expected {entry.nbytes} bytes, got {found}")
        data = path.read_bytes()
    except OSError as error:
        raise CorruptDataError(f"{path}: cannot be read: {error.strerror}") from error
    if checksum(data) != entry.checksum:
        raise CorruptDataError(f"{path}: expected checksum {entry.checksum}, got {checksum(data)}")
    return data


def read_set(directory: Path, entry: FileEntry, layout: Layout) -> bytes:
    """The reference frames of a set file.

    Raises:
        CorruptDataError: it is missing, damaged, or not of this layout.
    """
    if entry.nbytes > layout.set_slot_bytes or entry.nbytes % layout.frame_bytes:
        raise CorruptDataError(
            f"{directory / entry.name}: expected frames of {layout.frame_bytes} bytes, at most {layout.set_slot_bytes} "
            f"bytes in all, got {entry.nbytes}"
        )
    return read_file(directory, entry)


def read_segment(directory: Path, entry: FileEntry, layout: Layout) -> Rows:
    """The rows of a segment file.

    Raises:
        CorruptDataError: it is missing, damaged, or not of this layout.
    """
    count, columns = entry.end - entry.first, segment_columns(layout)
    least = SEGMENT_HEADER.itemsize + count * sum(column.row_bytes for column in columns)
    problem = f"{directory / entry.name}: expected {count} rows from row {entry.first} on"
    if count > SEGMENT_ROWS or not least <= entry.nbytes <= least + count * layout.frame_bytes:
        raise CorruptDataError(f"{problem}, {least} bytes and their coded frames, got {entry.nbytes} bytes")
    data = memoryview(read_file(directory, entry))
    place = SEGMENT_HEADER.itemsize
    if data[:place] != segment_header(layout, entry.first, entry.end):
        found = np.frombuffer(data, SEGMENT_HEADER, 1)[0].tolist()
        raise CorruptDataError(f"{problem}, got a file that begins with {found}")
    values = {}
    for column in columns:
        nbytes = count * column.row_bytes
        values[column.name] = np.frombuffer(data[place : place + nbytes], column.dtype).reshape(count, *column.shape)
        place += nbytes
    lengths = values.pop(LENGTH.name)
    if lengths.max(initial=0) > layout.frame_bytes or int(lengths.sum(dtype=np.int64)) != len(data) - place:
        raise CorruptDataError(f"{problem}, got coded frames of {len(data) - place} bytes that do not add up")
    return Rows(entry.first, values, lengths, data[place:])

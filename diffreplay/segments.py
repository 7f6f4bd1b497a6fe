"""Files of a snapshot: segments of rows, and reference sets. docs/snapshots.md describes them.

A segment holds rows [first, first + rows) of the store as they lie in memory, coded:

    header      magic, version, first row, rows (SEGMENT_HEADER)
    columns     length of each coded frame (uint32), then every column but `end`, one after the other
    payload     the coded frames, end to end

Nothing in a file is believed before its size and checksum are found to be what the manifest says.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffreplay.errors import CorruptDataError
from diffreplay.frames import FrameStore
from diffreplay.layout import END, SET_SLOTS, VERSION, Column, Layout

SEGMENT_ROWS = 4096  # at most, and of coded frames at most
SEGMENT_BYTES = 1 << 23
SEGMENT_HEADER = np.dtype([("magic", "S8"), ("version", "<u4"), ("rows", "<u4"), ("first", "<u8")])
SEGMENT_MAGIC = b"dfrsegmt"
LENGTH = Column("length", "<u4")


class FileEntry(NamedTuple):
    """A file as the manifest lists it."""

    name: str
    nbytes: int
    checksum: str  # BLAKE2b, 16 bytes, hexadecimal
    first: int  # first row of a segment; number of a reference set
    end: int  # row after the last of a segment; first row coded against a reference set


class Rows(NamedTuple):
    """Rows of a segment in memory."""

    first: int
    columns: dict[str, NDArray[Any]]
    lengths: NDArray[np.uint32]
    payload: memoryview


def segment_columns(layout: Layout) -> tuple[Column, ...]:
    """Columns as a segment stores them, in their order."""
    return (LENGTH, *(column for column in layout.index + layout.scalars if column is not END))


def segment_end(store: FrameStore, first: int) -> int:
    """Where the segment ends that begins at row `first`."""
    lengths = store.lengths(np.arange(first, min(store.head, first + SEGMENT_ROWS)))
    return first + max(1, int(np.searchsorted(np.cumsum(lengths), SEGMENT_BYTES, side="right")))


def write_segment(directory: Path, name: str, store: FrameStore, first: int, end: int) -> FileEntry:
    """Write rows [first, end) of a store to a new file, safely on disk when this returns."""
    rows = np.arange(first, end)
    start, length = store.locate(rows)
    header = np.zeros(1, SEGMENT_HEADER)
    header[0] = (SEGMENT_MAGIC, VERSION, end - first, first)
    parts: list[bytes | memoryview] = [header.tobytes(), length.astype("<u4").tobytes()]
    parts += [store.column(column.name, rows).tobytes() for column in segment_columns(store.layout)[1:]]
    log = store.memory.log
    parts += [log[a:b] for a, b in zip(start.tolist(), (start + length).tolist(), strict=True)]
    return write_file(directory, name, b"".join(parts), first, end)


def write_file(directory: Path, name: str, data: bytes, first: int, end: int) -> FileEntry:
    """Write a new file, safely on disk when this returns."""
    with open(directory / name, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(name, len(data), checksum(data), first, end)


def checksum(data: bytes) -> str:
    """BLAKE2b of `data`."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


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


def read_segment(directory: Path, entry: FileEntry, layout: Layout) -> Rows:
    """The rows of a segment file.

    Raises:
        CorruptDataError: it is missing, damaged, or not of this layout.
    """
    data = memoryview(read_file(directory, entry))
    problem = f"{directory / entry.name}: expected a segment of rows {entry.first} to {entry.end}"
    if len(data) < SEGMENT_HEADER.itemsize:
        raise CorruptDataError(f"{problem}, got {len(data)} bytes")
    header = np.frombuffer(data, SEGMENT_HEADER, 1)[0]
    count = entry.end - entry.first
    if (header["magic"], header["version"], header["first"], header["rows"]) != (
        SEGMENT_MAGIC,
        VERSION,
        entry.first,
        count,
    ):
        raise CorruptDataError(f"{problem}, got {header}")
    place, columns = SEGMENT_HEADER.itemsize, {}
    for column in segment_columns(layout):
        nbytes = count * column.row_bytes
        if place + nbytes > len(data):
            raise CorruptDataError(f"{problem}, got {len(data)} bytes, fewer than its columns take")
        values = np.frombuffer(data[place : place + nbytes], column.dtype)
        columns[column.name] = values.reshape(count, *column.shape)
        place += nbytes
    lengths = columns.pop("length")
    if lengths.max(initial=0) > layout.frame_bytes or int(lengths.sum(dtype=np.int64)) != len(data) - place:
        raise CorruptDataError(f"{problem}, got coded frames of {len(data) - place} bytes that do not add up")
    return Rows(entry.first, columns, lengths, data[place:])


def set_bytes(store: FrameStore, number: int) -> bytes:
    """The reference frames of a set that the store holds."""
    slot = number % SET_SLOTS
    begin, nbytes = slot * store.layout.set_slot, int(store.memory.set_table["nbytes"][slot])
    return bytes(store.memory.sets[begin : begin + nbytes])

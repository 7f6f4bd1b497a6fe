"""Files of a snapshot: segments of rows, and reference sets. docs/snapshots.md describes them.

A segment holds rows [first, first + rows) of the store as they lie in memory, coded:

    header      SEGMENT_HEADER
    columns     length of each coded frame (uint32), then every column but `end`, one after the other
    payload     the coded frames, end to end

A reference set is its frames, raw, end to end. Nothing in a file is believed before its size and checksum are
found to be what the manifest says.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

import numpy as np

from diffreplay.codecs import Buffer
from diffreplay.errors import CorruptDataError
from diffreplay.snapshots.files import checksum, open_regular, write_durably
from diffreplay.snapshots.manifest import SEGMENT_ROWS, FileEntry
from diffreplay.store import END, VERSION, Column, FrameStore, Layout, StoredRows, export_rows

SEGMENT_BYTES = 1 << 23  # that a file of several rows has at most, besides its header
LARGEST_FILE = 1 << 32
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


def segment_columns(layout: Layout) -> tuple[Column, ...]:
    """Columns as a segment stores them, in their order."""
    return (LENGTH, *(column for column in layout.index + layout.scalars if column is not END))


def segment_header(layout: Layout, first: int, end: int) -> bytes:
    """The bytes with which the segment of rows [first, end) begins."""
    header = np.zeros(1, SEGMENT_HEADER)
    header[0] = (SEGMENT_MAGIC, VERSION, end - first, first, layout.frame_bytes, row_bytes(layout))
    return header.tobytes()


def row_bytes(layout: Layout) -> int:
    """Bytes of a row in a segment, besides its coded frame."""
    return sum(column.row_bytes for column in segment_columns(layout))


def segment_end(store: FrameStore, first: int, most: int) -> int:
    """Where the segment ends that begins at row `first`; not after row `most`."""
    nbytes = store.lengths(np.arange(first, min(most, first + SEGMENT_ROWS))) + row_bytes(store.layout)
    return first + max(1, int(np.searchsorted(np.cumsum(nbytes), SEGMENT_BYTES, side="right")))


def write_segment(directory: Path, commit: str, store: FrameStore, first: int, end: int) -> FileEntry:
    """Write rows [first, end) of a store to a new file, straight from its memory."""
    rows = export_rows(store, first, end)
    parts: list[Buffer] = [segment_header(store.layout, first, end), rows.lengths.astype(LENGTH.dtype).tobytes()]
    parts += [rows.columns[column.name].tobytes() for column in segment_columns(store.layout)[1:]]
    parts += rows.coded
    return _write(directory, f"rows-{first:012d}-{commit}.bin", parts, first, end)


def write_set(directory: Path, commit: str, store: FrameStore, number: int) -> FileEntry:
    """Write a reference set of a store to a new file."""
    parts: list[Buffer] = [store.sets.frames(number)]
    return _write(directory, f"set-{number:06d}-{commit}.bin", parts, number, store.sets.first_row(number))


def _write(directory: Path, name: str, parts: list[Buffer], first: int, end: int) -> FileEntry:
    write_durably(directory / name, *parts)
    return FileEntry(name, sum(map(len, parts)), checksum(*parts), first, end)


def is_there(directory: Path, entry: FileEntry) -> bool:
    """Whether a file is there and as large as the manifest says; nothing of it is read."""
    try:
        found = os.stat(directory / entry.name)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == entry.nbytes


def check_size(directory: Path, entry: FileEntry) -> None:
    """Refuse a file that is not there, or not as large as the manifest says; nothing of it is read.

    Raises:
        CorruptDataError: so it is.
    """
    _open(directory, entry).close()


def read_file(directory: Path, entry: FileEntry) -> bytes:
    """The bytes of a file that is as the manifest says.

    Raises:
        CorruptDataError: it is missing, or of another size or checksum.
    """
    path = directory / entry.name
    try:
        with _open(directory, entry) as file:
            data = file.read(entry.nbytes)
    except OSError as error:
        raise CorruptDataError(f"{path}: cannot be read: {error.strerror}") from error
    if checksum(data) != entry.checksum:
        raise CorruptDataError(f"{path}: expected checksum {entry.checksum}, got {checksum(data)}")
    return data


def _open(directory: Path, entry: FileEntry) -> BinaryIO:
    path = directory / entry.name
    try:
        file = open_regular(path)
    except OSError as error:
        raise CorruptDataError(f"{path}: cannot be read: {error.strerror}") from error
    found = os.fstat(file.fileno()).st_size
    if found != entry.nbytes or found > LARGEST_FILE:
        file.close()
        raise CorruptDataError(f"{path}: expected {min(entry.nbytes, LARGEST_FILE)} bytes, got {found}")
    return file


def check_set(directory: Path, entry: FileEntry, layout: Layout) -> None:
    """Refuse a file of reference frames that is not there, or whose size is not right; nothing of it is read.

    Raises:
        CorruptDataError: so it is.
    """
    if entry.nbytes > layout.set_slot_bytes or entry.nbytes % layout.frame_bytes:
        raise CorruptDataError(
            f"{directory / entry.name}: expected frames of {layout.frame_bytes} bytes, at most {layout.set_slot_bytes} "
            f"bytes in all, got {entry.nbytes}"
        )
    check_size(directory, entry)


def check_segment(directory: Path, entry: FileEntry, layout: Layout) -> None:
    """Refuse a file of rows that is not there, or whose size is not right; nothing of it is read.

    Raises:
        CorruptDataError: so it is.
    """
    count = entry.end - entry.first
    least = SEGMENT_HEADER.itemsize + count * row_bytes(layout)
    frames = min(count * layout.frame_bytes, max(SEGMENT_BYTES, layout.frame_bytes))
    if not least <= entry.nbytes <= least + frames:
        raise CorruptDataError(
            f"{_expected(directory, entry)}, {least} bytes and their coded frames, got {entry.nbytes} bytes"
        )
    check_size(directory, entry)


def _expected(directory: Path, entry: FileEntry) -> str:
    return f"{directory / entry.name}: expected {entry.end - entry.first} rows from row {entry.first} on"


def read_segment(directory: Path, entry: FileEntry, layout: Layout) -> StoredRows:
    """The rows of a segment file that `check_segment` has let pass.

    Raises:
        CorruptDataError: it is missing, damaged, or not of this layout.
    """
    count, columns = entry.end - entry.first, segment_columns(layout)
    data = memoryview(read_file(directory, entry))
    place = SEGMENT_HEADER.itemsize
    if data[:place] != segment_header(layout, entry.first, entry.end):
        found = np.frombuffer(data, SEGMENT_HEADER, 1)[0].tolist()
        raise CorruptDataError(f"{_expected(directory, entry)}, got a file that begins with {found}")
    values = {}
    for column in columns:
        nbytes = count * column.row_bytes
        values[column.name] = np.frombuffer(data[place : place + nbytes], column.dtype).reshape(count, *column.shape)
        place += nbytes
    lengths = values.pop(LENGTH.name)
    if lengths.max(initial=0) > layout.frame_bytes or int(lengths.sum(dtype=np.int64)) != len(data) - place:
        raise CorruptDataError(
            f"{_expected(directory, entry)}, got coded frames of {len(data) - place} bytes that do not add up"
        )
    return StoredRows(entry.first, values, lengths, [data[place:]])

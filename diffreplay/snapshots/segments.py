"""Files of a snapshot: segments of rows, and reference sets. docs/snapshot-format.md describes them.

A segment holds rows [first, first + rows) of the store as they lie in memory, coded:

    header      SEGMENT_HEADER, and MORE_HEADER since version 2
    ranges      RANGE for each run of rows whose frames of one image are coded against one set; none in version 1
    columns     for each image the length of each coded frame (uint32), then every column but ends, one after the other
    payload     the coded frames, end to end

A reference set is its frames, raw, end to end. Nothing in a file is believed before its size and checksum are
found to be what the manifest says.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Buffer
from diffreplay.errors import CorruptDataError
from diffreplay.snapshots.entries import check_size, read_file, write_file
from diffreplay.snapshots.manifest import SEGMENT_ROWS, FileEntry
from diffreplay.store import VERSION, Column, FrameStore, Image, Layout, StoredRows, export_rows

SEGMENT_BYTES = 1 << 23  # that a file of several rows has at most, besides its header
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
MORE_HEADER = np.dtype([("images", "<u4"), ("ranges", "<u4")])
RANGE = np.dtype([("image", "<u4"), ("row", "<u4"), ("set", "<i8")])  # from which row of the file on; NO_ROW for no set
SEGMENT_MAGIC = b"dfrsegmt"
LENGTH = "<u4"


def segment_columns(layout: Layout) -> tuple[Column, ...]:
    """Columns as a segment stores them after the lengths, in their order."""
    return tuple(column for column in layout.columns if column.name not in layout.ends)


def segment_header(layout: Layout, first: int, end: int, version: int = VERSION) -> bytes:
    """The bytes with which the segment of rows [first, end) begins."""
    header = np.zeros(1, SEGMENT_HEADER)
    header[0] = (SEGMENT_MAGIC, version, end - first, first, layout.row_bytes, row_bytes(layout))
    return header.tobytes()


def row_bytes(layout: Layout) -> int:
    """Bytes of a row in a segment, besides its coded frames."""
    lengths = len(layout.images) * np.dtype(LENGTH).itemsize
    return lengths + sum(column.row_bytes for column in segment_columns(layout))


def segment_end(store: FrameStore, first: int, most: int) -> int:
    """Where the segment ends that begins at row `first`; not after row `most`."""
    nbytes = store.lengths(np.arange(first, min(most, first + SEGMENT_ROWS))) + row_bytes(store.layout)
    return first + max(1, int(np.searchsorted(np.cumsum(nbytes), SEGMENT_BYTES, side="right")))


def write_segment(directory: Path, commit: str, store: FrameStore, first: int, end: int) -> FileEntry:
    """Write rows [first, end) of a store to a new file, straight from its memory."""
    parts = pack_rows(store.layout, export_rows(store, first, end))
    return write_file(directory, f"rows-{first:012d}-{commit}.bin", parts, first, end)


def pack_rows(layout: Layout, rows: StoredRows) -> list[Buffer]:
    """The bytes of a segment, in parts, some of them views of the rows."""
    ranges, more = _ranges(rows), np.zeros(1, MORE_HEADER)
    more[0] = (len(layout.images), len(ranges))
    parts: list[Buffer] = [segment_header(layout, rows.first, rows.first + len(rows.lengths)), more.tobytes()]
    parts += [ranges.tobytes(), *(lengths.astype(LENGTH).tobytes() for lengths in rows.lengths.T)]
    parts += [rows.columns[column.name].tobytes() for column in segment_columns(layout)]
    return parts + rows.coded


def _ranges(rows: StoredRows) -> NDArray[Any]:
    """The sets of rows, a RANGE for each run of one."""
    found: list[tuple[int, int, int]] = []
    for image, sets in enumerate(() if rows.sets is None else rows.sets.T):
        begins = np.flatnonzero(np.diff(sets, prepend=sets[:1] - 1))
        found += [(image, begin, number) for begin, number in zip(begins.tolist(), sets[begins].tolist(), strict=True)]
    return np.array(found, RANGE)


def _sets(ranges: NDArray[Any], images: int, count: int) -> NDArray[np.int64]:
    """What `_ranges` was made of: (count, images).

    Raises:
        ValueError: it makes no sense.
    """
    sets = np.empty((count, images), np.int64)
    for image in range(images):
        own = ranges[ranges["image"] == image]
        begins = own["row"].astype(np.int64)
        if not len(own) or begins[0] or np.any(np.diff(begins, append=count) <= 0):
            raise ValueError(f"expected runs of rows from the first to the last of {count}, got {begins[:9].tolist()}")
        sets[:, image] = np.repeat(own["set"], np.diff(begins, append=count))
    return sets


def write_set(directory: Path, commit: str, store: FrameStore, image: int, number: int) -> FileEntry:
    """Write a reference set of an image of a store to a new file."""
    sets = store.sets[image]
    parts: list[Buffer] = [sets.frames(number)]
    return write_file(directory, f"set-{image:02d}-{number:06d}-{commit}.bin", parts, number, sets.first_row(number))


def check_set(directory: Path, entry: FileEntry, image: Image) -> None:
    """Refuse a file of reference frames of an image that is not there, or of a wrong size; nothing of it is read.

    Raises:
        CorruptDataError: so it is.
    """
    check_set_entry(directory, entry, image)
    check_size(directory, entry)


def check_set_entry(directory: Path, entry: FileEntry, image: Image) -> None:
    """Refuse what the manifest says of the size of such a file, where it makes no sense.

    Raises:
        CorruptDataError: so it is.
    """
    if entry.nbytes > image.set_slot_bytes or entry.nbytes % image.frame_bytes:
        raise CorruptDataError(
            f"{directory / entry.name}: expected frames of {image.frame_bytes} bytes, at most {image.set_slot_bytes} "
            f"bytes in all, got {entry.nbytes}"
        )


def check_segment(directory: Path, entry: FileEntry, layout: Layout) -> None:
    """Refuse a file of rows that is not there, or whose size is not right; nothing of it is read.

    Raises:
        CorruptDataError: so it is.
    """
    check_segment_entry(directory, entry, layout)
    check_size(directory, entry)


def check_segment_entry(directory: Path, entry: FileEntry, layout: Layout) -> None:
    """Refuse what the manifest says of the size of such a file, where it makes no sense.

    Raises:
        CorruptDataError: so it is.
    """
    count = entry.end - entry.first
    least = SEGMENT_HEADER.itemsize + count * row_bytes(layout)
    frames = min(count * layout.row_bytes, max(SEGMENT_BYTES, layout.row_bytes))
    ranges = MORE_HEADER.itemsize + count * len(layout.images) * RANGE.itemsize
    if not least <= entry.nbytes <= least + ranges + frames:
        raise CorruptDataError(
            f"{_expected(directory, entry)}, {least} bytes and their coded frames, got {entry.nbytes} bytes"
        )


def _expected(directory: Path, entry: FileEntry) -> str:
    return f"{directory / entry.name}: {_rows(entry.first, entry.end)}"


def _rows(first: int, end: int) -> str:
    return f"expected {end - first} rows from row {first} on"


def read_segment(directory: Path, entry: FileEntry, layout: Layout) -> StoredRows:
    """The rows of a segment file that `check_segment` has let pass.

    Raises:
        CorruptDataError: it is missing, damaged, or not of this layout.
    """
    try:
        return unpack_rows(layout, read_file(directory, entry), entry.first, entry.end)
    except ValueError as error:
        raise CorruptDataError(f"{directory / entry.name}: {error}") from None


def unpack_rows(layout: Layout, segment: Buffer, first: int, end: int) -> StoredRows:
    """The rows that `pack_rows` was given: views of the segment.

    Raises:
        ValueError: it holds others, or is of another layout.
    """
    count, images, expected = end - first, len(layout.images), _rows(first, end)
    data = memoryview(segment)
    head, place, sets = data[: SEGMENT_HEADER.itemsize], SEGMENT_HEADER.itemsize, None
    if head != segment_header(layout, first, end, 1):
        if head != segment_header(layout, first, end):
            if len(data) < place:
                raise ValueError(f"{expected}, got too few bytes")
            raise ValueError(
                f"{expected}, got a file that begins with {np.frombuffer(data, SEGMENT_HEADER, 1)[0].tolist()}"
            )
        try:
            place, sets = _read_sets(data, images, count)
        except ValueError as error:
            raise ValueError(f"{expected}, got reference sets that make no sense: {error}") from None

    def values(dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        nonlocal place
        size = math.prod(shape)
        found = np.frombuffer(data, dtype, size, place).reshape(shape)
        place += size * found.itemsize
        return found

    try:
        lengths = values(LENGTH, (images, count)).T
        columns = {column.name: values(column.dtype, (count, *column.shape)) for column in segment_columns(layout)}
    except ValueError as error:
        raise ValueError(f"{expected}, got too few bytes ({error})") from None
    most = [image.frame_bytes for image in layout.images]
    if np.any(lengths > np.array(most)) or int(lengths.sum(dtype=np.int64)) != len(data) - place:
        raise ValueError(f"{expected}, got coded frames of {len(data) - place} bytes that do not add up")
    return StoredRows(first, columns, lengths, [data[place:]], sets)


def _read_sets(data: memoryview, images: int, count: int) -> tuple[int, NDArray[np.int64]]:
    """Where the columns of a segment of version 2 begin, and the sets of its rows.

    Raises:
        ValueError: they make no sense.
    """
    place = SEGMENT_HEADER.itemsize + MORE_HEADER.itemsize
    found, ranges = np.frombuffer(data, MORE_HEADER, 1, SEGMENT_HEADER.itemsize)[0].tolist()
    if found != images:
        raise ValueError(f"expected {images} images, got {found}")
    return place + ranges * RANGE.itemsize, _sets(np.frombuffer(data, RANGE, ranges, place), images, count)

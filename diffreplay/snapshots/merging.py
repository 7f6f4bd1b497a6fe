"""Which small files of rows a save writes anew as one, so that many small saves do not leave many small files.

Files are of one level where their sizes are within a factor FAN. As many neighbours of one level, or fewer that fill a
file, become one of a higher level, as in a log-structured merge tree (O'Neil et al., 1996). So a row is written about
once for each level, and few files of each level stay.
"""

from __future__ import annotations

from diffreplay.snapshots.manifest import SEGMENT_ROWS, FileEntry
from diffreplay.snapshots.segments import SEGMENT_BYTES

FAN = 32
FULL = SEGMENT_BYTES // 2  # a file that is half full stays as it is
WRITTEN_ANEW = 1 << 20  # bytes that a save writes anew at most, or this part of all that is stored
PART_WRITTEN_ANEW = 1 / 128


def files_to_merge(saved: list[FileEntry], rows: int, nbytes: int) -> int:
    """How many of the newest files are written anew, as one with `rows` new rows of `nbytes` bytes."""
    most, size = max(WRITTEN_ANEW, sum(entry.nbytes for entry in saved) * PART_WRITTEN_ANEW), _size(rows, nbytes)
    merged, anew = 0, 0
    while rows and size < FULL:
        count, run, run_bytes = 0, 0, 0
        for entry in reversed(saved[: len(saved) - merged]):
            own = _size(entry.end - entry.first, entry.nbytes)
            fits = size + run + own <= SEGMENT_BYTES and anew + run_bytes + entry.nbytes <= most
            if own >= FULL or _level(own) > _level(size) or not fits:
                break
            count, run, run_bytes = count + 1, run + own, run_bytes + entry.nbytes
        if not count or (count < FAN - 1 and size + run < FULL):
            break
        merged, size, anew = merged + count, size + run, anew + run_bytes
    return merged


def _size(rows: int, nbytes: int) -> int:
    """How far a file is full, in bytes: by its bytes or by its rows."""
    return max(nbytes, rows * (SEGMENT_BYTES // SEGMENT_ROWS))


def _level(size: int) -> int:
    return (size.bit_length() - 1) // (FAN.bit_length() - 1)

"""The bytes of a chunk: rows that a writer coded, on their way to a shard.

magic       8 bytes
length      of what follows it, uint32
head        JSON: see `Chunk`
segment     the rows, as files of a snapshot have them
sets        frames of reference sets that the shard lacks, end to end
checksum    of all before it, 16 bytes of BLAKE2b
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffreplay.errors import CorruptDataError
from diffreplay.snapshots import checksum, encode, pack_rows, unpack_rows
from diffreplay.store import Layout, StoredRows, StreamEnd

MAGIC = b"dfrchnk1"
CHECKSUM_BYTES = 16
LENGTH = "<u4"


@dataclass(frozen=True)
class Chunk:
    """Rows of a writer's own store, and what a shard must know of them.

    Attributes:
        writer: its name.
        life: of the writer: another one each time that a process makes it.
        oldest: the oldest row that the writer can still send.
        rows: numbered as in the writer's store, and so are `sets`.
        streams: see `stream_ends`; names as the writer's user gave them.
        sets: of each image, the sets that rows name: as the writer numbers them, as the shard does, and their digest.
        known: of each image, the digest of the set that frames are coded against now; "" for none.
        frames: of image and set, as the writer numbers it: its frames, where the shard asked for them.
    """

    writer: str
    life: str
    oldest: int
    rows: StoredRows
    streams: list[StreamEnd]
    sets: list[dict[int, tuple[int, str]]]
    known: list[str]
    frames: dict[tuple[int, int], bytes] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The row after the last one."""
        return self.rows.first + len(self.rows.lengths)


def pack(layout: Layout, chunk: Chunk) -> bytes:
    """The bytes of a chunk."""
    segment = b"".join(pack_rows(layout, chunk.rows))
    head = encode(
        {
            "writer": chunk.writer,
            "life": chunk.life,
            "first": chunk.rows.first,
            "end": chunk.end,
            "oldest": chunk.oldest,
            "streams": chunk.streams,
            "sets": [[[own, *there] for own, there in sets.items()] for sets in chunk.sets],
            "known": chunk.known,
            "segment": len(segment),
            "frames": [[*name, len(data)] for name, data in chunk.frames.items()],
        }
    )
    parts = [MAGIC, np.array(len(head), LENGTH).tobytes(), head, segment, *chunk.frames.values()]
    return b"".join([*parts, bytes.fromhex(checksum(*parts))])


def unpack(layout: Layout, data: bytes) -> Chunk:
    """The chunk that `pack` was given.

    Raises:
        CorruptDataError: it was damaged on the way, or is of another buffer.
    """
    if data[: len(MAGIC)] != MAGIC or checksum(memoryview(data)[:-CHECKSUM_BYTES]) != data[-CHECKSUM_BYTES:].hex():
        raise CorruptDataError(f"expected a chunk that ends in its checksum, got {len(data)} damaged or other bytes")
    try:
        return _unpack(layout, memoryview(data)[len(MAGIC) : -CHECKSUM_BYTES])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise CorruptDataError(
            f"expected a chunk of a buffer like this one, got one that makes no sense: {error}"
        ) from error


def _unpack(layout: Layout, data: memoryview) -> Chunk:
    place = np.dtype(LENGTH).itemsize
    length = int(np.frombuffer(data, LENGTH, 1)[0])
    head: dict[str, Any] = json.loads(bytes(data[place : place + length]))
    place += length
    rows = unpack_rows(layout, data[place : place + head["segment"]], head["first"], head["end"])
    place += head["segment"]
    frames = {}
    for image, number, size in head["frames"]:
        frames[image, number] = bytes(data[place : place + size])
        place += size
    return Chunk(
        head["writer"],
        head["life"],
        head["oldest"],
        rows,
        [(name, row, is_open) for name, row, is_open in head["streams"]],
        [{own: (number, of) for own, number, of in sets} for sets in head["sets"]],
        head["known"],
        frames,
    )

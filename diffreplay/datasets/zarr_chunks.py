"""Looks at the chunks of a zarr array before zarr decodes any: each has to hold what its array says, and no more.

A file of a few bytes may decode to more than there is memory. So those of zlib and its like are decoded here piece by
piece, and no more than a piece is held. Blosc and LZ4 say beforehand how much they hold, and are believed by those who
decode them: what they say is compared.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard

from diffreplay.datasets.needs import reason
from diffreplay.errors import CorruptDataError
from diffreplay.snapshots import open_regular

NONE = "bytes"
CODECS = {"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd", NONE, "crc32c", "transpose"}
MOST_OVERHEAD = 4096  # bytes of a coded chunk beyond those of its numbers
LZMA_MEMORY = 1 << 28  # bytes that a stream may claim for its window: four times what the largest preset does
PIECE = 1 << 20  # bytes that are decoded at once
CHECKSUM = 4  # bytes of a CRC-32C
BLOSC = np.dtype([("flags", "<u4"), ("nbytes", "<u4"), ("blocksize", "<u4"), ("cbytes", "<u4")])  # begins a chunk


class Coding(NamedTuple):
    """How the bytes of a chunk lie in its file."""

    codec: str = NONE  # that compresses them
    inner: int = 0  # bytes of checksums that are compressed with them
    outer: int = 0  # and of those after what is compressed


def coding(codecs: list[tuple[str, Any]]) -> Coding:
    """What codecs, their names and options in the order in which they code, make of a chunk.

    Raises:
        ValueError: one is not known, or several compress.
    """
    found, checksums = NONE, [0, 0]
    for codec, options in codecs:
        if codec not in CODECS:
            raise ValueError(f"codecs: expected some of {', '.join(sorted(CODECS))}, got {codec!r:.60}")
        if codec == "lzma" and (options.get("filters") or options.get("format") == lzma.FORMAT_RAW):
            raise ValueError("lzma: expected streams that say how they are coded, got raw ones or filters")
        if codec == "crc32c":
            checksums[found != NONE] += CHECKSUM
        elif codec not in (NONE, "transpose"):
            if found != NONE:
                raise ValueError(f"codecs: expected one that compresses, got {found} and {codec}")
            found = codec
    return Coding(found, *checksums)


def check_chunk(file: Path, nbytes: int, how: Coding) -> int:
    """Refuse a file that is not a chunk of so many bytes.

    Returns:
        How many bytes the file has.

    Raises:
        CorruptDataError: names it.
    """
    size, nbytes = file.stat().st_size, nbytes + how.inner
    most = nbytes + how.outer + (0 if how.codec == NONE else MOST_OVERHEAD + nbytes // 50)
    if how.outer <= size <= most:
        with open_regular(file) as opened:
            data = opened.read(size - how.outer)
        try:
            found = MEASURES[how.codec](data, nbytes)
        except Exception as error:  # each codec raises errors of its own
            raise CorruptDataError(
                f"{file}: expected a whole chunk, coded by {how.codec}, got damaged data ({reason(error)})"
            ) from error
        if found == nbytes:
            return size
        raise CorruptDataError(f"{file}: expected a whole chunk of {nbytes} bytes, got {_told(found, nbytes)} in it")
    raise CorruptDataError(f"{file}: expected a whole chunk of {nbytes} bytes, got {size} as stored")


def _told(found: int, nbytes: int) -> str:
    return "more" if found > nbytes else str(found)


def _in_blosc(data: bytes, nbytes: int) -> int:
    """Its header says it twice: how much it holds, and how long it is itself."""
    told = np.frombuffer(data[: BLOSC.itemsize], BLOSC, 1)[0]
    if told["cbytes"] != len(data):
        raise ValueError(f"its header says {told['cbytes']} bytes, and there are {len(data)}")
    return int(told["nbytes"])


def _in_lz4(data: bytes, nbytes: int) -> int:
    if len(data) < 4:
        raise ValueError("no size begins it")
    return int.from_bytes(data[:4], "little")


def _in_zstd(data: bytes, nbytes: int) -> int:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as stream:
        found = 0
        while found <= nbytes and (piece := stream.read(PIECE)):
            found += len(piece)
        return found


def _in_stream(start: Callable[[], Any]) -> Callable[[bytes, int], int]:
    """Measures a stream that a decompressor of the standard library decodes; `start` gives one."""

    def measure(data: bytes, nbytes: int) -> int:
        stream, found = start(), 0
        for size in _decoded(stream, data):
            found += size
            if found > nbytes:
                return found
        if not stream.eof or stream.unused_data:
            raise ValueError("more follows it" if stream.eof else "it is cut off")
        return found

    return measure


def _decoded(stream: Any, data: bytes) -> Iterator[int]:
    """The sizes of the pieces that a stream decodes to."""
    while not stream.eof:
        size, given = len(stream.decompress(data, PIECE)), data
        data = getattr(stream, "unconsumed_tail", b"")  # zlib's gives back what others keep
        yield size
        if not size and not given:
            return


MEASURES: dict[str, Callable[[bytes, int], int]] = {
    NONE: lambda data, _: len(data),
    "blosc": _in_blosc,
    "lz4": _in_lz4,
    "zstd": _in_zstd,
    "bz2": _in_stream(bz2.BZ2Decompressor),
    "gzip": _in_stream(lambda: zlib.decompressobj(zlib.MAX_WBITS | 16)),
    "zlib": _in_stream(zlib.decompressobj),
    "lzma": _in_stream(lambda: lzma.LZMADecompressor(memlimit=LZMA_MEMORY)),
}

"""How many bytes compressed data unpacks to, found without holding more than a piece of them.

A few bytes may unpack to more than there is memory. Streams of zlib and its like are unpacked piece by piece. Blosc and
LZ4 say beforehand how much they hold, and are believed by those who unpack them.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import zstandard

NONE = "bytes"
LZMA_MEMORY = 1 << 28  # bytes that a stream may claim for its window: four times what the largest preset does
PIECE = 1 << 20  # bytes that are unpacked at once
BLOSC = np.dtype([("flags", "<u4"), ("nbytes", "<u4"), ("blocksize", "<u4"), ("cbytes", "<u4")])  # begins a chunk


def unpacked(data: bytes, codec: str, most: int) -> int:
    """How many bytes data of a codec unpacks to; some number above `most` where it is more.

    Raises:
        Exception: it is damaged; each codec raises errors of its own.
    """
    return MEASURES[codec](data, most)


def _in_blosc(data: bytes, most: int) -> int:
    """Its header says it twice: how much it holds, and how long it is itself."""
    told = np.frombuffer(data[: BLOSC.itemsize], BLOSC, 1)[0]
    if told["cbytes"] != len(data):
        raise ValueError(f"its header says {told['cbytes']} bytes, and there are {len(data)}")
    return int(told["nbytes"])


def _in_lz4(data: bytes, most: int) -> int:
    if len(data) < 4:
        raise ValueError("no size begins it")
    return int.from_bytes(data[:4], "little")


def _in_zstd(data: bytes, most: int) -> int:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as stream:
        found = 0
        while found <= most and (piece := stream.read(PIECE)):
            found += len(piece)
        return found


def _in_stream(start: Callable[[], Any]) -> Callable[[bytes, int], int]:
    """Measures a stream that a decompressor of the standard library unpacks; `start` gives one."""

    def measure(data: bytes, most: int) -> int:
        stream, found = start(), 0
        for size in _decoded(stream, data):
            found += size
            if found > most:
                return found
        if not stream.eof or stream.unused_data:
            raise ValueError("more follows it" if stream.eof else "it is cut off")
        return found

    return measure


def _decoded(stream: Any, data: bytes) -> Iterator[int]:
    """The sizes of the pieces that a stream unpacks to."""
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

"""Looks at the chunks of a zarr array before zarr decodes any: each has to hold what its array says, and no more."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any, NamedTuple

from diffreplay.datasets.needs import reason
from diffreplay.datasets.unpacked import NONE, unpacked
from diffreplay.errors import CorruptDataError
from diffreplay.snapshots import open_regular

CODECS = {"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd", NONE, "crc32c", "transpose"}
MOST_OVERHEAD = 4096  # bytes of a coded chunk beyond those of its numbers
CHECKSUM = 4  # bytes of a CRC-32C


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
            found = unpacked(data, how.codec, nbytes)
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

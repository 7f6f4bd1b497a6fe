"""Each frame coded alone with Zstandard against a set of reference frames that the whole buffer shares.

The set serves as a raw-content dictionary (RFC 8878, section 5): whatever a frame has in common with any
reference frame is coded as a match into it. Any frame can still be decoded alone.

A coded frame of a given shape always begins with the same bytes (magic number, descriptor, content size), and
the header of its one block follows from its length. Both are cut off when a frame is stored and put back when
it is gathered, so that what is stored has no overhead at all.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from diffreplay.codecs.base import Buffer, Frame
from diffreplay.codecs.planned import PlannedCodec
from diffreplay.codecs.set_planner import SMALL_SHARE
from diffreplay.errors import CorruptDataError, InputError

MAX_BLOCK_BYTES = 1 << 17  # RFC 8878: larger frames are several blocks, whose headers are stored
BLOCK_HEADER_BYTES = 3
ROW_STRATEGIES = range(zstandard.STRATEGY_GREEDY, zstandard.STRATEGY_LAZY2 + 1)  # which have tags in place of chains
TABLES_BYTES = 1 << 16  # of an opened set, besides its tables
ATTACHED_BYTES = 1 << 15  # larger frames are coded with a copy of the set's tables
LARGEST_SHARE = 2  # a set of a single frame takes 1/2 of a cap at most
HEADER_OPTIONS = {"write_content_size": True, "write_dict_id": False, "write_checksum": False}


def set_cost(set_bytes: int, frame_bytes: int, hash_log: int) -> int:
    """Bytes of a set in shared memory and in the writer's, and of its match table, which libzstd copies to code."""
    return 2 * set_bytes + (5 << hash_log) * (2 if frame_bytes > ATTACHED_BYTES else 1)


class ReferenceSet:
    """Reference frames ready to code against; empty before the first set is built."""

    def __init__(self, data: Buffer, frame_bytes: int, params: zstandard.ZstdCompressionParameters) -> None:
        self._params, self._frame_bytes, self.nbytes = params, frame_bytes, len(data)
        self._local = threading.local()
        self._dictionary = zstandard.ZstdCompressionDict(data, zstandard.DICT_TYPE_RAWCONTENT) if self.nbytes else None

    @property
    def private_bytes(self) -> int:
        """Bytes that the compressor holds: the set's match tables, and its own working memory."""
        return (self._tables_bytes() if self.nbytes else 0) + self.compressor.memory_size()

    def _tables_bytes(self) -> int:
        """Bytes of the set's match tables, which libzstd makes no larger than a small set needs."""
        hash_log = min(self._params.hash_log, (self.nbytes + 512).bit_length() + 1)
        if self._params.strategy in ROW_STRATEGIES:
            return (5 << hash_log) + TABLES_BYTES
        return (4 << hash_log) + (4 << min(self._params.chain_log, hash_log)) + TABLES_BYTES

    @cached_property
    def compressor(self) -> zstandard.ZstdCompressor:
        """Codes against the set; its match tables are built once, its working memory is taken at once."""
        if self._dictionary is None:
            compressor = zstandard.ZstdCompressor(compression_params=self._params)
        else:
            self._dictionary.precompute_compress(compression_params=self._params)
            compressor = zstandard.ZstdCompressor(dict_data=self._dictionary, compression_params=self._params)
        compressor.compress(bytes(self._frame_bytes))
        return compressor

    def decompressor(self) -> zstandard.ZstdDecompressor:
        """This thread's own: one must not serve two at once."""
        found: zstandard.ZstdDecompressor | None = getattr(self._local, "decompressor", None)
        if found is None:
            found = self._local.decompressor = zstandard.ZstdDecompressor(dict_data=self._dictionary)
        return found


class ZstdCodec(PlannedCodec):
    """Zstandard with shared reference frames.

    Args:
        level: compression level, 1 to 22; 7 by default.
        set_frames: frames in a reference set, at most.
        refresh_interval: frames after which a new set is considered, at most.

    Examples:
        >>> codec = diffreplay.codecs.ZstdCodec(level=3)
        >>> buffer = diffreplay.ReplayBuffer(1000, (3, 16, 16), (2,), codec=codec)
    """

    name = "zstd"
    max_set_bytes = 3 << 19

    def __init__(self, level: int | None = None, set_frames: int = 64, refresh_interval: int = 25_000) -> None:
        if level is not None and not 1 <= level <= zstandard.MAX_COMPRESSION_LEVEL:
            raise InputError(f"level: expected 1 to {zstandard.MAX_COMPRESSION_LEVEL}, got {level}")
        if set_frames < 1 or refresh_interval < 1:
            raise InputError(
                f"expected positive set_frames and refresh_interval, got {set_frames} and {refresh_interval}"
            )
        super().__init__(level, set_frames, refresh_interval)

    def open_set(self, data: Buffer, frame_shape: tuple[int, int, int]) -> ReferenceSet:
        """The set for `encode` and `decode`."""
        frame_bytes, gray = math.prod(frame_shape), frame_shape[2] == 1
        hash_log = self._hash_log(len(data), frame_shape)
        options = {
            "window_log": 21,
            "hash_log": hash_log,
            "chain_log": max(18, hash_log),
            "min_match": 6 if gray else 5,
        }
        if len(data) and frame_bytes > MAX_BLOCK_BYTES and self._level is None:
            options["search_log"] = 5
        level = 7 if self._level is None else self._level
        params = zstandard.ZstdCompressionParameters.from_level(level, **options, **HEADER_OPTIONS)
        return ReferenceSet(data, frame_bytes, params)

    def _hash_log(self, set_bytes: int, frame_shape: tuple[int, int, int]) -> int:
        """How large the match table is, as a power of two."""
        frame_bytes, hash_log = math.prod(frame_shape), 18 if frame_shape[2] == 1 else 19
        large = frame_bytes > MAX_BLOCK_BYTES
        if large and set_bytes:
            # A place for each byte of a frame: in a smaller table, the end of a reference frame drives out its start.
            hash_log = max(hash_log, (frame_bytes - 1).bit_length())
        if self._max_bytes is None or not set_bytes:
            return hash_log
        if not large and SMALL_SHARE * set_cost(set_bytes, frame_bytes, hash_log) > self._max_bytes:
            few = max((set_bytes - 1).bit_length() - 2, zstandard.HASHLOG_MIN)
            hash_log = min(hash_log, few)  # frames take at most 1 % more
        while hash_log > 12 and LARGEST_SHARE * set_cost(set_bytes, frame_bytes, hash_log) > self._max_bytes:
            hash_log -= 1
        return hash_log

    def _cost(self, size: int, frame_shape: tuple[int, int, int]) -> int:
        """Bytes that a set of so many frames takes, and coding against it."""
        frame_bytes = math.prod(frame_shape)
        set_bytes = size * frame_bytes
        return set_cost(set_bytes, frame_bytes, self._hash_log(set_bytes, frame_shape))

    def private_bytes(self, reference: ReferenceSet) -> int:
        """Bytes that the writer takes for coding against an open set."""
        return reference.private_bytes

    def encode(self, frame: Frame, reference: Any = None) -> Buffer | None:
        """The frame against the set `reference`, or None when raw is no larger."""
        coded = reference.compressor.compress(frame)
        cut = len(frame_header(frame.size))
        if frame.size <= MAX_BLOCK_BYTES:
            cut += BLOCK_HEADER_BYTES
        blob = memoryview(coded)[cut:]
        if len(blob) >= frame.size or coded[:cut] != stored_headers(frame.size)[len(blob)]:
            return None
        return blob

    def gather(self, blobs: Sequence[Buffer], frame_bytes: int) -> Buffer:
        """One copy of the blobs, each behind the header that was cut off."""
        headers = stored_headers(frame_bytes)
        parts: list[Buffer] = [b""] * (2 * len(blobs))
        parts[::2] = [headers[len(blob)] for blob in blobs]
        parts[1::2] = blobs
        return b"".join(parts)

    def decode(self, data: Buffer, lengths: NDArray[np.intp], reference: Any, out: NDArray[np.uint8]) -> None:
        """Decode all frames, end to end, straight into `out`; the GIL is not held meanwhile."""
        target = out.reshape(-1).data
        try:
            with reference.decompressor().stream_reader(data, read_across_frames=True) as reader:
                size = reader.readinto(target)
        except zstandard.ZstdError as error:
            raise CorruptDataError(f"coded frames do not decode to {out[0].size} bytes each: {error}") from error
        if size != len(target):
            raise CorruptDataError(f"expected {len(out)} frames of {out[0].size} bytes, got {size} bytes in all")


@lru_cache(maxsize=8)
def frame_header(frame_bytes: int) -> bytes:
    """The bytes with which every coded frame of this size begins."""
    params = zstandard.ZstdCompressionParameters(**HEADER_OPTIONS)
    coded = zstandard.ZstdCompressor(compression_params=params).compress(bytes(frame_bytes))
    return coded[: zstandard.frame_header_size(coded)]


class StoredHeaders(dict[int, bytes]):
    """What is cut off a coded frame, by the length of what is stored; filled as it is asked for.

    For a frame of one block (RFC 8878, section 3.1.1.2) that is its block header, too: last block, compressed
    (or, for a single byte, repeated), of that length.
    """

    def __init__(self, frame_bytes: int) -> None:
        super().__init__()
        self._frame_bytes = frame_bytes

    def __missing__(self, length: int) -> bytes:
        header = frame_header(self._frame_bytes)
        if self._frame_bytes <= MAX_BLOCK_BYTES:
            kind, size = (1, self._frame_bytes) if length == 1 else (2, length)
            header += (size << 3 | kind << 1 | 1).to_bytes(BLOCK_HEADER_BYTES, "little")
        self[length] = header
        return header


stored_headers = lru_cache(maxsize=8)(StoredHeaders)

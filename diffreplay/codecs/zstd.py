"""Each frame coded alone with Zstandard against a set of reference frames that the whole buffer shares.

The set serves as a raw-content dictionary (RFC 8878, section 5): whatever a frame has in common with any
reference frame is coded as a match into it. Any frame can still be decoded alone.

A coded frame of a given shape always begins with the same bytes (magic number, descriptor, content size), and
the header of its one block follows from its length. Both are cut off when a frame is stored and put back when
it is gathered, so that what is stored has no overhead at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from diffreplay.codecs.base import Buffer, Codec, Frame, FrameSource, SetPlanner
from diffreplay.errors import CorruptDataError, InputError

MAX_BLOCK_BYTES = 1 << 17  # RFC 8878: larger frames are several blocks, whose headers are stored
BLOCK_HEADER_BYTES = 3
HEADER_OPTIONS = {"write_content_size": True, "write_dict_id": False, "write_checksum": False}


class ReferenceSet:
    """Reference frames ready to code against, or none when `data` is None."""

    def __init__(self, data: Buffer | None, params: zstandard.ZstdCompressionParameters) -> None:
        self._params = params
        self.data = None if data is None else bytes(data)

    @property
    def private_bytes(self) -> int:
        """The dictionary's own copy of the frames for coding and decoding, and its match tables."""
        tables = 4 * ((1 << self._params.hash_log) + (1 << self._params.chain_log))
        return 0 if self.data is None else 2 * len(self.data) + tables

    @cached_property
    def _dictionary(self) -> zstandard.ZstdCompressionDict | None:
        if self.data is None:
            return None
        return zstandard.ZstdCompressionDict(self.data, dict_type=zstandard.DICT_TYPE_RAWCONTENT)

    @cached_property
    def compressor(self) -> zstandard.ZstdCompressor:
        """Codes against the set; its match tables are built once."""
        if self._dictionary is not None:
            self._dictionary.precompute_compress(compression_params=self._params)
        return zstandard.ZstdCompressor(dict_data=self._dictionary, compression_params=self._params)

    def decompressor(self) -> zstandard.ZstdDecompressor:
        """A new decompressor: one must not serve two threads, and a batch is worth one."""
        return zstandard.ZstdDecompressor(dict_data=self._dictionary)


class ZstdCodec(Codec):
    """Zstandard with shared reference frames.

    Args:
        level: compression level, 1 to 22.
        set_bytes: bytes of reference frames in a set, at most.
        refresh_interval: frames after which a new set is considered.
    """

    name = "zstd"
    reference = "set"

    def __init__(self, level: int = 6, set_bytes: int = 1 << 18, refresh_interval: int = 50_000) -> None:
        if not 1 <= level <= zstandard.MAX_COMPRESSION_LEVEL:
            raise InputError(f"level: expected 1 to {zstandard.MAX_COMPRESSION_LEVEL}, got {level}")
        self.level, self.set_bytes, self.refresh_interval = level, set_bytes, refresh_interval

    def open_set(self, data: Buffer | None) -> ReferenceSet:
        """The set for `encode` and `decode`; None for the frames before the first set."""
        params = zstandard.ZstdCompressionParameters.from_level(self.level, **HEADER_OPTIONS)
        return ReferenceSet(data, params)

    def private_bytes(self, reference: ReferenceSet) -> int:
        """Bytes of the writer's own copy of an open set."""
        return reference.private_bytes

    def planner(self) -> Planner:
        """Decides when to build a set, and of which frames."""
        return Planner(self.set_bytes, self.refresh_interval)

    def encode(self, frame: Frame, reference: Any = None) -> Buffer | None:
        """The frame against the set `reference`, or None when raw is no larger."""
        coded = reference.compressor.compress(frame)
        cut = len(frame_header(frame.size))
        if frame.size <= MAX_BLOCK_BYTES:
            cut += BLOCK_HEADER_BYTES
        blob = memoryview(coded)[cut:]
        if len(blob) >= frame.size or coded[:cut] != stored_header(frame.size, len(blob)):
            return None
        return blob

    def gather(self, blobs: Sequence[Buffer], frame_bytes: int) -> Buffer:
        """One copy of the blobs, each behind the header that was cut off."""
        return b"".join([part for blob in blobs for part in (stored_header(frame_bytes, len(blob)), blob)])

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


@lru_cache(maxsize=1 << 16)
def stored_header(frame_bytes: int, length: int) -> bytes:
    """What is cut off a coded frame of `length` stored bytes.

    For a frame of one block (RFC 8878, section 3.1.1.2) that is its block header, too: last block, compressed
    (or, for a single byte, repeated), of `length` bytes.
    """
    header = frame_header(frame_bytes)
    if frame_bytes > MAX_BLOCK_BYTES:
        return header
    kind, size = (1, frame_bytes) if length == 1 else (2, length)
    return header + (size << 3 | kind << 1 | 1).to_bytes(BLOCK_HEADER_BYTES, "little")


class Planner(SetPlanner):
    """Builds sets of frames spread evenly over the newest ones."""

    def __init__(self, set_bytes: int, interval: int) -> None:
        self.set_bytes, self.interval = set_bytes, interval
        self._next = 64

    def due(self, head: int) -> bool:
        """Whether `choose` should be asked now that `head` rows are written."""
        return head >= self._next

    def choose(self, store: FrameSource) -> NDArray[np.int64] | None:
        """Rows spread evenly over the newest `interval`."""
        head = store.head
        self._next = head * 8 if head < 4096 else head + self.interval
        first = max(store.tail, head - self.interval)
        count = min(self.set_bytes // store.read(np.array([head - 1])).size, head - first)
        return np.unique(np.linspace(first, head - 1, count).astype(np.int64))

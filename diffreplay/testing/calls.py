"""Calls a codec as the store does, and looks at everything that it touched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Buffer, Codec
from diffreplay.errors import CodecError, CorruptDataError

GUARD_BYTES = 64
GUARD = 0xA5

T = TypeVar("T")


class Calls:
    """A codec, and the frames that it codes against.

    Args:
        codec: it codes.
        references: (K, H, W, C) uint8; for "frame" the first one counts, for "none" none does.
        frames: what the frames are, for messages.
        reader: decodes, where that is not `codec`.
    """

    def __init__(
        self, codec: Codec, references: NDArray[np.uint8], frames: str = "frames", reader: Codec | None = None
    ) -> None:
        self.codec, self.reader = codec, reader or codec
        self.shape = references.shape[1:]
        self.frame_bytes = int(np.prod(self.shape))
        self._references, self._given = references, references.copy()
        against = {"none": "nothing", "frame": "a frame" if len(references) else "no frame"}
        self.where = f"{frames} of shape {self.shape}, against "
        self.where += against.get(codec.reference, f"a set of {len(references)}")
        self._coding: Any = None
        self._reading: Any = None
        if codec.reference == "frame" and len(references):
            self._coding = self._given[0]
        elif codec.reference == "set":
            self._coding = self.call("open_set", codec.open_set, self._data(), self.shape)
            self._reading = self._coding
            if reader is not None:
                self._reading = self.call("open_set", reader.open_set, self._data(), self.shape)

    def _data(self) -> Buffer:
        return self._given.reshape(-1).data if len(self._given) else b""

    def broken(self, what: str) -> CodecError:
        """The error for a rule that is broken: "WHAT was expected, WHAT came"."""
        return CodecError(f"codec {self.codec.name!r}: {what} ({self.where})")

    def call(self, what: str, function: Callable[..., T], *arguments: Any, allowed: tuple[type, ...] = ()) -> T:
        """What a method of the codec returns; any exception but those `allowed` breaks the contract."""
        try:
            return function(*arguments)
        except Exception as error:
            if isinstance(error, allowed):
                raise
            raise self.broken(f"{what}: expected no exception, got {type(error).__name__}: {error!s:.300}") from error

    def private_bytes(self) -> Any:
        """What the codec says that the opened set takes."""
        return self.call("private_bytes", self.codec.private_bytes, self._coding)

    def encode(self, frame: NDArray[np.uint8]) -> bytes | None:
        """The coded frame, whose size and type are right."""
        given = frame.copy()
        blob = self.call("encode", self.codec.encode, given, self._coding)
        if not np.array_equal(given, frame):
            raise self.broken("encode: expected the frame that it was given as it was, got it changed")
        self._references_are_as_they_were("encode")
        if blob is None:
            return None
        if not isinstance(blob, bytes | bytearray | memoryview) or memoryview(blob).nbytes != len(blob):
            raise self.broken(f"encode: expected None or bytes, got {type(blob).__name__}")
        if len(blob) >= frame.size:
            raise self.broken(
                f"encode: expected fewer bytes than the {frame.size} of the raw frame, or None, got {len(blob)} bytes"
            )
        return bytes(blob)

    def decode(self, blobs: Sequence[Buffer], fill: int = 0, damaged: bool = False) -> NDArray[np.uint8]:
        """Frames (N, H, W, C) of coded frames, decoded in one call into an array that held `fill`.

        Raises:
            CorruptDataError: it was raised, and `damaged` allows that.
        """
        allowed = (CorruptDataError,) if damaged else ()
        lengths = np.array([len(blob) for blob in blobs], np.intp)
        given = lengths.copy()
        area = np.full(len(blobs) * self.frame_bytes + 2 * GUARD_BYTES, GUARD, np.uint8)
        out = area[GUARD_BYTES:-GUARD_BYTES].reshape(len(blobs), *self.shape)
        out[...] = self._references[0] if self.codec.reference == "frame" else fill
        data = self.call("gather", self.reader.gather, blobs, self.frame_bytes, allowed=allowed)
        try:
            self.call("decode", self.reader.decode, data, given, self._reading, out, allowed=allowed)
        finally:
            if np.any(area[:GUARD_BYTES] != GUARD) or np.any(area[-GUARD_BYTES:] != GUARD):
                raise self.broken("decode: expected nothing to be written beside `out`, got other bytes there")
        if not np.array_equal(given, lengths):
            raise self.broken("decode: expected `lengths` as they were, got them changed")
        self._references_are_as_they_were("decode")
        return out

    def _references_are_as_they_were(self, what: str) -> None:
        if not np.array_equal(self._given, self._references):
            raise self.broken(f"{what}: expected the reference frames that it was given as they were, got them changed")

"""The format of `delta` in plain Python: what the compiled core is compared with, and what runs without it.

The decoder is written from docs/format.md alone. The encoder finds the copies from the same place that reach furthest,
and no others. Both are slow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs.base import Buffer

Pixels = NDArray[np.uint8]


class Kind(NamedTuple):
    """A kind of copy: how many codes it has for literals and lengths, how many of these a number follows."""

    name: str
    literals: int
    lengths: int
    more: int
    least: int
    source: int


KINDS = (
    Kind("SAME", 16, 2, 2, 3, 1),
    Kind("AGAIN", 16, 3, 2, 2, 0),
    Kind("SHIFT", 4, 8, 2, 5, 2),
    Kind("FAR", 3, 7, 2, 6, 3),
    Kind("SHIFTED", 5, 7, 2, 3, 0),
    Kind("BACK", 4, 8, 2, 3, 1),
    Kind("RUN", 3, 7, 2, 2, 0),
    Kind("ADJUST", 3, 9, 1, 2, 1),
)
CODES = [(kind, i, j) for kind in KINDS for i in range(kind.literals) for j in range(kind.lengths)]


class Index(NamedTuple):
    """What `encode` takes."""

    frame_bytes: int


class Damaged(Exception):
    """Bytes that are no frame."""


class Decoder:
    """Writes one frame, token by token."""

    def __init__(self, blob: bytes, references: Pixels, frame_bytes: int, row_bytes: int, pixel_bytes: int) -> None:
        self._blob, self._set, self._at = blob, references, 0
        self._frame_bytes, self._row, self._pixel = frame_bytes, row_bytes, pixel_bytes
        self._reference = self._shift = 0
        self._out = bytearray()

    def frame(self) -> bytes:
        """The frame.

        Raises:
            Damaged: the blob is none.
        """
        while self._at < len(self._blob):
            if len(self._out) == self._frame_bytes:
                raise Damaged
            self._token()
        if (left := self._frame_bytes - len(self._out)) > 0:
            self._from_set(self._reference * self._frame_bytes + len(self._out), left)
        return bytes(self._out)

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _take(self, size: int) -> bytes:
        taken = self._blob[self._at : self._at + size]
        if len(taken) < size:
            raise Damaged
        self._at += size
        return taken

    def _token(self) -> None:
        code = self._number(1)
        if code >= len(CODES):
            raise Damaged
        kind, literals, length = CODES[code]
        if literals == kind.literals - 1 and (more := self._number(1)):
            literals += more if more < 255 else 255 + self._number(3)
        self._write(self._take(literals))
        if literals and len(self._out) == self._frame_bytes:
            return
        source = self._take(kind.source)
        self._copy(kind, source, self._length(kind, length))

    def _length(self, kind: Kind, code: int) -> int:
        direct = kind.lengths - kind.more
        if code < direct:
            return kind.least + code
        if self._at == len(self._blob) and kind.name != "ADJUST":
            return self._frame_bytes - len(self._out)
        return kind.least + direct + self._number(1 + code - direct)

    def _copy(self, kind: Kind, source: bytes, length: int) -> None:
        place = len(self._out)
        if kind.name in ("SAME", "ADJUST"):
            self._reference = source[0]
        elif kind.name in ("SHIFT", "FAR"):
            near = kind.name == "SHIFT"
            rows = source[1] // 16 - 8 if near else int(np.int8(np.uint8(source[1])))
            columns = source[1] % 16 - 8 if near else int(np.int8(np.uint8(source[2])))
            self._shift = source[0] * self._frame_bytes + rows * self._row + columns * self._pixel
        if kind.name in ("SAME", "AGAIN"):
            self._from_set(self._reference * self._frame_bytes + place, length)
        elif kind.name in ("SHIFT", "FAR", "SHIFTED"):
            self._from_set(place + self._shift, length)
        elif kind.name == "ADJUST":
            self._adjust(length, self._take(length))
        elif kind.name == "RUN":
            self._back(self._pixel, length)
        else:
            rows, column = divmod(source[0], 32)
            self._back(rows * self._row + (column - 16 if rows else column + 1) * self._pixel, length)

    def _write(self, pixels: bytes) -> None:
        if len(pixels) > self._frame_bytes - len(self._out):
            raise Damaged
        self._out += pixels

    def _from_set(self, begin: int, length: int) -> None:
        if begin < 0 or begin + length > len(self._set):
            raise Damaged
        self._write(self._set[begin : begin + length].tobytes())

    def _back(self, distance: int, length: int) -> None:
        if not 1 <= distance <= len(self._out) or length > self._frame_bytes - len(self._out):
            raise Damaged
        for _ in range(length):
            self._out.append(self._out[-distance])

    def _adjust(self, pairs: int, corrections: bytes) -> None:
        begin = self._reference * self._frame_bytes + len(self._out)
        if begin + 2 * pairs > len(self._set):
            raise Damaged
        halves = np.frombuffer(corrections, np.uint8).repeat(2)
        halves[::2] &= 15
        halves[1::2] >>= 4
        self._write((self._set[begin : begin + 2 * pairs] + halves - np.uint8(8)).tobytes())


def decode_batch(
    log: Buffer,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    sets: Buffer,
    set_starts: NDArray[np.int64],
    set_lengths: NDArray[np.int64],
    out: Any,
    places: NDArray[np.int64],
    frame_bytes: int,
    row_bytes: int,
    pixel_bytes: int,
    planar: bool,
) -> int:
    """As the compiled one; see the package."""
    target, coded = np.frombuffer(out, np.uint8), np.frombuffer(log, np.uint8)
    references = np.frombuffer(sets, np.uint8)

    def within(begin: int, size: int, most: int) -> bool:
        return begin >= 0 and size >= 0 and begin + size <= most

    columns = (starts, lengths, set_starts, set_lengths, places)
    for number, row in enumerate(zip(*(np.asarray(column).tolist() for column in columns), strict=True)):
        start, length, first, size, place = row
        if not within(place, frame_bytes, len(target)):
            return number
        pixels = np.zeros(frame_bytes, np.uint8)
        if length != -1:
            if not within(start, length, len(coded)) or length > frame_bytes:
                return number
            blob = coded[start : start + length]
            if length == frame_bytes:
                pixels = blob
            else:
                if not within(first, size, len(references)):
                    return number
                decoder = Decoder(blob.tobytes(), references[first : first + size], frame_bytes, row_bytes, pixel_bytes)
                try:
                    pixels = np.frombuffer(decoder.frame(), np.uint8)
                except Damaged:
                    return number
        if planar:
            pixels = np.ascontiguousarray(pixels.reshape(-1, pixel_bytes).T).reshape(-1)
        target[place : place + frame_bytes] = pixels
    return -1


def index(data: Buffer, frame_bytes: int, row_bytes: int, pixel_bytes: int, level: int) -> Index:
    """What `encode` needs."""
    return Index(frame_bytes)


def index_bytes(index: Index) -> int:
    """Bytes that coding takes besides the set."""
    return index.frame_bytes


def encode(index: Index, data: Buffer, frame: Pixels) -> bytes | None:
    """The coded frame, or None where it is no shorter."""
    pixels, size = frame.reshape(-1), index.frame_bytes
    references = np.frombuffer(data, np.uint8).reshape(-1, size)
    coded, begin, place = bytearray(), 0, 0
    while place < size and len(references) and len(coded) < size:
        reference, length = _furthest(references, pixels, place)
        if length < 4:
            place += max(length, 1)
            continue
        coded += _token(KINDS[0], pixels[begin:place].tobytes(), bytes([reference]), length, place + length == size)
        begin = place = place + length
    if begin < size:
        coded += _token(KINDS[0], pixels[begin:].tobytes(), b"", KINDS[0].least, True)
    return bytes(coded) if len(coded) < size else None


def encode_many(index: Index, data: Buffer, frames: Pixels, helpers: int) -> list[bytes | None]:
    """Each of the frames as `encode` codes it; without any help."""
    return [encode(index, data, frame) for frame in frames]


def _furthest(references: Pixels, pixels: Pixels, place: int) -> tuple[int, int]:
    """The reference frame that agrees with the frame longest from a place on, and how long: 65538 at most."""
    alive, length, step = np.arange(len(references)), 0, 64
    most = min(len(pixels) - place, KINDS[0].least + (1 << 16) - 1)
    while length < most:
        end = place + min(length + step, most)
        differ = references[alive, place + length : end] != pixels[place + length : end]
        first = np.where(differ.any(axis=1), differ.argmax(axis=1), differ.shape[1])
        length += int(first.max())
        alive = alive[first == first.max()]
        if first.max() < differ.shape[1]:
            break
        step *= 4
    return int(alive[0]), length


def _token(kind: Kind, literals: bytes, source: bytes, length: int, to_end: bool) -> bytes:
    """One token; at the frame's end without the bytes of a length."""
    most, direct = kind.literals - 1, kind.lengths - kind.more
    beyond = length - kind.least - direct
    code = CODES.index((kind, min(len(literals), most), direct + (beyond > 255)))
    token = bytearray([code])
    if (more := len(literals) - most) >= 0:
        token += bytes([more]) if more < 255 else b"\xff" + (more - 255).to_bytes(3, "little")
    token += literals + source
    return bytes(token if to_end else token + beyond.to_bytes(1 + (beyond > 255), "little"))

"""Frames of one image between codec and log: coded on their way in, fetched and decoded on their way out.

Here are frames that are coded by themselves, and what is common to all; `against` has the others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Buffer, Codec
from diffreplay.store.index import Index, Rows
from diffreplay.store.layout import LINK, Column, Layout, Memory
from diffreplay.store.sets import ReferenceSets
from diffreplay.store.streams import Stream

MAX_LINK = np.iinfo(LINK.dtype).max
PIECE_BYTES = 1 << 20  # of decoded frames, about what a core's cache holds


class Coded(NamedTuple):
    """A private copy of coded frames that share a reference set, and where they go."""

    reference: Any  # the open reference set, for codecs that have one
    places: NDArray[np.intp]
    data: Buffer
    lengths: NDArray[np.intp]


class Ahead(NamedTuple):
    """A frame that was coded before its turn."""

    reference: Any  # the open reference set that it is coded against
    blob: Buffer


class Scratch(threading.local):
    """Arrays of frames for a moment's use, each thread's own, kept for the next use."""

    def frames(self, name: str, count: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The array of that name, of `count` frames of a shape (H, W, C)."""
        frames = getattr(self, name, None)
        if frames is None or len(frames) < count:
            frames = np.empty((count, *shape), np.uint8)
            setattr(self, name, frames)
        return frames[:count]


class Coding:
    """Frames of one image, coded by themselves, and what is common to all.

    Args:
        codec: what codes them.
        layout, memory, index: of the store.
        sets: the image's reference sets.
        image: which one it is.

    Attributes:
        codec: what codes them.
        sets: the reference sets.
        image: its shape.
        columns: of the index, that this takes besides the others.
        kept_frames: raw frames that the writer keeps of each stream besides its newest observation.
    """

    columns: ClassVar[tuple[Column, ...]] = ()
    kept_frames: ClassVar[int] = 0

    def __init__(
        self, codec: Codec, layout: Layout, memory: Memory, index: Index, sets: ReferenceSets, image: int
    ) -> None:
        self.codec, self.sets, self.image = codec, sets, layout.images[image]
        self._log, self._index, self._number = memory.log, index, image
        self._scratch = Scratch()

    @staticmethod
    def frames_before(frame_stack: int) -> int:
        """How many frames before it a frame may need to be decoded."""
        return 0

    @staticmethod
    def oldest_needed(index: Index, rows: Rows) -> Rows:
        """For each of `rows`, the oldest row without which it cannot be decoded."""
        return rows

    @staticmethod
    def needs_evicted(index: Index, row: int) -> bool:
        """Whether the oldest row is coded against one before it."""
        return False

    @staticmethod
    def encode_row(
        codings: Sequence[Coding],
        frames: Sequence[NDArray[np.uint8]],
        stream: Stream,
        row: int,
        oldest: int,
        ahead: Sequence[Ahead] = (),
    ) -> tuple[list[Buffer], int]:
        """Coded or raw bytes of the frames (H, W, C) of each image, which are to be row `row`.

        Args:
            codings: of each image.
            frames: of each image.
            stream: where the row goes on.
            row: its number.
            oldest: the oldest row that counts.
            ahead: what `encode_ahead` gave for each of the frames, if it was asked.

        Returns:
            The bytes of each, and how many rows back the row is that they are coded against; 0 where there is none.
        """
        if ahead and all(one.reference is coding.sets.reference for one, coding in zip(ahead, codings, strict=True)):
            return [one.blob for one in ahead], 0
        blobs = []
        for coding, pixels in zip(codings, frames, strict=True):
            blobs.append(coding.encode(pixels))
        return blobs, 0

    def encode_ahead(self, frames: NDArray[np.uint8]) -> list[Ahead]:
        """Coded or raw bytes of frames (N, H, W, C), C-contiguous, for rows to come; none where that cannot be told."""
        reference, size = self.sets.reference, self.image.frame_bytes
        coded = self.codec.encode_many(frames, reference)
        return [
            Ahead(reference, blob if blob is not None and len(blob) < size else frames[k].reshape(-1).data)
            for k, blob in enumerate(coded)
        ]

    def read(self, rows: Rows, out: NDArray[np.uint8], intact: Callable[[], bool]) -> bool:
        """Decode frames into `out`; False, and anything in `out`, when some of them were evicted meanwhile.

        Args:
            rows: (N,) rows; NO_ROW gives a frame of zeros.
            out: (N, H, W, C) uint8, C-contiguous.
            intact: whether all that was copied so far was in place when it was copied.

        Raises:
            OverrunError: the index makes no sense, as it was being overwritten.
            CorruptDataError: coded bytes are damaged.
        """
        start, length = self._locate(rows)
        out[length < 0] = 0
        raw_bytes = self.image.frame_bytes
        raw, coded = np.flatnonzero(length == raw_bytes), np.flatnonzero((length >= 0) & (length < raw_bytes))
        self._copy_raw(start[raw], out, raw)
        fetched = self._fetch(rows, coded, start, length, out) if len(coded) else []
        if not intact():
            return False
        for part in fetched:
            self._decode(part, out)
        return True

    def read_windows(self, rows: Rows, out: NDArray[np.uint8], intact: Callable[[], bool]) -> bool:
        """Decode windows of frames (N, L) into `out` (N, L, C, H, W); else as `read`."""
        count, length, channels, height, width = out.shape
        if channels == 1:  # frames are stored (H, W, C), so these can be decoded in place
            return self.read(rows.reshape(-1), out.reshape(-1, height, width, 1), intact)
        # A piece of near windows at a time: they use the same references.
        order, at_once = np.argsort(rows[:, -1]), max(1, PIECE_BYTES // out[0].nbytes)
        for piece in np.split(order, range(at_once, count, at_once)):
            pixels = self._scratch.frames("pixels", len(piece) * length, self.image.frame_shape)
            if not self.read(rows[piece].reshape(-1), pixels, intact):
                return False
            out[piece] = pixels.reshape(-1, length, height, width, channels).transpose(0, 1, 4, 2, 3)
        return True

    def _locate(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As `Index.locate`; the length of NO_ROW, whose place belongs to another row, is -1."""
        zeros = rows < 0
        if zeros.all():
            return np.zeros_like(rows), np.full_like(rows, -1)
        start, length = self._index.locate(np.where(zeros, rows.max(), rows), self._number)
        length[zeros] = -1
        return start, length

    def _fetch(
        self,
        rows: Rows,
        coded: NDArray[np.intp],
        start: NDArray[np.int64],
        length: NDArray[np.int64],
        out: NDArray[np.uint8],
    ) -> list[Coded]:
        """Copy the coded bytes of the places `coded`, which begin at `start`, and what they are coded against."""
        return [self._gather(None, coded, start, length)]

    def _gather(
        self, reference: Any, places: NDArray[np.intp], start: NDArray[np.int64], length: NDArray[np.int64]
    ) -> Coded:
        first, lengths, log = start[places], length[places], self._log
        blobs = [log[a:b] for a, b in zip(first.tolist(), (first + lengths).tolist(), strict=True)]
        return Coded(reference, places, self.codec.gather(blobs, self.image.frame_bytes), lengths)

    def _copy_raw(self, start: NDArray[np.int64], out: NDArray[np.uint8], places: NDArray[np.intp]) -> None:
        """Copy raw frames, which begin at `start`, to `out[places]`."""
        log, size = self._log, self.image.frame_bytes
        target = out.reshape(-1).data
        for place, begin in zip((places * size).tolist(), start.tolist(), strict=True):
            target[place : place + size] = log[begin : begin + size]

    def _decode(self, part: Coded, out: NDArray[np.uint8]) -> None:
        if len(part.places) == len(out):
            self.codec.decode(part.data, part.lengths, part.reference, out)
            return
        few = self._scratch.frames("few", len(part.places), self.image.frame_shape)
        self.codec.decode(part.data, part.lengths, part.reference, few)
        out[part.places] = few

    def encode(self, pixels: NDArray[np.uint8], reference: Any = None) -> Buffer:
        """Coded or raw bytes of a frame (H, W, C)."""
        return self.shorter(self.codec.encode(pixels, reference), pixels)

    def shorter(self, coded: Buffer | None, pixels: NDArray[np.uint8]) -> Buffer:
        """Coded bytes, or the raw ones where those are no longer: readers tell raw frames by their length."""
        return pixels.reshape(-1).data if coded is None or len(coded) >= pixels.size else coded

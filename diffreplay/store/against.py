"""What frames are coded against, and all that follows from it: one class for each answer that a codec may give.

`Codec.reference` is asked in one place, `coding_of`; everything else asks an object of these classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Buffer, Codec
from diffreplay.errors import CorruptDataError
from diffreplay.store.coding import MAX_LINK, Ahead, Coded, Coding
from diffreplay.store.index import NO_ROW, Index, OverrunError, Rows
from diffreplay.store.layout import FLAGS, LINK, REFERENCE, Column, Image, Layout, end_columns
from diffreplay.store.streams import Stream

PIECE_FRAMES = 128  # decoded at once where frames are then put in their places: they are still in a core's cache


class AgainstFrame(Coding):
    """Frames coded against an earlier one of their stream that is stored raw, every `frame_stack`-th one."""

    columns = (REFERENCE,)
    kept_frames = 1

    @staticmethod
    def frames_before(frame_stack: int) -> int:
        """The others of its group."""
        return frame_stack - 1

    @staticmethod
    def oldest_needed(index: Index, rows: Rows) -> Rows:
        """Their reference frames."""
        needed = rows - index.get("reference", rows)
        needed[rows < 0] = NO_ROW
        return needed

    @staticmethod
    def needs_evicted(index: Index, row: int) -> bool:
        """Whether it has a reference: that one is older."""
        return index.value("reference", row) > 0

    @staticmethod
    def encode_row(
        codings: Sequence[Coding],
        frames: Sequence[NDArray[np.uint8]],
        stream: Stream,
        row: int,
        oldest: int,
        ahead: Sequence[Ahead] = (),
    ) -> tuple[list[Buffer], int]:
        """Each group's first row stays raw, and is what the others are coded against."""
        lost = stream.reference_row < oldest or row - stream.reference_row > MAX_LINK
        if stream.group_size % len(stream.stack[0]) == 0 or lost:
            # Copies: gray pixels are a view of what the caller gave, who may use the array again.
            stream.references = [pixels.copy() for pixels in frames]
            stream.reference_row, stream.group_size = row, 1
            return [pixels.reshape(-1).data for pixels in frames], 0
        stream.group_size += 1
        blobs = [
            coding.encode(pixels, reference)
            for coding, pixels, reference in zip(codings, frames, stream.references, strict=True)
        ]
        is_coded = any(len(blob) < pixels.size for blob, pixels in zip(blobs, frames, strict=True))
        return blobs, row - stream.reference_row if is_coded else 0

    def encode_ahead(self, frames: NDArray[np.uint8]) -> list[Ahead]:
        """None: what a frame is coded against is known when it is its turn."""
        return []

    def _fetch(
        self,
        rows: Rows,
        coded: NDArray[np.intp],
        start: NDArray[np.int64],
        length: NDArray[np.int64],
        out: NDArray[np.uint8],
    ) -> list[Coded]:
        """Copy the reference frames of coded ones to where these are to be, too."""
        place, size = self._index.locate(self.oldest_needed(self._index, rows[coded]), self._number)
        if np.any(size != self.image.frame_bytes):
            raise OverrunError
        self._copy_raw(place, out, coded)
        part = self._gather(None, coded, start, length)
        # All of `out` holds references now; a frame that is raw is one that adds nothing to its own.
        every = np.zeros(len(rows), length.dtype)
        every[coded] = part.lengths
        return [part._replace(places=np.arange(len(rows)), lengths=every)]


class AgainstSet(Coding):
    """Frames coded against reference sets, which the whole buffer shares."""

    def _fetch(
        self,
        rows: Rows,
        coded: NDArray[np.intp],
        start: NDArray[np.int64],
        length: NDArray[np.int64],
        out: NDArray[np.uint8],
    ) -> list[Coded]:
        """All at once, straight to their places, where that can be; else a piece at a time."""
        groups = self.sets.split(rows, coded)
        if len(groups) == 1 and len(coded) == len(rows):
            return [self._gather(self.sets.opened(groups[0][0], self.codec), coded, start, length)]
        return [
            self._gather(self.sets.opened(number, self.codec), part[first : first + PIECE_FRAMES], start, length)
            for number, part in groups
            for first in range(0, len(part), PIECE_FRAMES)
        ]

    def encode(self, pixels: NDArray[np.uint8], reference: Any = None) -> Buffer:
        """Against the set that is the newest one now."""
        return self.shorter(self.codec.encode(pixels, self.sets.reference), pixels)


class InPlace(AgainstSet):
    """Frames coded against reference sets, by a codec that decodes them straight from shared memory."""

    def read(self, rows: Rows, out: NDArray[np.uint8], intact: Callable[[], bool]) -> bool:
        """As there, but that no coded byte is copied, and what was decoded is believed afterwards."""
        return self._read(rows, out, False, intact)

    def read_windows(self, rows: Rows, out: NDArray[np.uint8], intact: Callable[[], bool]) -> bool:
        """As there, in one go."""
        frames = out.reshape(-1, *out.shape[2:])
        return self._read(rows.reshape(-1), frames, out.shape[2] > 1, intact)

    def _read(self, rows: Rows, out: NDArray[np.uint8], planar: bool, intact: Callable[[], bool]) -> bool:
        start, length = self._locate(rows)
        set_start, set_length = self.sets.locate(rows)
        if not planar:
            out = out.reshape(-1, *self.image.frame_shape)
        whole = self.codec.decode_in_place(
            self._log, start, length, self.sets.memory, set_start, set_length, out, planar
        )
        if not intact():
            return False
        if not whole:
            raise CorruptDataError(f"coded frames do not decode to {self.image.frame_bytes} bytes each")
        return True


CODINGS: dict[str, type[Coding]] = {"none": Coding, "frame": AgainstFrame, "set": AgainstSet}


def coding_of(codec: Codec) -> type[Coding]:
    """How the frames of a codec are coded, by what it says it codes against."""
    return InPlace if codec.decodes_in_place else CODINGS[codec.reference]


def layout_of(
    frame_shapes: Sequence[tuple[int, int, int]],
    frame_stack: int,
    max_rows: int,
    codec: Codec,
    columns: tuple[Column, ...] = (),
    log_limit: int | None = None,
    stacked: int = 0,
) -> Layout:
    """The layout of a store, arguments as of `FrameStore`."""
    sizes = [math.prod(shape) for shape in frame_shapes]
    images = tuple(Image(shape, codec.set_frames(size) * size) for shape, size in zip(frame_shapes, sizes, strict=True))
    references = coding_of(codec).columns if images else ()
    index = (*end_columns(len(images), sum(sizes)), LINK, FLAGS, *references)
    return Layout(images, frame_stack, max_rows, index, columns, log_limit, stacked)


def frames_before(codec: Codec, frame_stack: int) -> int:
    """How many frames before it a frame may need to be decoded."""
    return coding_of(codec).frames_before(frame_stack)

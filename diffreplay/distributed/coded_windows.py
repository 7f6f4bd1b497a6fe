"""Samples on their way from a shard to a learner elsewhere: values as they are, each frame once and coded."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffreplay.batch import ReplayBatch
from diffreplay.errors import ReplayError
from diffreplay.loading import BatchPlace, ReplayReader, spec_of
from diffreplay.parts import Part
from diffreplay.store import NO_ROW, SET_SLOTS, OverrunError

MOST_OVERRUNS = 1000


class CodedFrames(NamedTuple):
    """Frames of an image.

    Attributes:
        lengths: (N,) uint32 bytes of each; those of a raw frame where it is raw.
        sets: (N,) int64 of the reference sets that they are coded against; NO_ROW for none.
        coded: end to end.
    """

    lengths: NDArray[np.uint32]
    sets: NDArray[np.int64]
    coded: bytes


class CodedWindows(NamedTuple):
    """Transitions, their frames coded.

    Attributes:
        life: of the shard that they come from: numbers of sets mean something within it alone.
        transitions: that the shard held.
        values: (B, *shape) of what transitions have besides observations, by name.
        places: (B, L) int32, for each frame of each window its place among the frames; -1 for zeros.
        parts: of each part its frames, each once: coded ones of an image, else an array (N, *shape).
    """

    life: str
    transitions: int
    values: dict[str, NDArray[Any]]
    places: NDArray[np.int32]
    parts: list[CodedFrames | NDArray[Any]]


def coded_windows(reader: ReplayReader, count: int, rng: np.random.Generator, life: str) -> CodedWindows:
    """Draw transitions uniformly, in the process that writes the buffer.

    Raises:
        EmptyBufferError: there is none.
        ReplayError: the writer was always faster.
    """
    for _ in range(MOST_OVERRUNS):
        try:
            return _draw(reader, count, rng, life)
        except OverrunError:
            pass
    raise ReplayError(f"{MOST_OVERRUNS} batches in a row were evicted while they were read: raise capacity")


def _draw(reader: ReplayReader, count: int, rng: np.random.Generator, life: str) -> CodedWindows:
    samples, frames = reader.samples(None), reader.frames
    windows = samples.draw(count, rng)
    values = {column.name: np.zeros((count, *column.shape), column.dtype) for column in samples.columns()}
    samples.fill(windows, values)
    values["weight"][:] = 1
    rows, inverse = np.unique(windows.frames, return_inverse=True)
    places = inverse.reshape(windows.frames.shape).astype(np.int32)
    if len(rows) and rows[0] == NO_ROW:
        rows = rows[1:]
        places -= 1
    parts: list[CodedFrames | NDArray[Any]] = []
    columns, log = iter(frames.layout.scalars), frames.memory.log
    for image, part in enumerate(reader.parts):
        if not part.is_image:
            parts.append(frames.stacked(next(columns), rows))
            continue
        starts, lengths = frames.locate(rows, image)
        coded = b"".join([log[a : a + n] for a, n in zip(starts.tolist(), lengths.tolist(), strict=True)])
        sets = frames.codings[image].sets.serving(rows)
        parts.append(CodedFrames(lengths.astype(np.uint32), sets, coded))
    if not frames.intact(windows.oldest):
        raise OverrunError
    return CodedWindows(life, len(reader), values, places, parts)


class WindowDecoder:
    """Decodes windows of one shard.

    Args:
        reader: of an empty buffer like the shard's.
    """

    def __init__(self, reader: ReplayReader) -> None:
        self._reader, self._codec, self._images = reader, reader.frames.codec, reader.frames.layout.images
        self._life = ""
        self._sets: dict[tuple[int, int], Any] = {}  # by image and number, as the codec opened them

    def missing(self, windows: CodedWindows) -> list[tuple[int, int]]:
        """(image, number) of the reference sets that `add_set` has to be told of first."""
        if windows.life != self._life:
            self._life, self._sets = windows.life, {}
            for image in range(len(self._images)):
                self.add_set(image, NO_ROW, b"")
        wanted = [
            (image, int(number))
            for image, part in enumerate(windows.parts)
            if isinstance(part, CodedFrames)
            for number in np.unique(part.sets)
        ]
        return [each for each in wanted if each not in self._sets]

    def add_set(self, image: int, number: int, frames: bytes) -> None:
        """Know a reference set, frames end to end, from now on."""
        # As many as a shard holds at most; of older ones no window comes any more.
        for gone in [key for key in self._sets if key[0] == image and NO_ROW < key[1] <= number - SET_SLOTS]:
            del self._sets[gone]
        self._sets[image, number] = self._codec.open_set(frames, self._images[image].frame_shape)

    def batch(self, windows: CodedWindows, source: int) -> ReplayBatch:
        """The transitions in new memory.

        Raises:
            CorruptDataError: a frame does not decode.
        """
        count, length = windows.places.shape
        place = BatchPlace(spec_of([self._reader], count), length)
        for name, values in windows.values.items():
            place.values[name][:] = values
        place.values["source"][:] = source
        zeros, places = windows.places < 0, np.maximum(windows.places, 0).reshape(-1)
        for image, (part, its, out) in enumerate(
            zip(self._reader.parts, windows.parts, place.windows(length), strict=True)
        ):
            if not isinstance(its, CodedFrames):
                out.view(part.stored_dtype)[:] = its[places].reshape(out.shape)
            else:
                _put(part, self._decoded(image, its, windows.places.size > 0), places, out)
            out[zeros] = 0
        batch = place.batch(length)
        if not isinstance(batch, ReplayBatch):
            raise TypeError("expected transitions")
        return batch

    def _decoded(self, image: int, frames: CodedFrames, any_there: bool) -> NDArray[np.uint8]:
        shape, size = self._images[image].frame_shape, self._images[image].frame_bytes
        out = np.empty((max(len(frames.lengths), int(any_there)), *shape), np.uint8)
        lengths = frames.lengths.astype(np.int64)
        ends = np.cumsum(lengths)
        blobs = [frames.coded[a:b] for a, b in zip((ends - lengths).tolist(), ends.tolist(), strict=True)]
        for raw in np.flatnonzero(lengths == size).tolist():
            out[raw] = np.frombuffer(blobs[raw], np.uint8).reshape(shape)
        for number in np.unique(frames.sets[lengths < size]).tolist():
            places = np.flatnonzero((frames.sets == number) & (lengths < size))
            few = np.empty((len(places), *shape), np.uint8)
            data = self._codec.gather([blobs[place] for place in places.tolist()], size)
            self._codec.decode(data, lengths[places].astype(np.intp), self._sets[image, number], few)
            out[places] = few
        return out


def _put(part: Part, pixels: NDArray[np.uint8], places: NDArray[np.intp], out: NDArray[Any]) -> None:
    """Put stored frames (N, H, W, C) where windows have them."""
    if part.planar:
        out[:] = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))[places].reshape(out.shape)
    elif part.dtype == np.uint8:
        out[:] = pixels[places].reshape(out.shape)
    else:
        part.decoded(pixels[places], out.reshape(len(places), *out.shape[2:]))

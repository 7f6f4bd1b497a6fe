"""Draws batches: chooses samples of one or several buffers, and reads them into a place."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffreplay.errors import ReplayError
from diffreplay.loading.samples import Samples
from diffreplay.loading.slots import BatchPlace, BatchSpec
from diffreplay.loading.windows import Windows
from diffreplay.parts import Part
from diffreplay.store import FrameReader, OverrunError, Rows

MAX_OVERRUNS = 1000


class GoneError(Exception):
    """All steps that a request named have left; another one is needed. Never leaves the package."""


class Request(NamedTuple):
    """What is decided of a batch before it is drawn.

    Attributes:
        counts: samples of each buffer.
        starts: (B,) the steps at which they begin, or None to draw them uniformly; of a buffer that is drawn from
            uniformly, what it says does not matter, and its first entry is negative.
        weight: (B,) of importance sampling, up to a factor, or None.
    """

    counts: tuple[int, ...]
    starts: Rows | None = None
    weight: NDArray[np.float32] | None = None

    @property
    def shares(self) -> list[slice]:
        """Which samples of a batch each buffer gives."""
        return [slice(begin, end) for begin, end in pairwise(accumulate(self.counts, initial=0))]


def draw(
    samples: Sequence[Samples],
    spec: BatchSpec,
    request: Request,
    rng: np.random.Generator,
    place_for: Callable[[int], BatchPlace],
) -> tuple[BatchPlace, int]:
    """Draw into the place that `place_for` gives for so many frames a sample; return both.

    Raises:
        EmptyBufferError: a buffer has no sample yet.
        GoneError: none of the steps that the request names for a buffer are there any more.
    """
    for _ in range(MAX_OVERRUNS):
        try:
            chosen = [
                _choose(its, request, share, rng)
                for its, share in zip(samples, request.shares, strict=True)
                if share.start < share.stop
            ]
            lengths = {one.windows.frames.shape[1] for one in chosen}
            if len(lengths) > 1:  # stacks that some of them share, others do not
                chosen = [one._replace(windows=one.samples.apart(one.windows)) for one in chosen]
                lengths = {spec.longest}
            place = place_for(*lengths)
            if all(_read(one, place, *lengths) for one in chosen):
                place.values["source"][:] = np.repeat(np.arange(len(samples)), request.counts)
                return place, *lengths
        except OverrunError:
            pass
        time.sleep(0)  # the writer runs ahead of us: let it
    raise ReplayError(
        f"{MAX_OVERRUNS} batches in a row were evicted while they were read: expected a capacity well above what "
        "is written during one batch; raise it or write more slowly"
    )


class _Chosen(NamedTuple):
    """The samples of one buffer."""

    samples: Samples
    share: slice  # of the batch
    windows: Windows
    weight: NDArray[np.float32] | None


def _choose(samples: Samples, request: Request, share: slice, rng: np.random.Generator) -> _Chosen:
    """Choose the samples of one buffer. In place of those that have left, others that the request names come again."""
    starts, weight = request.starts, request.weight
    if starts is None or starts[share.start] < 0:
        return _Chosen(samples, share, samples.draw(share.stop - share.start, rng), None)
    starts = starts[share]
    weight = None if weight is None else weight[share]
    windows, there = samples.at(starts)
    if not len(there):
        raise GoneError
    if len(there) < len(starts):
        picks = rng.choice(there, len(starts))
        picks[there] = there
        windows, found = samples.at(starts[picks])
        if len(found) < len(picks):
            raise OverrunError
        weight = None if weight is None else weight[picks]
    return _Chosen(samples, share, windows, weight)


def _read(chosen: _Chosen, place: BatchPlace, length: int) -> bool:
    """Copy and decode samples into their share of a place; False when some were evicted meanwhile."""
    samples, share, windows, weight = chosen
    samples.fill(windows, {name: values[share] for name, values in place.values.items()})
    place.values["weight"][share] = 1 if weight is None else weight / weight.max()
    outs = [out[share] for out in place.windows(length)]
    return _read_frames(samples.frames, place.spec.parts, windows, outs)


def _read_frames(frames: FrameReader, parts: Sequence[Part], windows: Windows, outs: Sequence[NDArray[Any]]) -> bool:
    """Read the frames of each part."""
    columns, rows = iter(frames.layout.scalars), windows.frames
    for image, (part, out) in enumerate(zip(parts, outs, strict=True)):
        if not part.is_image:
            out.view(part.stored_dtype)[:] = frames.stacked(next(columns), rows)
        elif not _read_images(frames, part, image, windows, out):
            return False
    return frames.intact(windows.oldest)


def _read_images(frames: FrameReader, part: Part, image: int, windows: Windows, out: NDArray[Any]) -> bool:
    """Decode the frames of an image into `out`."""
    rows, oldest = windows.frames, windows.oldest
    if part.planar:
        return frames.read_windows(rows, oldest, out, image)
    rows = rows.reshape(-1)
    if part.dtype == np.uint8:
        return frames.read_into(rows, oldest, out.reshape(-1, *part.stored_shape), image)
    halves = np.empty((len(rows), *part.stored_shape), np.uint8)
    if not frames.read_into(rows, oldest, halves, image):
        return False
    part.decoded(halves, out.reshape(len(rows), *out.shape[2:]))
    return True

"""The codec `delta`: what the store asks of it, by the compiled core or, where that is missing, in Python."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs.base import Buffer, Frame
from diffreplay.codecs.planned import PlannedCodec
from diffreplay.errors import CorruptDataError, InputError

MOST_REFERENCES = 256  # a reference's number is a byte
MAX_FRAME_BYTES = 1 << 24  # larger frames are left raw
LEVELS = range(1, 6)
PACKAGE = Path(__file__).parents[2]
COMPILER = "install a compiler and Python's headers (apt-get install gcc python3-dev)"
PLAIN = (
    "diffreplay was installed where no C compiler was at hand, so the codec 'delta' runs in Python, which is hundreds "
    f"of times slower; {COMPILER} and diffreplay again, or choose codec='zstd'"
)
PLAIN_SOURCES = (
    f"diffreplay is imported from its sources, {PACKAGE.parent}, in which the codec 'delta' was never compiled, so it "
    "runs in Python, which is hundreds of times slower; if you have installed diffreplay, start Python in another "
    f"folder; else {COMPILER} and run pip install -e {PACKAGE.parent}, or choose codec='zstd'"
)


@cache
def core() -> ModuleType:
    """The compiled core; without it, the same functions in Python, and a warning."""
    try:
        from diffreplay.codecs.delta import _core  # type: ignore[attr-defined,unused-ignore]
    except ImportError:
        from diffreplay.codecs.delta import plain

        sources = (PACKAGE.parent / "setup.py").exists()
        warnings.warn(PLAIN_SOURCES if sources else PLAIN, RuntimeWarning, stacklevel=2)
        return plain
    return _core  # type: ignore[no-any-return,unused-ignore]


class ReferenceSet:
    """Reference frames, and, once something is coded against them, what the search for copies needs."""

    def __init__(self, data: Buffer, frame_shape: tuple[int, int, int], level: int) -> None:
        self.data, self._level = data, level
        height, width, channels = frame_shape
        self.sizes = (height * width * channels, width * channels, channels)

    @cached_property
    def index(self) -> Any:
        """Built when a frame is coded first."""
        return core().index(self.data, *self.sizes, self._level)


class DeltaCodec(PlannedCodec):
    """Copies from shared reference frames and literal bytes, without entropy coding.

    Args:
        level: 1 to 5: how long the encoder looks for copies; 2 by default. What it writes is read at the same speed.
        set_frames: frames in a reference set, at most; 1 to 256, and as many as 2.7 MB hold.
        refresh_interval: frames after which a new set is considered, at most.

    Raises:
        InputError: an argument is out of its range.

    Examples:
        >>> codec = diffreplay.codecs.DeltaCodec(level=1)
        >>> buffer = diffreplay.ReplayBuffer(1000, (3, 16, 16), (2,), codec=codec)
    """

    name = "delta"
    max_set_bytes = 128 * 84 * 84 * 3
    share = 0.4  # unlike with zstd, more references cost next to nothing
    decodes_in_place = True
    _level: int

    def __init__(self, level: int = 2, set_frames: int = 128, refresh_interval: int = 25_000) -> None:
        if level not in LEVELS:
            raise InputError(f"level: expected {LEVELS[0]} to {LEVELS[-1]}, got {level}")
        if not 1 <= set_frames <= MOST_REFERENCES:
            raise InputError(f"set_frames: expected 1 to {MOST_REFERENCES}, got {set_frames}")
        if refresh_interval < 1:
            raise InputError(f"refresh_interval: expected a positive number of frames, got {refresh_interval}")
        super().__init__(level, set_frames, refresh_interval)

    def open_set(self, data: Buffer, frame_shape: tuple[int, int, int]) -> ReferenceSet:
        """The set for `encode` and `decode`; `data` is not copied."""
        return ReferenceSet(data, frame_shape, self._level)

    def private_bytes(self, reference: ReferenceSet) -> int:
        """Bytes that the writer takes for coding against an open set."""
        return int(core().index_bytes(reference.index))

    def _cost(self, size: int, frame_shape: tuple[int, int, int]) -> int:
        """Bytes of a set of so many frames, in shared memory and in the writer's."""
        return 4 * size * math.prod(frame_shape)

    def encode(self, frame: Frame, reference: Any = None) -> Buffer | None:
        """The frame against the set `reference`, or None when raw is no larger."""
        if frame.size > MAX_FRAME_BYTES:
            return None
        coded: bytes | None = core().encode(reference.index, reference.data, frame)
        return coded

    def encode_many(self, frames: NDArray[np.uint8], reference: Any = None) -> Sequence[Buffer | None]:
        """Each of them as `encode` codes it, on as many cores as the process may use and the frames are worth."""
        if frames[0].size > MAX_FRAME_BYTES:
            return [None] * len(frames)
        helpers = min(len(os.sched_getaffinity(0)), len(frames)) - 1
        coded: list[bytes | None] = core().encode_many(reference.index, reference.data, frames, helpers)
        return coded

    def decode(self, data: Buffer, lengths: NDArray[np.intp], reference: Any, out: NDArray[np.uint8]) -> None:
        """Decode all frames, end to end, straight into `out`; the GIL is not held meanwhile."""
        lengths = np.ascontiguousarray(lengths, np.int64)
        count, frame_bytes = len(lengths), reference.sizes[0]
        starts, places = np.cumsum(lengths) - lengths, np.arange(count) * frame_bytes
        set_starts, set_lengths = np.zeros(count, np.int64), np.full(count, len(reference.data))
        damaged = core().decode_batch(
            data, starts, lengths, reference.data, set_starts, set_lengths, out, places, *reference.sizes, False
        )
        if damaged >= 0:
            raise CorruptDataError(
                f"coded frame {damaged} of {count}, of {lengths[damaged]} bytes, does not decode to {frame_bytes} bytes"
            )

    def decode_in_place(
        self,
        log: Buffer,
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        sets: Buffer,
        set_starts: NDArray[np.int64],
        set_lengths: NDArray[np.int64],
        out: NDArray[np.uint8],
        planar: bool,
    ) -> bool:
        """Decode frames straight from shared memory, in one call that does not hold the GIL."""
        height, width, channels = out.shape[2:] + out.shape[1:2] if planar else out.shape[1:]
        sizes = height * width * channels, width * channels, channels
        places = np.arange(len(starts)) * sizes[0]
        return bool(
            core().decode_batch(log, starts, lengths, sets, set_starts, set_lengths, out, places, *sizes, planar) < 0
        )

"""The paper's differential encoding: the pixels that differ from a raw reference frame.

Grossman and Plancher, "Differentially Encoded Observation Spaces for Perceptive Reinforcement Learning"
(ICRA 2024), section III: every `frame_stack`-th frame of an episode is stored raw; each of the others as row
(uint8), column (uint8) and difference (int16) of every pixel that differs from it, 4 bytes a pixel, or raw
where that is smaller. Rows or columns over 255 take uint16 each, 6 bytes a pixel, and those over 65,535 uint32
each, 10 bytes a pixel. The channels of a pixel count as columns, side by side.

The loops over frames that the paper left to vectorise are vectorised here: a batch is decoded with one
scatter over the pixels of many of its frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffreplay.codecs.base import Buffer, Codec, Frame
from diffreplay.errors import CorruptDataError

CHUNK_FRAMES = 64  # decoded at once: what that takes stays in a core's cache, and its indices in 31 bits


def pixel_dtype(height: int, columns: int) -> np.dtype[Any]:
    """One stored pixel of an image of `height` rows and `columns` = W * C columns."""
    side = max(height, columns)
    index = "u1" if side <= 1 << 8 else "<u2" if side <= 1 << 16 else "<u4"
    return np.dtype([("row", index), ("column", index), ("difference", "<i2")])


class SparseCodec(Codec):
    """Row, column and difference of each pixel that is not as in the reference frame.

    Examples:
        >>> buffer = diffreplay.ReplayBuffer(1000, (3, 16, 16), (2,), codec="sparse")
    """

    name = "sparse"
    reference = "frame"

    def encode(self, frame: Frame, reference: Any = None) -> bytes | None:
        """Non-zero pixels of frame - reference, or None without a reference or when raw is no larger."""
        if reference is None:
            return None
        height, width, channels = frame.shape
        columns = width * channels
        dtype = pixel_dtype(height, columns)
        place = np.flatnonzero(frame.reshape(-1) != reference.reshape(-1))
        if place.size * dtype.itemsize >= frame.size:
            return None
        pixels = np.empty(place.size, dtype)
        pixels["row"], pixels["column"] = np.divmod(place, columns)
        pixels["difference"] = frame.reshape(-1)[place].astype("<i2") - reference.reshape(-1)[place]
        return pixels.tobytes()

    def decode(self, data: Buffer, lengths: NDArray[np.intp], reference: Any, out: NDArray[np.uint8]) -> None:
        """Add the differences of all frames to the references that `out` holds."""
        n, height, width, channels = out.shape
        columns = width * channels
        dtype = pixel_dtype(height, columns)
        if np.any(lengths % dtype.itemsize):
            raise CorruptDataError(f"expected coded frames of whole {dtype.itemsize}-byte pixels")
        ends = np.cumsum(lengths).tolist()
        begin = 0
        for first in range(0, n, CHUNK_FRAMES):
            last = min(first + CHUNK_FRAMES, n)
            counts = lengths[first:last] // dtype.itemsize
            _add_pixels(memoryview(data)[begin : ends[last - 1]], dtype, counts, out[first:last])
            begin = ends[last - 1]


def _add_pixels(data: memoryview, dtype: np.dtype[Any], counts: NDArray[np.intp], out: NDArray[np.uint8]) -> None:
    """Add to each frame of `out` (n, H, W, C) the next `counts[k]` pixels of `data`."""
    n, height, width, channels = out.shape
    columns = width * channels
    if dtype.itemsize == 4:
        words = np.frombuffer(data, "<u4")  # one integer a pixel is faster than three fields
        row, column, difference = words & 255, (words >> 8) & 255, (words >> 16).astype(np.uint8)
    else:
        pixels = np.frombuffer(data, dtype)
        row, column = pixels["row"].astype(np.uint32), pixels["column"].astype(np.uint32)
        difference = pixels["difference"].astype(np.uint8)
    if len(row) and (row.max() >= height or column.max() >= columns):
        raise CorruptDataError(f"expected pixels inside {height} x {columns}")
    place = np.repeat((np.arange(n) * (height * columns)).astype(np.uint32), counts)
    row *= np.uint32(columns)
    place += row
    place += column
    # uint8 arithmetic modulo 256 gives the sum exactly, as the true one lies in 0..255. torch adds in place in
    # one pass, where NumPy gathers, adds and scatters.
    torch.from_numpy(out.reshape(-1)).index_add_(
        0, torch.from_numpy(place.view(np.int32)), torch.from_numpy(difference)
    )

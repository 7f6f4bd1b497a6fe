"""Frames as they are: only the indexing saves memory (the paper's Half)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs.base import Buffer, Codec, Frame
from diffreplay.errors import CorruptDataError


class RawCodec(Codec):
    """Stores every frame raw.

    Examples:
        >>> buffer = diffreplay.ReplayBuffer(1000, (3, 16, 16), (2,), codec=diffreplay.codecs.RawCodec())
    """

    name = "raw"

    def encode(self, frame: Frame, reference: Any = None) -> None:
        """Always None: the frame is to be stored raw."""

    def decode(self, data: Buffer, lengths: NDArray[np.intp], reference: Any, out: NDArray[np.uint8]) -> None:
        """Never finds anything to decode: raw frames do not come here."""
        raise CorruptDataError(f"expected raw frames only, got {len(lengths)} coded ones")

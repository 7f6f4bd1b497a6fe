"""Which frames an image is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import DTypeLike

from diffreplay.errors import InputError
from diffreplay.parts import ArraySpec, Part


def image_of(
    name: str, shape: Sequence[int], dtype: DTypeLike, frame_stack: int | None = None, *, channels_first: bool = True
) -> Part:
    """Find the frames in observations of a shape.

    The frames of a stack lie one after the other along the axis of channels: with a multiple of 3 channels they are
    taken for RGB frames, else for gray ones, unless `frame_stack` says otherwise; the first observations show whether
    that is so (see `FrameWatch`). A wrong guess costs compression, never exactness. With more than three axes the
    frames of a stack lie along the first one. Observations of one or two axes are one frame.

    Args:
        name: of the part.
        shape: of an observation.
        dtype: uint8 or uint16.
        frame_stack: frames in an observation, or None to guess it.
        channels_first: where the channels of three axes are; else they are last.

    Returns:
        a part, whose observations are those of the shape with another one where they do not have three axes.

    Raises:
        InputError: `frame_stack` does not divide the channels.
    """
    if len(shape) < 3:
        if frame_stack not in (None, 1):
            raise InputError(
                f"frame_stack: expected 1 or None for observations of shape {tuple(shape)}, got {frame_stack}"
            )
        return Part(name, ArraySpec((*shape, 1)[:2], dtype, "HW"), 1)
    layout = "CHW" if len(shape) > 3 or channels_first else "HWC"
    channels = shape[layout.index("C")]
    if frame_stack is None:
        frame_stack = channels // 3 if channels % 3 == 0 and len(shape) == 3 else channels
    if isinstance(frame_stack, bool) or not isinstance(frame_stack, int | np.integer) or frame_stack < 1:
        raise InputError(f"frame_stack: expected a positive integer or None, got {frame_stack!r}")
    if channels % frame_stack:
        raise InputError(f"frame_stack: expected a divisor of the {channels} channels, got {frame_stack}")
    sides = (*shape[:2], int(np.prod(shape[2:], dtype=int)))
    return with_channels(Part(name, ArraySpec(sides, dtype, layout), 1), channels // int(frame_stack))


def channels_of(part: Part) -> int:
    """Channels of an observation."""
    return part.frame_stack * part.spec.shape[part.spec.layout.index("C")] if "C" in part.spec.layout else 1


def with_channels(part: Part, channels: int) -> Part:
    """The same observations as frames of so many channels."""
    sides = list(part.spec.shape)
    sides[part.spec.layout.index("C")] = channels
    spec = ArraySpec(sides, part.spec.dtype, part.spec.layout)
    return replace(part, spec=spec, frame_stack=channels_of(part) // channels)

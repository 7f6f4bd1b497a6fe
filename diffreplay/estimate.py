"""How large a full buffer will be, from a few hundred frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from diffreplay import checks, codecs
from diffreplay.codecs import STARTUP_SETS, select_references
from diffreplay.errors import InputError
from diffreplay.parts import ArraySpec, Part
from diffreplay.replay import ReplayBuffer
from diffreplay.stats import ReplayStats
from diffreplay.store import BLOCK_ROWS, LOG_EXTENT_BYTES, PAGE, Counter, FrameStore, append

FOLDS = 5


def estimate(
    frames: NDArray[Any] | Mapping[str, NDArray[Any]],
    capacity: int,
    *,
    action_shape: tuple[int, ...] = (1,),
    action_dtype: DTypeLike = "float32",
    frame_stack: int = 3,
    codec: str | codecs.Codec = codecs.DEFAULT,
    episode_length: int = 1000,
    specs: ArraySpec | Mapping[str, ArraySpec] | None = None,
    extras: Mapping[str, ArraySpec] | None = None,
) -> ReplayStats:
    """Predict `ReplayBuffer.stats()` of a full buffer.

    For a codec with shared reference frames, a fifth of the frames at a time is coded against references chosen
    from the others; frames spread over several episodes predict best. Otherwise the frames are stored as one
    episode, for which they should follow each other.

    Args:
        frames: (N, C, H, W) or (N, H, W) uint8, single frames rather than stacks; a few hundred. Or, for observations
            of several parts, a mapping from their names to such arrays of single steps, (N, *shape) each.
        capacity: transitions in the full buffer.
        action_shape: shape of one action.
        action_dtype: dtype of actions.
        frame_stack: frames in an observation.
        codec: as for `ReplayBuffer`.
        episode_length: steps in an episode, at least 2; each has one frame more than transitions.
        specs: of the buffer, where a layout is not the one that an `ArraySpec` has unless told; in a mapping, of the
            parts that need it.
        extras: as for `ReplayBuffer`.

    Raises:
        InputError: `frames` has another dtype or shape, or is too few; or another argument makes no sense.

    Examples:
        >>> noise = np.random.default_rng(0).integers(0, 255, (40, 3, 16, 16), "uint8")
        >>> stats = diffreplay.estimate(noise, 1_000_000, frame_stack=3)
        >>> f"{stats.compression_ratio:.1f}x, as each frame is stored once"
        '3.0x, as each frame is stored once'
    """
    capacity, frame_stack = checks.positive("capacity", capacity), checks.positive("frame_stack", frame_stack)
    episode_length = checks.at_least(2, "episode_length", episode_length)
    arrays, shape = _arrays(frames, specs)
    replay = ReplayBuffer(
        capacity,
        shape,
        action_shape,
        action_dtype=action_dtype,
        frame_stack=frame_stack,
        codec=codec,
        extras=extras,
    )
    layout, opened = replay.store.layout, replay.store.codec
    rows = capacity + -(-capacity // (episode_length - 1))
    images = [_stored(part, arrays[part.name]) for part in replay.parts if part.is_image]
    payload = round(rows * sum(_coded_bytes(opened, pixels, frame_stack) for pixels in images))
    references = sets = tables = 0
    for image in layout.images:
        # Later sets are built only where they save more than they take.
        set_bytes, count = opened.set_frames(image.frame_bytes) * image.frame_bytes, min(STARTUP_SETS, rows)
        if set_bytes:
            references, sets = references + count * set_bytes, sets + count
            tables += opened.private_bytes(opened.open_set(bytes(set_bytes), image.frame_shape))
    blocks = (-(-rows // BLOCK_ROWS) + 1) * layout.block_bytes
    stream = replay.store.budget.stream_bytes
    total = layout.header_bytes + blocks + payload + LOG_EXTENT_BYTES + stream + sets * PAGE + 2 * references + tables
    return ReplayStats(
        transitions=capacity,
        frames=rows,
        payload_bytes=payload,
        index_bytes=rows * sum(column.row_bytes for column in layout.index),
        reference_bytes=references,
        scalar_bytes=rows * sum(column.row_bytes for column in layout.scalars[layout.stacked :]),
        total_bytes=total,
        stacked_bytes=capacity * frame_stack * layout.step_bytes,
        column_bytes=rows * sum(column.row_bytes for column in layout.scalars[: layout.stacked]),
    )


def _arrays(frames: Any, specs: Any) -> tuple[dict[str, NDArray[Any]], ArraySpec | dict[str, ArraySpec]]:
    """The arrays (N, *shape) of each part, by name, and what a buffer for them is made of.

    Raises:
        InputError: they are too few, or not what `specs` says.
    """
    if not isinstance(frames, Mapping):
        array = np.asarray(frames)
        if specs is None:
            array = _with_channels(array)
            specs = ArraySpec(array.shape[1:])
        return {"": _checked("frames", array, specs)}, specs
    if specs is not None and not (isinstance(specs, Mapping) and set(specs) <= set(frames)):
        raise InputError(f"specs: expected a mapping from names of {sorted(frames)} to ArraySpecs, got {specs!r:.300}")
    arrays = {name: np.asarray(array) for name, array in frames.items()}
    found = {
        name: specs[name] if specs and name in specs else _spec(f"frames[{name!r}]", array)
        for name, array in arrays.items()
    }
    checked = {name: _checked(f"frames[{name!r}]", array, found[name]) for name, array in arrays.items()}
    counts = {name: len(array) for name, array in checked.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"frames: expected arrays of as many steps each, got {counts}")
    return checked, found


def _spec(name: str, array: NDArray[Any]) -> ArraySpec:
    """What an array of steps holds, by its shape and dtype alone."""
    try:
        return ArraySpec(array.shape[1:], array.dtype)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _checked(name: str, array: NDArray[Any], spec: Any) -> NDArray[Any]:
    """An array of a few steps of what `spec` says."""
    if not isinstance(spec, ArraySpec):
        raise InputError(f"specs: expected an ArraySpec for {name}, got {spec!r:.300}")
    same = array.dtype.newbyteorder("<") == np.dtype(spec.dtype) and array.shape[1:] == spec.shape
    if not same or array.ndim == 0 or len(array) < 4 * FOLDS:
        raise InputError(
            f"{name}: expected at least {4 * FOLDS} steps of {np.dtype(spec.dtype)} and shape {spec.shape}, got "
            f"{array.dtype} of shape {array.shape}"
        )
    return array.astype(spec.dtype, copy=False)


def _stored(part: Part, array: NDArray[Any]) -> NDArray[np.uint8]:
    """Frames of an image as they are stored, (N, H, W, C)."""
    one = Part(part.name, part.spec, 1, part.channels_first)
    return np.concatenate([one.stored(one.stack(frame)) for frame in array])


def _with_channels(frames: NDArray[Any]) -> NDArray[np.uint8]:
    """Frames (N, C, H, W), if that is what they are or might be."""
    if frames.ndim == 3:
        frames = frames[:, None]
    if frames.dtype != np.uint8 or frames.ndim != 4 or len(frames) < 4 * FOLDS:
        raise InputError(
            f"frames: expected at least {4 * FOLDS} uint8 frames (N, C, H, W) or (N, H, W), got {frames.dtype} of "
            f"shape {frames.shape}"
        )
    return frames


def _coded_bytes(codec: codecs.Codec, pixels: NDArray[np.uint8], frame_stack: int) -> float:
    """Mean coded size of frames (N, H, W, C)."""
    pixels = np.ascontiguousarray(pixels)
    shape, frame_bytes = pixels.shape[1:], pixels[0].size
    if not codec.set_frames(frame_bytes):
        store = FrameStore([shape], frame_stack, len(pixels) + frame_stack, codec)
        for t in range(len(pixels)):
            stack = pixels[np.maximum(np.arange(t - frame_stack + 1, t + 1), 0)]
            append(store, (stack,), first=t == 0)
        return store.counter(Counter.PAYLOAD_BYTES) / len(pixels)
    sizes = []
    for part in np.array_split(np.arange(len(pixels)), FOLDS):
        others = np.delete(pixels, part, axis=0)
        references = others[select_references([others], codec.set_frames(frame_bytes))]
        opened = codec.open_set(references.tobytes(), shape)
        for frame in pixels[part]:
            blob = codec.encode(frame, opened)
            sizes.append(frame_bytes if blob is None else len(blob))
    return float(np.mean(sizes))

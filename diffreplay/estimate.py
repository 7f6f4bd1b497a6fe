"""How large a full buffer will be, from a few hundred frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from diffreplay import checks, codecs
from diffreplay.codecs import STARTUP_SETS, select_references
from diffreplay.errors import InputError
from diffreplay.replay import ReplayBuffer
from diffreplay.stats import ReplayStats
from diffreplay.store import BLOCK_ROWS, HEADER_BYTES, LOG_EXTENT_BYTES, PAGE, Counter, FrameStore, append

FOLDS = 5


def estimate(
    frames: NDArray[np.uint8],
    capacity: int,
    *,
    action_shape: tuple[int, ...] = (1,),
    action_dtype: DTypeLike = "float32",
    frame_stack: int = 3,
    codec: str | codecs.Codec = codecs.DEFAULT,
    episode_length: int = 1000,
) -> ReplayStats:
    """Predict `ReplayBuffer.stats()` of a full buffer.

    For a codec with shared reference frames, a fifth of the frames at a time is coded against references chosen
    from the others; frames spread over several episodes predict best. Otherwise the frames are stored as one
    episode, for which they should follow each other.

    Args:
        frames: (N, C, H, W) or (N, H, W) uint8, single frames rather than stacks; a few hundred.
        capacity: transitions in the full buffer.
        action_shape: shape of one action.
        action_dtype: dtype of actions.
        frame_stack: frames in an observation.
        codec: as for `ReplayBuffer`.
        episode_length: steps in an episode, at least 2; each has one frame more than transitions.

    Raises:
        InputError: `frames` has another dtype or shape, or is too few; or another argument makes no sense.
    """
    capacity, frame_stack = checks.positive("capacity", capacity), checks.positive("frame_stack", frame_stack)
    episode_length = checks.at_least(2, "episode_length", episode_length)
    frames = _with_channels(frames)
    channels, height, width = frames.shape[1:]
    replay = ReplayBuffer(
        capacity,
        (frame_stack * channels, height, width),
        action_shape,
        action_dtype=action_dtype,
        frame_stack=frame_stack,
        codec=codec,
    )
    layout, opened = replay.store.layout, replay.store.codec
    frame_bytes = layout.frame_bytes
    rows = capacity + -(-capacity // (episode_length - 1))
    payload = round(rows * _coded_bytes(opened, frames, frame_stack))
    set_bytes = opened.set_frames(frame_bytes) * frame_bytes
    sets = min(STARTUP_SETS, rows) if set_bytes else 0
    # Later sets are built only where they save more than they take.
    tables = opened.private_bytes(opened.open_set(bytes(set_bytes), layout.frame_shape)) if set_bytes else 0
    blocks = (-(-rows // BLOCK_ROWS) + 1) * layout.block_bytes
    stack = frame_stack * frame_bytes
    stream = replay.store.budget.stream_bytes
    total = HEADER_BYTES + blocks + payload + LOG_EXTENT_BYTES + stream + sets * (PAGE + 2 * set_bytes) + tables
    return ReplayStats(
        transitions=capacity,
        frames=rows,
        payload_bytes=payload,
        index_bytes=rows * sum(column.row_bytes for column in layout.index),
        reference_bytes=sets * set_bytes,
        scalar_bytes=rows * sum(column.row_bytes for column in layout.scalars),
        total_bytes=total,
        stacked_bytes=capacity * stack,
    )


def _with_channels(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames (N, C, H, W), if that is what they are or might be."""
    frames = np.asarray(frames)
    if frames.ndim == 3:
        frames = frames[:, None]
    if frames.dtype != np.uint8 or frames.ndim != 4 or len(frames) < 4 * FOLDS:
        raise InputError(
            f"frames: expected at least {4 * FOLDS} uint8 frames (N, C, H, W) or (N, H, W), got {frames.dtype} of "
            f"shape {frames.shape}"
        )
    return frames


def _coded_bytes(codec: codecs.Codec, frames: NDArray[np.uint8], frame_stack: int) -> float:
    """Mean coded size of frames (N, C, H, W)."""
    pixels = np.ascontiguousarray(frames.transpose(0, 2, 3, 1))
    shape, frame_bytes = pixels.shape[1:], pixels[0].size
    if not codec.set_frames(frame_bytes):
        store = FrameStore(shape, frame_stack, len(frames) + frame_stack, codec)
        for t in range(len(frames)):
            stack = frames[np.maximum(np.arange(t - frame_stack + 1, t + 1), 0)]
            append(store, stack, first=t == 0)
        return store.counter(Counter.PAYLOAD_BYTES) / len(frames)
    sizes = []
    for part in np.array_split(np.arange(len(frames)), FOLDS):
        others = np.delete(pixels, part, axis=0)
        references = others[select_references([others], codec.set_frames(frame_bytes))]
        opened = codec.open_set(references.tobytes(), shape)
        for frame in pixels[part]:
            blob = codec.encode(frame, opened)
            sizes.append(frame_bytes if blob is None else len(blob))
    return float(np.mean(sizes))

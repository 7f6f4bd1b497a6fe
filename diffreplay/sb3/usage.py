"""What the buffers take, and how a byte cap is shared out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffreplay.errors import InputError
from diffreplay.sb3.images import ImageArray, ImageStore
from diffreplay.sb3.spaces import FrameCut
from diffreplay.stats import ReplayStats
from diffreplay.store import Counter


def buffer_stats(
    stores: Sequence[ImageStore], tables: Sequence[ImageArray], observations: int, plain_bytes: int
) -> ReplayStats:
    """Counts and bytes of a buffer.

    Args:
        stores: one for each image of an observation.
        tables: what finds the observations in them.
        observations: held now; each is a transition.
        plain_bytes: of everything else.
    """
    table_bytes = sum(table.entry_bytes for table in tables)
    rows = [store.frames.head - store.frames.tail for store in stores]
    row_bytes = [sum(column.row_bytes for column in store.frames.layout.index) for store in stores]
    return ReplayStats(
        transitions=observations,
        frames=sum(rows),
        payload_bytes=sum(store.frames.counter(Counter.PAYLOAD_BYTES) for store in stores),
        index_bytes=sum(a * b for a, b in zip(rows, row_bytes, strict=True)) + table_bytes,
        reference_bytes=sum(store.frames.counter(Counter.REFERENCE_BYTES) for store in stores),
        scalar_bytes=plain_bytes,
        total_bytes=sum(store.nbytes for store in stores) + table_bytes + plain_bytes,
        stacked_bytes=observations * sum(observation_bytes(store.cut) for store in stores),
    )


def observation_bytes(cut: FrameCut) -> int:
    """Bytes of one observation as a plain array."""
    height, width, channels = cut.frame_shape
    return cut.frame_stack * height * width * channels


def share_bytes(max_bytes: int | None, fixed_bytes: int, cuts: Mapping[str, FrameCut]) -> dict[str, int | None]:
    """What a cap leaves for the frames of each image, in proportion to their raw sizes.

    Args:
        max_bytes: cap on the whole buffer, or None.
        fixed_bytes: of all arrays, which are allocated from the start.
        cuts: the images.

    Raises:
        InputError: nothing is left.
    """
    if max_bytes is None:
        return dict.fromkeys(cuts)
    sizes = {key: observation_bytes(cut) for key, cut in cuts.items()}
    left = max_bytes - fixed_bytes
    if left <= 0:
        raise InputError(
            f"max_bytes: expected more than the {fixed_bytes} bytes that all but the images takes for this many steps, "
            f"got {max_bytes}; raise it or lower the buffer's size"
        )
    return {key: left * size // sum(sizes.values()) for key, size in sizes.items()}

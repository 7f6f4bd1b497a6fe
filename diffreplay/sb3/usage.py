"""What the buffers take, and how a byte cap is shared out."""

from __future__ import annotations

from collections.abc import Sequence

from diffreplay.errors import InputError
from diffreplay.parts import Part
from diffreplay.stats import ReplayStats
from diffreplay.store import Counter
from diffreplay.tables import ImageStore, ImageTable


def buffer_stats(
    stores: Sequence[ImageStore], tables: Sequence[ImageTable], observations: int, plain_bytes: int
) -> ReplayStats:
    """Counts and bytes of a buffer.

    Args:
        stores: of the images of an observation.
        tables: what finds the observations in them.
        observations: held now; each is a transition.
        plain_bytes: of everything else.
    """
    table_bytes = sum(table.nbytes for table in tables)
    rows = [store.frames.head - store.frames.tail for store in stores]
    row_bytes = [sum(column.row_bytes for column in store.frames.layout.index) for store in stores]
    return ReplayStats(
        transitions=observations,
        frames=sum(count * len(store.parts) for count, store in zip(rows, stores, strict=True)),
        payload_bytes=sum(store.frames.counter(Counter.PAYLOAD_BYTES) for store in stores),
        index_bytes=sum(a * b for a, b in zip(rows, row_bytes, strict=True)) + table_bytes,
        reference_bytes=sum(store.frames.counter(Counter.REFERENCE_BYTES) for store in stores),
        scalar_bytes=plain_bytes,
        total_bytes=sum(store.nbytes for store in stores) + table_bytes + plain_bytes,
        stacked_bytes=observations * sum(observation_bytes(store.parts) for store in stores),
    )


def observation_bytes(parts: Sequence[Part]) -> int:
    """Bytes of the images of one observation as plain arrays."""
    return sum(part.frame_stack * part.frame_bytes for part in parts)


def share_bytes(max_bytes: int | None, fixed_bytes: int, groups: Sequence[Sequence[Part]]) -> list[int | None]:
    """What a cap leaves for the frames of each store, in proportion to their raw sizes.

    Args:
        max_bytes: cap on the whole buffer, or None.
        fixed_bytes: of all arrays, which are allocated from the start.
        groups: the images of each store.

    Raises:
        InputError: nothing is left.
    """
    if max_bytes is None:
        return [None] * len(groups)
    left = max_bytes - fixed_bytes
    if left <= 0:
        raise InputError(
            f"max_bytes: expected more than the {fixed_bytes} bytes that all but the images takes for this many steps, "
            f"got {max_bytes}; raise it or lower the buffer's size"
        )
    sizes = [observation_bytes(parts) for parts in groups]
    return [left * size // sum(sizes) for size in sizes]

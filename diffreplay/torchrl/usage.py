"""What a storage takes."""

from __future__ import annotations

from collections.abc import Iterable

from diffreplay.stats import ReplayStats
from diffreplay.store import Counter
from diffreplay.torchrl.images import CodedImages


def storage_stats(cameras: Iterable[CodedImages], items: int, plain_bytes: int) -> ReplayStats:
    """Counts and bytes of a storage.

    Args:
        cameras: its images.
        items: held now; each is a transition.
        plain_bytes: of everything else.
    """
    all_images = list(cameras)
    stores = [images.store.frames for images in all_images]
    rows = [frames.head - frames.tail for frames in stores]
    tables = sum(table.nbytes for images in all_images for table in images.tables)
    index = sum(n * sum(column.row_bytes for column in f.layout.index) for n, f in zip(rows, stores, strict=True))
    image_bytes = sum(len(one.tables) * one.part.frame_stack * one.part.frame_bytes for one in all_images)
    return ReplayStats(
        transitions=items,
        frames=sum(rows),
        payload_bytes=sum(frames.counter(Counter.PAYLOAD_BYTES) for frames in stores),
        index_bytes=index + tables,
        reference_bytes=sum(frames.counter(Counter.REFERENCE_BYTES) for frames in stores),
        scalar_bytes=plain_bytes,
        total_bytes=sum(images.nbytes for images in all_images) + plain_bytes,
        stacked_bytes=items * image_bytes,
    )

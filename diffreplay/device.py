"""Batches on a GPU, copied while the update before them runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from diffreplay.batch import ReplayBatch


def batches_on(batches: Iterable[ReplayBatch], device: torch.device | str) -> Iterator[ReplayBatch]:
    """The batches on `device`, in their order.

    On a CUDA device each is copied one step ahead, from page-locked memory and on a stream of its own, so that the
    copy of the next batch and the work on the present one go on at the same time. So the buffer is sampled one
    batch earlier than the batch is used.

    Args:
        batches: of a loader, in the CPU's memory, pinned or not.
        device: where they are wanted.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return (batch.to(device) for batch in batches)
    return _one_ahead(iter(batches), device)


def _one_ahead(batches: Iterator[ReplayBatch], device: torch.device) -> Iterator[ReplayBatch]:
    side = torch.cuda.Stream(device)

    def copy(batch: ReplayBatch) -> tuple[ReplayBatch, torch.cuda.Event]:
        pinned = batch if batch.window.is_pinned() else batch.pin_memory()
        with torch.cuda.stream(side):
            return pinned.to(device, non_blocking=True), side.record_event()

    ahead = copy(next(batches))
    for batch in batches:
        present, ahead = ahead, copy(batch)
        yield _arrived(*present, device)
    yield _arrived(*ahead, device)


def _arrived(batch: ReplayBatch, copied: torch.cuda.Event, device: torch.device) -> ReplayBatch:
    """Have the present stream wait for the copy, and keep the batch's memory until that stream is done with it."""
    stream = torch.cuda.current_stream(device)
    stream.wait_event(copied)
    for tensor in (batch.window, batch.action, batch.reward, batch.discount):
        tensor.record_stream(stream)
    return batch

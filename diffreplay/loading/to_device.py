"""Batches on a GPU, copied while the update before them runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar, cast

import torch

from diffreplay.batch import ReplayBatch, SequenceBatch
from diffreplay.loading.loader import ReplayIterator

Batch = TypeVar("Batch", bound=ReplayBatch | SequenceBatch)


def batches_on(batches: Iterable[Batch], device: torch.device | str) -> Iterator[Batch]:
    """The batches on `device`, in their order.

    On a CUDA device each is copied one step ahead, from page-locked memory and on a stream of its own, so that the
    copy of the next batch and the work on the present one go on at the same time. So the buffer is sampled one
    batch earlier than the batch is used. The slots that a loader's workers draw into are page-locked for that, so that
    nothing is copied on the way; other batches are copied to page-locked memory first, unless they lie there.

    Args:
        batches: of a loader, in the CPU's memory, pinned or not.
        device: where they are wanted.

    Examples:
        >>> loader = diffreplay.make_replay_loader(replay, 32, num_workers=0)
        >>> batch = next(diffreplay.batches_on(loader, "cpu"))
    """
    device = torch.device(device)
    found = iter(batches)
    if device.type == "cuda" and isinstance(found, ReplayIterator):
        found = found.page_locked(device)
    source = _Source(found)
    moved = _Moved(source, device) if device.type != "cuda" else _OneAhead(source, device)
    return cast("Iterator[Batch]", moved)


class _Source:
    """Batches, of which the next is held until it is marked as used: an exception meanwhile does not lose it."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches, self.held = batches, None

    held: Any | None

    def next(self) -> Any | None:
        """The next batch, the same one until `held` is None again; None at the end."""
        if self.held is None:
            # Stores it as it comes out; after a call of next(), an interrupt could come first.
            for self.held in self._batches:  # noqa: B020
                break
        return self.held


class _Moved(Iterator[Any]):
    """Each batch moved when it is asked for."""

    def __init__(self, source: _Source, device: torch.device) -> None:
        self._source, self._device = source, device

    def __next__(self) -> Any:
        batch = self._source.next()
        if batch is None:
            raise StopIteration
        moved = batch.to(self._device)
        self._source.held = None; return moved  # noqa: E702  # fmt: skip


class _Copy(NamedTuple):
    """A batch on its way: what arrives, when that is, and where it comes from."""

    batch: Any
    copied: torch.cuda.Event
    source: Any


class _OneAhead(Iterator[Any]):
    """Each batch copied to a CUDA device while the one before it is used."""

    def __init__(self, source: _Source, device: torch.device) -> None:
        self._source, self._device = source, device
        self._side = torch.cuda.Stream(device)
        self._ahead: _Copy | None = None

    def __next__(self) -> Any:
        if self._ahead is None:
            first = self._copy_next()
            self._ahead, self._source.held = first, None
        if self._ahead is None:
            raise StopIteration
        following = self._copy_next()
        self._ahead.copied.synchronize()  # it began a batch ago; now what it was copied from may be used again
        present = _arrived(self._ahead, self._device)
        self._ahead, self._source.held = following, None; return present  # noqa: E702  # fmt: skip

    def _copy_next(self) -> _Copy | None:
        batch = self._source.next()
        if batch is None:
            return None
        locked = all(window.is_pinned() for window in batch.windows.values())
        pinned = batch if locked else batch.pin_memory()
        with torch.cuda.stream(self._side):
            return _Copy(pinned.to(self._device, non_blocking=True), self._side.record_event(), pinned)


def _arrived(copy: _Copy, device: torch.device) -> Any:
    """Have the present stream wait for the copy, and keep the batch's memory until that stream is done with it."""
    stream = torch.cuda.current_stream(device)
    stream.wait_event(copy.copied)
    batch = copy.batch
    for tensor in batch.tensors():
        tensor.record_stream(stream)
    return batch

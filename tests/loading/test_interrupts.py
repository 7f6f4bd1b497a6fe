"""Whatever exception comes out of `next`, the following `next` gives the batch that is next in order."""

from __future__ import annotations

import gc
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import pytest
import torch
from processes import kill

import diffreplay
from tests.loading.test_loader import pids, replay  # noqa: F401
from tests.loading.test_to_device import DEVICES

T = TypeVar("T")
ROOM = Path(diffreplay.__file__).parent / "loading"
INTERRUPTED = {
    "loader.py",
    "prefetch.py",
    "supervision.py",
    "serving.py",
    "slots.py",
    "worker_process.py",
    "to_device.py",
}
KINDS = [
    {"num_workers": 0},
    {"num_workers": 2, "threads": True},
    {"num_workers": 2, "multiprocessing_context": "fork"},
    {"num_workers": 1, "multiprocessing_context": "forkserver", "persistent_workers": True},
]


class Interrupt(BaseException):
    """As KeyboardInterrupt, but pytest would take that for its own."""


def loader(replay: diffreplay.ReplayBuffer, **options: Any) -> diffreplay.loading.loader.ReplayLoader:  # noqa: F811
    return diffreplay.make_replay_loader(replay, batch_size=4, seed=5, **options)


def expected(replay: diffreplay.ReplayBuffer, count: int) -> list[torch.Tensor]:  # noqa: F811
    batches = iter(loader(replay, num_workers=0))
    return [next(batches).window for _ in range(count)]


class AtLine:
    """Raises Interrupt in this thread before the given line, counted from here, of the loader's modules is run."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __enter__(self) -> AtLine:
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        path = Path(frame.f_code.co_filename)
        return self._line if path.parent == ROOM and path.name in INTERRUPTED else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise Interrupt
        return self._line


def apart(call: Callable[[], T]) -> T:
    """What a call returns; it runs in a generator, with which what Python still handles there goes.

    An exception of a tracer at the end of a `with` block, where that has just suppressed another one, leaves Python
    (3.11) handling that other one for good: it would hold the frames that it came through, and a batch in them.
    """
    return next(call() for _ in (0,))


def check_slots(batches: Iterator[diffreplay.ReplayBatch], number: int) -> None:
    """Every slot is free or for one of the batches to come, once no batch is held."""
    gc.collect()
    prefetcher = batches._prefetcher  # type: ignore[attr-defined]
    if prefetcher is not None:
        coming = {task.number for task in prefetcher._tasks if task} & set(range(number, number + prefetcher._ahead))
        assert len(coming) + len(prefetcher._free(number)) == prefetcher._slots.count


@pytest.mark.parametrize("device", [None, *DEVICES])
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_an_interrupt_at_any_line_loses_no_batch_and_no_slot(
    replay: diffreplay.ReplayBuffer,  # noqa: F811
    options: dict[str, Any],
    device: str | None,
) -> None:
    wanted = expected(replay, 500)
    source = iter(loader(replay, **options))
    batches = diffreplay.batches_on(source, device) if device else source
    number = interrupts = 0
    for line in range(1, len(wanted)):
        try:
            with AtLine(line):
                batch = apart(lambda: next(batches))
            uninterrupted = True
        except Interrupt:
            interrupts += 1
            uninterrupted = False
            batch = next(batches)
        assert torch.equal(batch.window.cpu(), wanted[number]), f"batch {number} after an interrupt at line {line}"
        number += 1
        if uninterrupted and line > 100:
            break
    assert interrupts >= (5 if not options["num_workers"] else 60)
    del batch
    batches = source
    ahead = source._loader.state_dict()["delivered"] - number  # on a GPU, one batch is copied ahead
    check_slots(source, number + ahead)


@pytest.mark.parametrize("options", KINDS[1:3], ids=str)
def test_an_interrupt_while_workers_start_loses_nothing(
    replay: diffreplay.ReplayBuffer,  # noqa: F811
    options: dict[str, Any],
) -> None:
    wanted, interrupts = expected(replay, 3), 0
    for line in range(1, 2000, 19):
        interrupted, batches = loader(replay, **options), None
        try:
            with AtLine(line):
                batches = apart(lambda: iter(interrupted))  # noqa: B023
                apart(lambda: next(batches))  # noqa: B023
            break
        except Interrupt:
            interrupts += 1
        batches = batches or iter(interrupted)
        assert all(torch.equal(next(batches).window, window) for window in wanted)
        check_slots(batches, len(wanted))
    assert interrupts > 10


def test_an_interrupt_while_a_worker_that_died_is_replaced_loses_nothing(
    replay: diffreplay.ReplayBuffer,  # noqa: F811
) -> None:
    wanted, interrupts = expected(replay, 600), 0
    batches = iter(loader(replay, num_workers=1, multiprocessing_context="fork"))
    numbers = iter(range(len(wanted)))

    def check_next() -> None:
        batch = next(batches)
        assert torch.equal(batch.window, wanted[next(numbers)])

    check_next()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for line in range(40, 160, 2):
            kill(*pids(batches))
            for number in numbers:  # until its death is noticed
                try:
                    with AtLine(line):
                        batch = apart(lambda: next(batches))
                except Interrupt:
                    interrupts += 1
                    batch = next(batches)
                assert torch.equal(batch.window, wanted[number])
                if number % 4 == 3:
                    break
            check_next()
            check_next()
    assert interrupts > 10


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_alarms_at_random_moments_lose_no_batch_and_no_slot(
    replay: diffreplay.ReplayBuffer,  # noqa: F811
    options: dict[str, Any],
) -> None:
    wanted, rng = expected(replay, 400), random.Random(0)
    batches = iter(loader(replay, **options))

    def handle(signum: int, frame: FrameType | None) -> None:
        while frame is not None:  # one that comes when the batch is the caller's already is the caller's
            if frame.f_code.co_name == "__next__" and Path(frame.f_code.co_filename).parent == ROOM:
                raise Interrupt
            frame = frame.f_back

    before, interrupts, took = signal.signal(signal.SIGALRM, handle), 0, 1e-3
    try:
        for number, window in enumerate(wanted):
            while True:
                begin = time.perf_counter()
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + took * rng.random() * rng.choice([0.5, 2, 8]))
                try:
                    batch = next(batches)
                    took = time.perf_counter() - begin
                    break
                except Interrupt:
                    interrupts += 1
                    took *= 1.2  # later at each, so that on a machine however slow the batch comes through
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert torch.equal(batch.window, window), f"batch {number}"
            if rng.random() < 0.3:
                time.sleep(0.002)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts > 20
    del batch
    check_slots(batches, len(wanted))

"""Batches on a device: on a machine without a GPU only the CPU's path can be run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import diffreplay
from diffreplay.loading.page_lock import lock_pages
from diffreplay.loading.to_device import batches_on

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=gpu)]
LOADERS: list[dict[str, Any]] = [
    {"num_workers": 0},
    {"num_workers": 2, "threads": True},
    {"num_workers": 2, "multiprocessing_context": "forkserver"},
    {"num_workers": 1, "multiprocessing_context": "spawn"},
    {"num_workers": 2, "multiprocessing_context": "fork"},
]
COUNT = 40


@pytest.fixture
def replay() -> diffreplay.ReplayBuffer:
    buffer = diffreplay.ReplayBuffer(200, (3, 12, 12), (2,))
    rng = np.random.default_rng(0)
    stacks = np.lib.stride_tricks.sliding_window_view(rng.integers(0, 256, (102, 12, 12), np.uint8), 3, axis=0)
    stacks = np.ascontiguousarray(stacks.transpose(0, 3, 1, 2))
    for t in range(len(stacks) - 1):
        buffer.add_transition(stacks[t], [t, t], t, stacks[t + 1], False, False)
    return buffer


def batches(replay: diffreplay.ReplayBuffer, **options: Any) -> Iterator[diffreplay.ReplayBatch]:
    return iter(diffreplay.make_replay_loader(replay, batch_size=16, seed=1, **options))


def check(found: list[list[torch.Tensor]], replay: diffreplay.ReplayBuffer) -> None:
    """The batches are the first ones, as they are drawn in this process."""
    for number, (ours, right) in enumerate(zip(found, batches(replay, num_workers=0), strict=False)):
        for a, b in zip(ours, right, strict=True):
            assert torch.equal(a.cpu(), b), f"batch {number}"


def delay(device: str) -> None:
    """Keep a GPU's present stream busy, so that what is called next on it runs later."""
    if device == "cuda":
        torch.cuda._sleep(5_000_000)


@gpu
@pytest.mark.parametrize("pin_memory", [True, False])
@pytest.mark.parametrize("kept", [0, 3, COUNT])
@pytest.mark.parametrize("options", LOADERS, ids=str)
def test_batches_on_a_gpu_that_is_behind_are_unchanged(
    replay: diffreplay.ReplayBuffer, options: dict[str, Any], kept: int, pin_memory: bool
) -> None:
    torch.zeros(1, device="cuda")  # CUDA is in use when the workers start
    check_order(replay, "cuda", kept, {"pin_memory": pin_memory, **options})


@pytest.mark.parametrize("device", DEVICES)
def test_batches_come_in_their_order_and_unchanged(replay: diffreplay.ReplayBuffer, device: str) -> None:
    check_order(replay, device, 3, {"num_workers": 2, "threads": True})


def check_order(replay: diffreplay.ReplayBuffer, device: str, kept: int, options: dict[str, Any]) -> None:
    """Batches on a device are those of the loader, when they are used and for as long as they are held."""
    moved = batches_on(batches(replay, **options), device)
    held: deque[diffreplay.ReplayBatch] = deque(maxlen=kept)
    used = []
    for batch in (next(moved) for _ in range(COUNT)):
        assert batch.window.device.type == device
        delay(device)
        used.append([tensor.clone() for tensor in batch])
        held.append(batch)
        del batch
    check(used, replay)
    for batch, copy in zip(held, used[COUNT - kept :], strict=True):
        assert all(map(torch.equal, batch, copy))


@gpu
@pytest.mark.parametrize("pin_memory", [True, False])
@pytest.mark.parametrize("options", LOADERS, ids=str)
def test_a_batch_may_be_dropped_while_its_copy_waits(
    replay: diffreplay.ReplayBuffer, options: dict[str, Any], pin_memory: bool
) -> None:
    source, moved = batches(replay, pin_memory=pin_memory, **options), []
    for _ in range(COUNT):
        delay("cuda")
        moved.append(list(next(source).to("cuda", non_blocking=True)))
    check(moved, replay)


@gpu
def test_each_batch_may_be_used_on_another_stream(replay: diffreplay.ReplayBuffer) -> None:
    moved = batches_on(batches(replay, num_workers=2, threads=True, pin_memory=True), "cuda")
    used = []
    for _ in range(COUNT):
        with torch.cuda.stream(torch.cuda.Stream()):
            batch = next(moved)
            delay("cuda")
            used.append([tensor.clone() for tensor in batch])
            del batch
    torch.cuda.synchronize()
    check(used, replay)


@gpu
@pytest.mark.parametrize("pin_memory", [True, False])
def test_the_next_batch_is_copied_while_the_gpu_works(replay: diffreplay.ReplayBuffer, pin_memory: bool) -> None:
    moved = batches_on(batches(replay, num_workers=2, threads=True, pin_memory=pin_memory), "cuda")
    for _ in range(4):  # memory for batches is taken once
        next(moved)
    torch.cuda.synchronize()
    worked = torch.cuda.Event()
    torch.cuda._sleep(3_000_000_000)
    worked.record()
    asked = [next(moved) for _ in range(3)]
    copied = moved._ahead[1]  # type: ignore[attr-defined]
    copied.synchronize()
    assert not worked.query(), "the trainer, or the copy, waited for the GPU's work"
    torch.cuda.synchronize()
    assert len(asked) == 3


@gpu
@pytest.mark.parametrize("name", [lambda: "cuda:0", lambda: torch.device("cuda", 0), lambda: torch.device("cuda")])
def test_a_gpu_is_named_in_any_way(replay: diffreplay.ReplayBuffer, name: Callable[[], Any]) -> None:
    moved = batches_on(batches(replay, num_workers=0), name())
    check([list(next(moved)) for _ in range(3)], replay)


@gpu
@pytest.mark.parametrize("options", LOADERS[1:], ids=str)
def test_the_gpu_copies_from_where_workers_drew(replay: diffreplay.ReplayBuffer, options: dict[str, Any]) -> None:
    source = batches(replay, **options)
    moved = batches_on(source, "cuda")
    for _ in range(COUNT):
        next(moved)
        window = moved._ahead.source.window  # type: ignore[attr-defined]
        slots = source._prefetcher._slots  # type: ignore[attr-defined]
        assert window.is_pinned()
        assert np.shares_memory(window.numpy(), slots.arena.array("u1", (slots.arena.nbytes,), 0))


@gpu
@pytest.mark.parametrize("pin_memory", [True, False])
@pytest.mark.parametrize("another", [True, False])
def test_batches_may_be_dropped_also_where_others_are_copied_from_their_slots(
    replay: diffreplay.ReplayBuffer, another: bool, pin_memory: bool
) -> None:
    loader = diffreplay.make_replay_loader(
        replay, 16, 2, pin_memory=pin_memory, seed=1, threads=True, persistent_workers=True
    )
    source = iter(loader)
    next(batches_on(source, "cuda"))
    if another:
        source = iter(loader)
    right = batches(replay, num_workers=0)
    for _ in range(loader.state_dict()["delivered"]):
        next(right)
    moved = []
    for _ in range(COUNT):
        delay("cuda")
        moved.append(next(source).to("cuda", non_blocking=True))
    for number, batch in enumerate(moved):
        assert torch.equal(batch.window.cpu(), next(right).window), f"batch {number}"


@gpu
def test_loaders_come_and_go(replay: diffreplay.ReplayBuffer) -> None:
    for batch_size in (16, 4, 64, 16, 256, 16) * 3:  # in memory of others, where that was locked, too
        loader = diffreplay.make_replay_loader(replay, batch_size, 2, seed=1, threads=True)
        right = iter(diffreplay.make_replay_loader(replay, batch_size, 0, seed=1))
        moved = batches_on(loader, "cuda")
        for _ in range(12):
            delay("cuda")
            found, expected = next(moved), next(right)
            assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))
        del loader, moved


@gpu
def test_memory_that_cannot_be_locked_does_no_harm() -> None:
    owner, device = Owner(), torch.device("cuda")
    memory = np.zeros(1 << 20, np.uint8)
    assert lock_pages(memory, owner, device)
    assert not lock_pages(memory, owner, device), "CUDA refuses to lock it twice"
    assert torch.ones(3, device=device).sum() == 3
    assert torch.from_numpy(memory).is_pinned()
    del owner
    assert not torch.from_numpy(memory).is_pinned()
    assert torch.ones(3, device=device).sum() == 3


class Owner:
    """Owns memory."""

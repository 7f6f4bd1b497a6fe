"""Batches on a device: on a machine without a GPU only the CPU's path can be run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import diffreplay
from diffreplay.loading.to_device import batches_on


@pytest.fixture
def replay() -> diffreplay.ReplayBuffer:
    buffer = diffreplay.ReplayBuffer(200, (3, 12, 12), (2,))
    rng = np.random.default_rng(0)
    stacks = np.lib.stride_tricks.sliding_window_view(rng.integers(0, 256, (102, 12, 12), np.uint8), 3, axis=0)
    stacks = np.ascontiguousarray(stacks.transpose(0, 3, 1, 2))
    for t in range(len(stacks) - 1):
        buffer.add_transition(stacks[t], [t, t], t, stacks[t + 1], False, False)
    return buffer


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def test_batches_come_in_their_order_and_unchanged(replay: diffreplay.ReplayBuffer, device: str) -> None:
    expected = iter(diffreplay.make_replay_loader(replay, batch_size=16, num_workers=0, seed=1))
    loader = diffreplay.make_replay_loader(replay, batch_size=16, num_workers=2, threads=True, seed=1, pin_memory=True)
    for found, batch in zip(batches_on(loader, device), (next(expected) for _ in range(20)), strict=False):
        assert found.window.device.type == device
        for a, b in zip(found, batch, strict=True):
            assert torch.equal(a.cpu(), b)

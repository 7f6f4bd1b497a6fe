"""Compressed buffers of Stable-Baselines3 under several threads."""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from says import says
from together import run_together

from diffreplay.errors import InputError
from tests.sb3.test_frames import SIDE, make


@pytest.mark.parametrize("codec", ["sparse", "zstd", "delta"])
def test_threads_add_and_sample(codec: str) -> None:
    """Every step's number stands in its pictures and in its reward, whichever thread added it."""
    ours = make((4, SIDE, SIDE), 500, codec=codec)
    noise = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE), np.uint8)

    def marked(number: int) -> np.ndarray:
        picture = noise.copy()
        picture[:, 0, :2] = number % 250, number // 250
        return picture[None]

    def check(observations: th.Tensor, rewards: th.Tensor) -> None:
        marks = observations[:, :, 0, :2].long()
        numbers = marks[..., 0] + 250 * marks[..., 1]
        assert (numbers == rewards.long()).all()
        assert np.array_equal(observations[:, :, 1:].numpy(), np.broadcast_to(noise[:, 1:], (len(rewards), 4, 15, 16)))

    in_step = threading.Barrier(4)

    def add(thread: int) -> None:
        for number in range(thread, 1600, 4):
            if number // 4 % 50 == 0:  # so that none has come to its end long before the others
                in_step.wait(100)
            picture = marked(number)
            ours.add(picture, picture, np.zeros(1, int), np.full(1, number, np.float32), np.zeros(1), [{}])

    def draw() -> None:
        for _ in range(100):
            if ours.size():
                sample = ours.sample(16)
                check(sample.observations, sample.rewards)
                check(sample.next_observations, sample.rewards)
                assert ours.stats().transitions <= 500

    run_together(*(lambda thread=thread: add(thread) for thread in range(4)), draw, draw)
    assert ours.full and set(ours.rewards[:, 0].astype(int) % 4) == {0, 1, 2, 3}
    check(th.as_tensor(ours.observations[:, 0].copy()), th.as_tensor(ours.rewards))


class SlowFile(io.BytesIO):
    """A file that takes its time, in which another thread gets on."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self.meanwhile = meanwhile

    def write(self, data: Any) -> int:
        run_together(self.meanwhile)
        return super().write(data)


def test_saving_beside_a_thread_that_adds_is_refused() -> None:
    ours, rng = make((4, SIDE, SIDE), 400), np.random.default_rng(0)

    def add() -> None:
        noise = rng.integers(0, 256, (1, 4, SIDE, SIDE), np.uint8)
        ours.add(noise, noise, np.zeros(1, int), np.zeros(1), np.zeros(1), [{}])

    for _ in range(400):
        add()
    for change in (add, ours.reset):
        with pytest.raises(InputError) as info:
            pickle.dump(ours, SlowFile(change))
        says(info, "add", "saved", "thread")
    file = SlowFile(lambda: None)
    pickle.dump(ours, file)
    assert pickle.loads(file.getvalue()).size() == ours.size() == 0

"""An actor whose frames carry its number and their own, and what checks them wherever they come out."""

from __future__ import annotations

from typing import Any

import numpy as np

import diffreplay
from diffreplay.distributed import ReplayWriter

SHAPE, SIDE = (2, 36, 36), 36
OPTIONS: dict[str, Any] = {"frame_stack": 2, "action_dtype": "int64"}
SCENE = np.random.default_rng(0).integers(0, 255, (1, SIDE, SIDE), np.uint8)


def frame(writer: int, number: int) -> np.ndarray:
    """A frame that carries its writer and its number."""
    pixels = SCENE.copy()
    y, x = np.random.default_rng(number).integers(0, SIDE - 6, 2)
    pixels[0, y : y + 6, x : x + 6] = number % 251
    pixels[0, 0, :5] = np.array([writer, number, number >> 8, number >> 16, 7]) % 256
    return pixels


class Actor:
    """Runs episodes of 30 steps in streams, whose frames carry what they are."""

    def __init__(self, number: int, writer: ReplayWriter, begin: int = 0) -> None:
        self.number, self.steps, self.writer = number, begin, writer
        self.stacks: dict[int, np.ndarray] = {}
        self.added: set[int] = set()  # numbers of the steps after which adding returned

    def run(self, count: int, streams: int = 1) -> None:
        for _ in range(count):
            for stream in range(streams):
                before = self.stacks.pop(stream, None)
                if before is None:
                    before = np.repeat(self.next_frame(), 2, axis=0)
                after = np.concatenate([before[1:], self.next_frame()])
                ended = self.steps % 30 == 0
                self.writer.add_transition(
                    before, [self.number, self.steps], float(self.steps), after, ended, False, stream
                )
                self.added.add(self.steps)
                if not ended:
                    self.stacks[stream] = after

    def next_frame(self) -> np.ndarray:
        self.steps += 1
        return frame(self.number, self.steps)


def check(replay: diffreplay.ReplayBuffer) -> set[tuple[int, int]]:
    """All transitions that can be sampled: each whole, and none twice."""
    replay.check_invariants()
    starts = replay.indices()
    batch = next(iter(diffreplay.make_replay_loader(replay, len(starts), 0, indices=lambda count, rng: starts)))
    return check_batch(batch)


def check_batch(batch: diffreplay.ReplayBatch, may_repeat: bool = False) -> set[tuple[int, int]]:
    found = [(int(writer), int(number)) for writer, number in batch.action]
    assert may_repeat or len(set(found)) == len(found)
    for k, (writer, number) in enumerate(found):
        assert np.array_equal(batch.next_obs[k, 1:].numpy(), frame(writer, number))
        assert np.array_equal(batch.obs[k, 1].numpy(), batch.next_obs[k, 0].numpy())
        inner = batch.obs[k].numpy()
        for each in inner:
            told = int(each[0, 1]) | int(each[0, 2]) << 8
            assert np.array_equal(each[None], frame(writer, told))
        assert batch.reward[k] == number
    return set(found)

"""Plays a recording into a replay buffer, step by step and over and over, and checks what comes back.

Each step's action holds the step's number, so that every sampled transition says where it came from.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

import diffreplay
from benchmarks.recordings import Frames, Recording
from diffreplay.testing import TimeStep

ACTION_DIM = 6  # as the walker's
DISCOUNT = 0.99


class Playback:
    """The episodes of a recording, then the same mirrored; then both again, moved down by one row more, and so on.

    Args:
        recording: what is played.
        shifts: how many different row shifts there are; 1 moves nothing.
        nstep: of the buffers and transitions.
    """

    def __init__(self, recording: Recording, shifts: int = 1, nstep: int = 1) -> None:
        self.recording, self.shifts, self.nstep = recording, shifts, nstep
        self._starts = np.cumsum([0, *map(len, recording.episodes)])

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """(frame_stack * C, H, W)."""
        _, channels, height, width = self.recording.episodes[0].shape
        return self.recording.frame_stack * channels, height, width

    def buffer(
        self, capacity: int, codec: str | diffreplay.codecs.Codec = diffreplay.codecs.DEFAULT, **options: Any
    ) -> Any:
        """An empty replay buffer for these steps."""
        return diffreplay.ReplayBuffer(
            capacity,
            self.observation_shape,
            (ACTION_DIM,),
            frame_stack=self.recording.frame_stack,
            nstep=self.nstep,
            discount=DISCOUNT,
            codec=codec,
            **options,
        )

    def filled(
        self, count: int, codec: str | diffreplay.codecs.Codec = diffreplay.codecs.DEFAULT, **options: Any
    ) -> Any:
        """A replay buffer that got so many steps, as many as it holds."""
        replay = self.buffer(count, codec, **options)
        self.play(count, replay)
        return replay

    def play(self, count: int, *replays: Any) -> None:
        """Add the first steps to each."""
        for step in islice(self.steps(), count):
            for replay in replays:
                replay.add(step)

    def warm(self) -> None:
        """Let the source of steps take the memory that it needs, so that it does not count as a buffer's."""
        for _ in islice(self.steps(), 2 * self.recording.frames):
            pass
        gc.collect()

    def steps(self, first_episode: int = 0) -> Iterator[TimeStep]:
        """Endless steps, from the start of an episode on."""
        number = first_episode
        while True:
            turn, k = divmod(number, len(self.recording.episodes))
            yield from self._episode(
                self._vary(self.recording.episodes[k], turn), turn * self._starts[-1] + self._starts[k]
            )
            number += 1

    def observation(self, number: int) -> Frames:
        """The observation of step `number`, computed from the recording."""
        turn, place = divmod(number, int(self._starts[-1]))
        k = int(np.searchsorted(self._starts, place, side="right")) - 1
        last = place - int(self._starts[k])
        rows = np.maximum(np.arange(last - self.recording.frame_stack + 1, last + 1), 0)
        return self._vary(self.recording.episodes[k][rows], turn).reshape(self.observation_shape)

    def check(self, batch: Any) -> None:
        """Compare each transition of a batch, a `ReplayBatch` or a list in its order, with the recording.

        Raises:
            RuntimeError: a value is wrong.
        """
        obs, action, reward, _, next_obs = (np.asarray(value) for value in batch)
        for k, number in enumerate(action[:, 0].astype(int).tolist()):
            right = np.array_equal(obs[k], self.observation(number - 1))
            right &= np.array_equal(next_obs[k], self.observation(number + self.nstep - 1))
            rewards = [DISCOUNT**i * ((number + i) % 7) for i in range(self.nstep)]
            if not right or not np.isclose(reward[k], sum(rewards)):
                raise RuntimeError(f"the transition to step {number} came back wrong")

    def _vary(self, frames: Frames, turn: int) -> Frames:
        if turn % 2:
            frames = frames[..., ::-1]
        shift = turn // 2 % self.shifts
        return np.roll(frames, shift, axis=2) if shift else frames

    def _episode(self, frames: Frames, first_number: int) -> Iterator[TimeStep]:
        window = [frames[0]] * self.recording.frame_stack
        for t, frame in enumerate(frames):
            window = [*window[1:], frame]
            action = np.full(ACTION_DIM, first_number + t, np.float32)
            reward = (first_number + t) % 7
            yield TimeStep(np.concatenate(window), action, float(reward), 1.0, t == 0, t == len(frames) - 1)

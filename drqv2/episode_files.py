"""DrQ-v2's episode files: one compressed .npz an episode, with whole stacks, named `<time>_<index>_<length>.npz`.

A file appears whole: it is written aside and then renamed.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from runs.errors import OptionError

FIELDS = ("observation", "action", "reward", "discount")

Episode = dict[str, np.ndarray]


@dataclass(frozen=True)
class EpisodeFile:
    """An episode on disk, `<time>_<index>_<length>.npz`; a length of T transitions means T + 1 steps."""

    path: Path
    index: int
    length: int


def list_episodes(directory: Path) -> list[EpisodeFile]:
    """All complete episodes in `directory`, earliest first."""
    found = []
    for path in directory.glob("*_*_*.npz"):
        _, index, length = path.stem.split("_")
        found.append(EpisodeFile(path, int(index), int(length)))
    return sorted(found, key=lambda file: file.index)


class EpisodeWriter:
    """Collects steps and writes each finished episode as one file.

    Args:
        directory: of the episodes; made if missing. Episodes already there are counted and sampled from.
        observation_shape: of the uint8 observations.
        shares: number of private shares that episodes are dealt to.
        capacity: transitions in a share.
        nstep: shortest episode worth sampling from, in transitions.
    """

    def __init__(
        self, directory: Path, observation_shape: tuple[int, ...], shares: int, capacity: int, nstep: int
    ) -> None:
        self._directory = directory
        self._observation_shape = observation_shape
        self._capacity = capacity
        self._nstep = nstep
        self._steps: list[Any] = []
        # What each share holds, or will once it has looked: lengths, earliest first.
        self._shares: list[deque[int]] = [deque() for _ in range(shares)]
        directory.mkdir(parents=True, exist_ok=True)
        files = list_episodes(directory)
        self._next_index = files[-1].index + 1 if files else 0
        if files:
            self._check_shape(files[-1].path)
        for file in files:
            self._count(file.index, file.length)

    def add(self, time_step: Any) -> None:
        """Append a dm_env step (observation, action, reward, discount); its `last()` writes the episode."""
        self._steps.append(time_step)
        if time_step.last():
            steps, self._steps = self._steps, []
            self._write(steps)

    def _write(self, steps: list[Any]) -> None:
        length = len(steps) - 1
        if length > self._capacity:
            raise OptionError(
                f"replay_buffer_size is too small: an episode has {length} transitions, and each loader worker keeps "
                f"{self._capacity} of them; set it to at least {length * len(self._shares)}"
            )
        arrays: dict[str, Any] = {
            "observation": np.stack([step.observation for step in steps]),
            "action": np.stack([step.action for step in steps]),
            "reward": np.array([[step.reward] for step in steps], np.float32),
            "discount": np.array([[step.discount] for step in steps], np.float32),
        }
        index = self._next_index
        self._next_index += 1
        name = f"{datetime.now():%Y%m%dT%H%M%S}_{index}_{length}"
        unfinished = self._directory / f"{name}.tmp"
        with unfinished.open("wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(unfinished, self._directory / f"{name}.npz")
        self._count(index, length)

    def _count(self, index: int, length: int) -> None:
        if length < self._nstep:
            return
        share = self._shares[index % len(self._shares)]
        share.append(length)
        while sum(share) > self._capacity:
            share.popleft()

    def _check_shape(self, path: Path) -> None:
        shape = load_episode(path)["observation"].shape[1:]
        if shape != self._observation_shape:
            raise OptionError(
                f"{self._directory} holds episodes with observations of shape {shape}, this run has "
                f"{self._observation_shape}: use another run folder (hydra.run.dir) or remove that folder"
            )

    @property
    def transitions(self) -> int:
        """Transitions in all shares together."""
        return sum(sum(share) for share in self._shares)

    @property
    def episodes(self) -> int:
        """Episodes in all shares together."""
        return sum(len(share) for share in self._shares)

    @property
    def every_share_has_one(self) -> bool:
        """Whether each share holds an episode to sample from."""
        return all(self._shares)


def load_episode(path: Path) -> Episode:
    """The arrays of an episode of T transitions, each with T + 1 rows, decoded."""
    # Opened here, because numpy leaves a damaged file open.
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        return {field: file[field] for field in FIELDS}

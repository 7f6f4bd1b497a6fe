"""A worker's private share of DrQ-v2's episodes on disk: kept decoded, and sampled from."""

from __future__ import annotations

import logging
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from drqv2.episode_files import Episode, EpisodeFile, list_episodes, load_episode
from drqv2.workers import end_with_trainer

FETCH_EVERY = 1000  # samples between two looks at the folder
POLL_SECONDS = 0.05

Transition = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]

logger = logging.getLogger(__name__)


class EpisodeShare:
    """The decoded episodes that one worker holds and samples from.

    Args:
        directory: of the episodes.
        worker, num_workers: this share takes the episodes whose index modulo `num_workers` is `worker`.
        capacity: transitions held at most; the earliest episodes leave first.
        nstep, discount: of the returned transitions.
        keep_files: whether an episode's file outlives its loading.
        rng: draws episodes and positions.
    """

    def __init__(
        self,
        directory: Path,
        worker: int,
        num_workers: int,
        capacity: int,
        nstep: int,
        discount: float,
        keep_files: bool,
        rng: np.random.Generator,
    ) -> None:
        self._directory = directory
        self._worker = worker
        self._num_workers = num_workers
        self._capacity = capacity
        self._nstep = nstep
        self._discount = discount
        self._keep_files = keep_files
        self._rng = rng
        self._episodes: dict[int, Episode] = {}
        self._order: list[int] = []
        self._size = 0
        self._newest = -1

    def __len__(self) -> int:
        """Transitions held."""
        return self._size

    def fetch(self) -> None:
        """Load the share's new episodes, newest first, as many as fit."""
        fresh, size = [], 0
        for file in reversed(list_episodes(self._directory)):
            if file.index % self._num_workers != self._worker or file.length < self._nstep:
                continue
            if file.index <= self._newest or size + file.length > self._capacity:
                break
            size += file.length
            fresh.append(file)
        for file in reversed(fresh):
            self._load(file)

    def _load(self, file: EpisodeFile) -> None:
        self._newest = file.index
        try:
            episode = load_episode(file.path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            logger.warning("episode %s cannot be read and is left out: %s", file.path, error)
            return
        while self._size + file.length > self._capacity:
            self._drop_earliest()
        self._episodes[file.index] = episode
        self._order.append(file.index)
        self._size += file.length
        if not self._keep_files:
            file.path.unlink(missing_ok=True)

    def _drop_earliest(self) -> None:
        index = self._order.pop(0)
        length = len(self._episodes.pop(index)["reward"]) - 1
        self._size -= length
        for path in self._directory.glob(f"*_{index}_{length}.npz"):
            path.unlink(missing_ok=True)

    def sample(self) -> Transition:
        """One transition: an episode, then a position in it, each uniformly; observations are views.

        The n-step reward is the sum over i < nstep of reward_{t+1+i} times the discounts before it, and the discount
        is the product of discount_{t+1+i} * gamma.
        """
        episode = self._episodes[self._order[self._rng.integers(len(self._order))]]
        length = len(episode["reward"]) - 1
        start = int(self._rng.integers(length - self._nstep + 1))
        reward, discount = np.zeros(1, np.float32), np.ones(1, np.float32)
        for step in range(start + 1, start + self._nstep + 1):
            reward += discount * episode["reward"][step]
            discount *= episode["discount"][step] * np.float32(self._discount)
        observations = episode["observation"]
        return observations[start], episode["action"][start + 1], reward, discount, observations[start + self._nstep]


class DiskReplayDataset(IterableDataset):
    """Endless single transitions from the share of the worker that iterates; in-process there is one share.

    A worker process without an episode waits for its first; in-process, where waiting would be for ever, that is a
    RuntimeError.
    """

    def __init__(
        self,
        directory: Path,
        num_workers: int,
        capacity: int,
        nstep: int,
        discount: float,
        keep_files: bool,
        seed: int,
    ) -> None:
        self._directory = directory
        self._num_workers = max(1, num_workers)
        self._capacity = capacity
        self._nstep = nstep
        self._discount = discount
        self._keep_files = keep_files
        self._seed = seed

    def __iter__(self) -> Iterator[Transition]:
        info = get_worker_info()
        worker = info.id if info is not None else 0
        if info is not None:
            end_with_trainer()
        share = EpisodeShare(
            self._directory,
            worker,
            self._num_workers,
            self._capacity,
            self._nstep,
            self._discount,
            self._keep_files,
            np.random.default_rng([self._seed, worker]),
        )
        while True:
            share.fetch()
            while not len(share):
                self._wait(in_process=info is None)
                share.fetch()
            for _ in range(FETCH_EVERY):
                yield share.sample()

    def _wait(self, in_process: bool) -> None:
        if in_process:
            raise RuntimeError(f"no episode of at least {self._nstep} transitions in {self._directory} to sample from")
        time.sleep(POLL_SECONDS)

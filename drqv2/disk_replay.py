"""The baseline: DrQ-v2's replay buffer of episodes on disk, with a private share of them in each loader worker.

It follows the published loader (facebookresearch/drqv2) in what it does and stores, so that the compressed buffer is
compared with the real thing: an episode is one compressed file of whole stacks, named by time, index and length; a
worker looks for new ones every 1000 samples, keeps them decoded in its own memory and drops the earliest when its part
of the capacity is full; samples are single transitions that the DataLoader collates. Differences: files appear whole
(written aside, then renamed), workers wait for their first episode, and randomness is a Generator per worker.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from diffreplay import ReplayStats
from drqv2.episode_files import EpisodeWriter
from drqv2.episode_share import DiskReplayDataset
from drqv2.workers import start_server
from runs.errors import OptionError

PREFETCH = 2  # batches a worker makes ahead
SHARED_MEMORY = Path("/dev/shm")


class DiskReplay:
    """The baseline behind `drqv2.replay.Replay`.

    Args:
        directory: of the episodes.
        observation_shape: of the uint8 observations.
        capacity: transitions in all.
        batch_size, nstep, discount, seed: of the batches.
        num_workers: loader processes, each with its private share; 0 samples in-process.
        pin_memory: whether batches arrive in pinned memory.
        keep_files: whether files outlive their loading, for a run that is to be resumed.
    """

    def __init__(
        self,
        directory: Path,
        observation_shape: tuple[int, ...],
        *,
        capacity: int,
        batch_size: int,
        nstep: int,
        discount: float,
        num_workers: int,
        pin_memory: bool,
        keep_files: bool,
        seed: int,
    ) -> None:
        self._observation_bytes = int(np.prod(observation_shape))
        shares = max(1, num_workers)
        self._writer = EpisodeWriter(directory, observation_shape, shares, capacity // shares, nstep)
        dataset = DiskReplayDataset(directory, num_workers, capacity // shares, nstep, discount, keep_files, seed)
        if num_workers:
            _check_shared_memory(num_workers * PREFETCH * batch_size * 2 * self._observation_bytes)
        self._loader: DataLoader = DataLoader(
            dataset,
            batch_size=batch_size,
            num_workers=num_workers,
            prefetch_factor=PREFETCH if num_workers else None,
            pin_memory=pin_memory,
            multiprocessing_context=start_server(__name__) if num_workers else None,
            generator=torch.Generator().manual_seed(seed),
        )

    def __len__(self) -> int:
        return self._writer.transitions

    @property
    def ready(self) -> bool:
        """Whether every worker has an episode, so that no batch is waited for in vain."""
        return self._writer.every_share_has_one

    def add(self, time_step: Any) -> None:
        """Append one dm_env step; see `EpisodeWriter.add`."""
        self._writer.add(time_step)

    def batches(self, device: torch.device) -> Iterator[list[torch.Tensor]]:
        """Start the workers; an endless iterator of batches on `device`."""
        return ([value.to(device, non_blocking=True) for value in batch] for batch in self._loader)

    def stats(self) -> ReplayStats:
        """What the workers hold: observations, decoded."""
        frames = len(self) + self._writer.episodes
        nbytes = frames * self._observation_bytes
        return ReplayStats(
            transitions=len(self),
            frames=frames,
            payload_bytes=nbytes,
            index_bytes=0,
            reference_bytes=0,
            scalar_bytes=0,
            total_bytes=nbytes,
            stacked_bytes=len(self) * self._observation_bytes,
        )

    def save(self) -> dict[str, Any]:
        """Nothing to do: whole episodes are on disk already."""
        return {}

    def close(self) -> None:
        """Nothing to free: the workers end with the iterator, and the files are the run's."""


def _check_shared_memory(needed: int) -> None:
    """Batches travel through /dev/shm, and a full one kills workers with a bus error; say so before."""
    if not SHARED_MEMORY.exists():
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < needed:
        raise OptionError(
            f"the loader's batches need {needed / 1e6:.0f} MB in {SHARED_MEMORY}, where {free / 1e6:.0f} MB are free: "
            "use full_compress=true, replay_buffer_num_workers=0 or a smaller batch_size, or enlarge it (docker run "
            "--shm-size=8g)"
        )

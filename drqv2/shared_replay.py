"""The replay of a run with actors: a shard on Ray, which other processes add to."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

import diffreplay
from diffreplay import distributed
from diffreplay.errors import ReplayError
from drqv2.config import Config
from drqv2.ray_cluster import connect
from drqv2.workers import start_server
from runs.errors import OptionError
from runs.snapshot import cannot_save, check_same_run

SHARD = "shard-0"
LOOK_SECONDS = 2.0  # between two looks at whether the shard began anew


class SharedReplay:
    """A shard behind `Replay`; the actors add to it, with writers of `service`.

    Args:
        service: of the shard, on this machine.
        directory: where it keeps its snapshots.
        batch_size, num_workers, pin_memory, seed: of the loader.
        owns_ray: whether Ray ends with it.
    """

    def __init__(
        self,
        service: distributed.Service,
        directory: Path,
        *,
        batch_size: int,
        num_workers: int,
        pin_memory: bool,
        seed: int,
        owns_ray: bool = False,
    ) -> None:
        self.service, self._directory, self._owns_ray = service, directory, owns_ray
        self._loading: dict[str, Any] = {
            "batch_size": batch_size,
            "num_workers": num_workers,
            "pin_memory": pin_memory,
            "seed": seed,
            "multiprocessing_context": start_server("diffreplay") if num_workers else None,
        }
        self._told: dict[str, Any] = self.service.stats()[0]
        self._looked = time.monotonic()
        self._news: list[str] = []

    def __len__(self) -> int:
        return int(self._look()["transitions"])

    @property
    def ready(self) -> bool:
        """Whether a complete window is there, in the shard that runs now."""
        if time.monotonic() > self._looked + LOOK_SECONDS or not self._told["can_sample"]:
            self._look()
        return bool(self._told["can_sample"])

    def news(self) -> list[str]:
        """What happened to the shard since the last call, in words; then batches are to be begun anew."""
        found, self._news = self._news, []
        return found

    def _look(self) -> dict[str, Any]:
        before, now = self._told, self.service.stats()[0]
        self._told, self._looked = now, time.monotonic()
        if now["life"] != before["life"]:
            self._news.append(
                f"the replay buffer's process died and began anew with {now['transitions']} transitions; it held "
                f"{before['transitions']}"
            )
        return now

    def batches(self, device: torch.device) -> Iterator[Any]:
        """Start the loader; an endless iterator of `diffreplay.ReplayBatch` on `device`."""
        return diffreplay.batches_on(self.service.loader(**self._loading), device)

    def stats(self) -> diffreplay.ReplayStats:
        """What the shard holds, and all that it allocated."""
        told = self._look()
        return diffreplay.ReplayStats(**{field.name: told[field.name] for field in fields(diffreplay.ReplayStats)})

    def save(self) -> dict[str, Any]:
        """Have the shard write what is new to its snapshot.

        Raises:
            OptionError: it cannot be written; what was saved before is as it was.
        """
        try:
            self.service.save(self._directory)
        except ReplayError as error:
            raise OptionError(f"{self._directory} cannot be written: {error}") from error
        except OSError as error:
            raise cannot_save(self._directory, error) from error
        return {"shard": True}

    def close(self) -> None:
        """End the shard, and the connection to Ray if it was made for it."""
        self.service.close()
        if self._owns_ray:
            import ray

            ray.shutdown()


def start(
    config: Config,
    observation_shape: Any,
    action_shape: tuple[int, ...],
    directory: Path,
    pin_memory: bool,
    resumed: bool,
) -> SharedReplay:
    """Connect to Ray and start the shard.

    Args:
        config: of the run.
        observation_shape: as of `ReplayBuffer`.
        action_shape: likewise.
        directory: for snapshots.
        pin_memory: of the loader.
        resumed: whether it goes on from the snapshot in `directory`.

    Raises:
        OptionError: Ray is missing or not there, or an option cannot work, or does not fit the snapshot.
    """
    if resumed:
        _check_saved(config, directory / SHARD)
    owns_ray = connect(config.actors, config.ray_address)
    if not resumed and (directory / SHARD).exists():
        shutil.rmtree(directory / SHARD)  # of a run that ended before its first snapshot was whole
    service = distributed.start(
        config.replay_buffer_size,
        observation_shape,
        action_shape,
        directory=directory if resumed or config.save_snapshot else None,
        frame_stack=config.frame_stack,
        nstep=config.nstep,
        discount=config.discount,
        codec=config.replay_codec,
        max_bytes=config.replay_buffer_max_bytes,
        seed=config.seed,
    )
    return SharedReplay(
        service,
        directory,
        batch_size=config.batch_size,
        num_workers=config.replay_buffer_num_workers,
        pin_memory=pin_memory,
        seed=config.seed,
        owns_ray=owns_ray,
    )


def _check_saved(config: Config, directory: Path) -> None:
    """OptionError where the snapshot is of another buffer than the run's; CorruptDataError where it is damaged."""
    # A shard leaves out what is damaged, as it is to come back by itself; a run is not begun so.
    opened = diffreplay.open(directory, verify=True)
    saved = {
        "replay_buffer_size": opened.capacity,
        "frame_stack": opened.frame_stack,
        "nstep": opened.nstep,
        "discount": opened.reader.discount,
        "codec": opened.codec.name,
    }
    check_same_run(directory, saved, {name: getattr(config, name) for name in saved} | {"codec": config.replay_codec})

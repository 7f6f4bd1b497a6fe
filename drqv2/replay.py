"""The one interface behind which all replay modes sit, so that the training loop does not know which it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

import diffreplay
from diffreplay.errors import ReplayError
from drqv2.config import Config
from drqv2.disk_replay import DiskReplay
from drqv2.observations import STATE, Shape
from drqv2.shared_replay import SharedReplay, start
from drqv2.workers import start_server
from runs.errors import OptionError
from runs.snapshot import cannot_save, check_same_run

ON_DISK = "in episodes on disk"
IN_RAM = "in RAM (full_compress=true or half_compress=true)"
SHARED = "that actors share (actors=1 or more)"


class Replay(Protocol):
    """Batches of n-step transitions of what was added to it."""

    def __len__(self) -> int:
        """Transitions held."""

    @property
    def ready(self) -> bool:
        """Whether a batch can be had without another step being added."""

    def batches(self, device: torch.device) -> Iterator[Iterable[Tensor]]:
        """Start the loader; an endless iterator of (obs, action, reward, discount, next_obs) on `device`."""

    def stats(self) -> diffreplay.ReplayStats:
        """What it holds and takes now."""

    def save(self) -> dict[str, Any]:
        """Put on disk what `make_replay` needs to go on from here, with what this returns as `saved`."""

    def close(self) -> None:
        """Let go of what the buffer holds."""


class OwnReplay(Replay, Protocol):
    """One that this process adds to."""

    def add(self, time_step: Any) -> None:
        """Append one dm_env step with observation, action, reward and discount."""


class CompressedReplay:
    """`diffreplay` behind `Replay`: one copy in RAM for all loader workers.

    Args:
        buffer: the replay buffer, whose one writer this process is.
        directory: where `save` keeps it.
        batch_size, num_workers, pin_memory, seed: of the loader; 0 workers make batches in-process.
    """

    def __init__(
        self,
        buffer: diffreplay.ReplayBuffer,
        directory: Path,
        *,
        batch_size: int,
        num_workers: int,
        pin_memory: bool,
        seed: int,
    ) -> None:
        self._buffer, self._directory = buffer, directory
        self._loader = diffreplay.make_replay_loader(
            buffer,
            batch_size=batch_size,
            num_workers=num_workers,
            pin_memory=pin_memory,
            seed=seed,
            multiprocessing_context=start_server("diffreplay") if num_workers else None,
        )

    def __len__(self) -> int:
        return len(self._buffer)

    @property
    def ready(self) -> bool:
        """Whether a complete window is there; it may be gone again when an episode is evicted."""
        return self._buffer.can_sample()

    def add(self, time_step: Any) -> None:
        """Append one dm_env step."""
        self._buffer.add(time_step)

    def batches(self, device: torch.device) -> Iterator[Iterable[Tensor]]:
        """Start the loader; an endless iterator of `diffreplay.ReplayBatch` on `device`, their windows moved once."""
        return diffreplay.batches_on(self._loader, device)

    def stats(self) -> diffreplay.ReplayStats:
        """What the buffer holds, and all that it allocated."""
        return self._buffer.stats()

    def save(self) -> dict[str, Any]:
        """Write what is new to the snapshot, and tell its commit and the loader's place.

        Raises:
            OptionError: it cannot be written; what was saved before is as it was.
        """
        try:
            return {"commit": self._buffer.save(self._directory), "loader": self._loader.state_dict()}
        except ReplayError as error:
            raise OptionError(f"{self._directory} cannot be written: {error}") from error
        except OSError as error:
            raise cannot_save(self._directory, error) from error

    def go_on(self, saved: dict[str, Any]) -> None:
        """Have the loader go on where `save` was called."""
        self._loader.load_state_dict(saved["loader"])

    def close(self) -> None:
        """The buffer's memory goes with its last reference."""


def check_replay_mode(path: Path, saved: Mapping[str, Any], config: Config) -> None:
    """OptionError where the run of the snapshot `path` kept its replay elsewhere than this one does."""
    was = SHARED if "shard" in saved else IN_RAM if "commit" in saved else ON_DISK
    now = SHARED if config.actors else IN_RAM if config.replay_codec is not None else ON_DISK
    if was != now:
        raise OptionError(
            f"{path} was made with a replay buffer {was}, this run has one {now}: use the same options, or another run "
            "folder (hydra.run.dir)"
        )


def make_replay(
    config: Config,
    observation_shape: Shape | Mapping[str, Shape],
    action_shape: tuple[int, ...],
    directory: Path,
    pin_memory: bool,
    saved: dict[str, Any] | None = None,
) -> OwnReplay | SharedReplay:
    """The replay that `config` asks for; the baseline keeps its episodes under `directory`, the others their snapshot.

    Args:
        saved: what `Replay.save` returned when the run that is resumed was saved.

    Raises:
        OptionError: an option of the replay cannot work.
    """
    if config.replay_codec is None:
        return DiskReplay(
            directory,
            cast(Shape, observation_shape),  # options that make it a mapping are refused by `parse_config`
            capacity=config.replay_buffer_size,
            batch_size=config.batch_size,
            nstep=config.nstep,
            discount=config.discount,
            num_workers=config.replay_buffer_num_workers,
            pin_memory=pin_memory,
            keep_files=config.save_snapshot or saved is not None,
            seed=config.seed,
        )
    if config.actors:
        try:
            return start(
                config,
                _one_frames(observation_shape, config.frame_stack),
                action_shape,
                directory,
                pin_memory,
                resumed=saved is not None,
            )
        except ReplayError as error:
            raise OptionError(f"the replay buffer cannot be made: {error}") from error
    try:
        buffer = (
            _load(config, directory, saved["commit"]) if saved else _new_buffer(config, observation_shape, action_shape)
        )
        replay = CompressedReplay(
            buffer,
            directory,
            batch_size=config.batch_size,
            num_workers=config.replay_buffer_num_workers,
            pin_memory=pin_memory,
            seed=config.seed,
        )
    except ReplayError as error:
        raise OptionError(f"the replay buffer cannot be made: {error}") from error
    if saved:
        replay.go_on(saved)
    return replay


def _new_buffer(
    config: Config, observation_shape: Shape | Mapping[str, Shape], action_shape: tuple[int, ...]
) -> diffreplay.ReplayBuffer:
    return diffreplay.ReplayBuffer(
        config.replay_buffer_size,
        observation_shape=_one_frames(observation_shape, config.frame_stack),
        action_shape=action_shape,
        frame_stack=config.frame_stack,
        nstep=config.nstep,
        discount=config.discount,
        codec=config.replay_codec or diffreplay.codecs.DEFAULT,
        max_bytes=config.replay_buffer_max_bytes,
        seed=config.seed,
    )


def _one_frames(observation_shape: Shape | Mapping[str, Shape], frame_stack: int) -> Any:
    """What a buffer is told of observations of these shapes; where they are mappings, what one frame of a part is."""
    if not isinstance(observation_shape, Mapping):
        return observation_shape
    return {
        name: diffreplay.ArraySpec((shape[0] // frame_stack, *shape[1:]), "float32" if name == STATE else "uint8")
        for name, shape in observation_shape.items()
    }


def _load(config: Config, directory: Path, commit: str) -> diffreplay.ReplayBuffer:
    buffer = diffreplay.ReplayBuffer.load(directory, commit=commit, max_bytes=config.replay_buffer_max_bytes)
    saved = {
        "replay_buffer_size": buffer.capacity,
        "frame_stack": buffer.store.layout.frame_stack,
        "nstep": buffer.nstep,
        "discount": buffer.discount,
        "codec": buffer.store.codec.name,
    }
    wanted = {name: getattr(config, name) for name in saved} | {"codec": config.replay_codec}
    check_same_run(directory, saved, wanted)
    return buffer

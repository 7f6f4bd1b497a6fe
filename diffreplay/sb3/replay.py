"""Replay buffers for Stable-Baselines3's off-policy algorithms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from diffreplay import codecs
from diffreplay.codecs import Codec, RawCodec
from diffreplay.errors import EmptyBufferError, InputError
from diffreplay.limits import warn_if_too_large
from diffreplay.parts import Part
from diffreplay.sb3.buffer import CompressedBuffer
from diffreplay.sb3.ring import ImageRing
from diffreplay.sb3.spaces import grouped
from diffreplay.sb3.usage import share_bytes
from diffreplay.tables import ImageStore, ImageTable

ARRAYS = ("observations", "next_observations")


class CompressedReplays(CompressedBuffer, ReplayBuffer):
    """Goes before one of Stable-Baselines3's replay buffers among a class's bases.

    Args:
        buffer_size: steps kept, over all environments.
        observation_space: as that buffer takes it.
        action_space: as in Stable-Baselines3.
        *args: further arguments of that buffer.
        codec: "raw", "sparse", "zstd", "delta" (the default) or a codec instance.
        max_bytes: cap on `stats().total_bytes`; the oldest steps leave first, and `size()` counts those left.
        frame_stack: frames in an observation; None finds it from the first observations.
        **kwargs: further arguments of that buffer.
    """

    _rings: list[ImageRing]
    _read_first: str | None = "observations"

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *args: Any,
        codec: str | Codec = codecs.DEFAULT,
        max_bytes: int | None = None,
        frame_stack: int | None = None,
        **kwargs: Any,
    ) -> None:
        plain = self._prepare(observation_space, codec, max_bytes, frame_stack)
        if kwargs.get("optimize_memory_usage") and isinstance(observation_space, spaces.Dict):
            raise InputError("optimize_memory_usage: expected False with a Dict space, got True")
        self._rings = []
        # Without pixels the parent allocates no images; those are put in place below.
        super().__init__(buffer_size, plain, action_space, *args, **kwargs)
        self.observation_space = observation_space
        self.obs_shape = get_obs_shape(observation_space)  # type: ignore[assignment]
        self._rings = self._open_rings(self._parts)
        if isinstance(codecs.get(codec), RawCodec):
            rows = sum(ring.store.frames.layout.row_bytes for ring in self._rings)
            least = self.n_envs * self.buffer_size * rows
            warn_if_too_large(least if max_bytes is None else min(least, max_bytes), stacklevel=2)
        for ring in self._rings:
            ring.store.watches = self._watches
        for name, tables in self._tables_by_name(self._rings).items():
            setattr(self, name, self._with(name, tables))

    def _open_rings(self, parts: dict[str, Part]) -> list[ImageRing]:
        """Empty rings for these images."""
        groups = grouped(parts.values())
        tables = 8 * self.buffer_size * self.n_envs * len(groups)
        shares = share_bytes(self._max_bytes, self._plain_bytes() + tables, groups)
        options: Any = {"single": self.optimize_memory_usage, "read_first": self._read_first}
        codec = codecs.get(self._codec)
        return [
            ImageRing(group, self.buffer_size, self.n_envs, codec, share, **options)
            for group, share in zip(groups, shares, strict=True)
        ]

    def _tables_by_name(self, rings: list[ImageRing]) -> dict[str, list[ImageTable]]:
        """The tables of each array, of all rings."""
        return dict(zip(ARRAYS, map(list, zip(*(ring.tables for ring in rings), strict=True)), strict=False))

    def _store_anew(self, parts: dict[str, Part]) -> None:
        if self.full or any(store.frames.tail for store in self._image_stores()):
            return
        rings = self._open_rings(parts)
        for ring in rings:
            for position in range(self.pos + self.optimize_memory_usage):
                for name, table in zip(ARRAYS, ring.tables, strict=False):
                    self._copy(name, position, table)
            ring.store.watches, ring.held = self._watches, self._rings[0].held
        self._switch(parts, self._tables_by_name(rings), _rings=rings)

    def size(self) -> int:
        """Steps held: as many as Stable-Baselines3's buffer holds, or fewer under `max_bytes`."""
        return min([super().size(), *(ring.held for ring in self._rings if ring.capped)])

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """Draw a batch as Stable-Baselines3 does, with NumPy's global generator.

        Raises:
            EmptyBufferError: `max_bytes` leaves no step.
        """
        with self._lock:
            if self.size() < ReplayBuffer.size(self):
                return self._sample_held(batch_size, env)
            return super().sample(batch_size, env)

    def reset(self) -> None:
        """Forget all steps; reference frames stay."""
        with self._lock:
            self.changes += 1
            super().reset()
            for ring in self._rings:
                ring.clear()

    def _sample_held(self, batch_size: int, env: VecNormalize | None) -> Any:
        """Draw a batch uniformly among the steps that the byte cap has left."""
        size = self.size()
        if size == 0:
            raise EmptyBufferError(
                f"expected at least one step to sample from, got none; max_bytes = {self._max_bytes} is too low for "
                f"{self.n_envs} environments"
            )
        return self._get_samples((self.pos - size + np.random.randint(0, size, batch_size)) % self.buffer_size, env=env)

    def _added(self) -> None:
        for ring in self._rings:
            ring.advance(self.pos, self.full)

    def _steps(self) -> int:
        return self.size()

    def _image_stores(self) -> list[ImageStore]:
        return [ring.store for ring in self._rings]

    def _tables(self) -> list[ImageTable]:
        return [table for ring in self._rings for table in ring.tables]


class CompressedReplayBuffer(CompressedReplays, ReplayBuffer):
    """Stable-Baselines3's `ReplayBuffer`, and with `n_steps` its `NStepReplayBuffer`, with coded observations.

    Samples are those of Stable-Baselines3's own buffers, bit for bit.

    Args:
        buffer_size: steps kept, over all environments.
        observation_space: a Box of uint8. Observations of other spaces stay uncompressed, with a warning.
        action_space: as in Stable-Baselines3.
        device: of the samples.
        n_envs: environments.
        optimize_memory_usage: as in Stable-Baselines3, whose semantics at an episode's end it brings; it saves
            nothing here, where an observation is stored once anyway.
        handle_timeout_termination: whether an episode that was cut off does not count as done.
        n_steps: steps of reward in a sample. An algorithm passes its own `n_steps` and `gamma` to no custom buffer.
        gamma: discount of those steps, to be given where there is more than one.
        codec: "raw", "sparse", "zstd", "delta" (the default) or a codec instance.
        max_bytes: cap on `stats().total_bytes`; the oldest steps leave first, and `size()` counts those left.
        frame_stack: frames in an observation; None finds it from the first observations. Until then, a frame has 3
            channels, or one where 3 does not divide them. What is wrong costs compression, never exactness.

    Raises:
        InputError: the space is a Dict, or an argument makes no sense.
        UnknownCodecError: no such codec.
        ValueError: optimize_memory_usage with handle_timeout_termination, as in Stable-Baselines3.

    Examples:
        >>> from diffreplay.sb3 import CompressedReplayBuffer
        >>> buffer = CompressedReplayBuffer(1000, images, actions)
        >>> pair = np.zeros((2, 1, 4, 84, 84), np.uint8)
        >>> buffer.add(pair[0], pair[1], np.zeros(1), np.zeros(1), np.zeros(1), [{}])
        >>> buffer.sample(8).observations.shape
        torch.Size([8, 4, 84, 84])
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        n_steps: int = 1,
        gamma: float | None = None,
        *,
        codec: str | Codec = codecs.DEFAULT,
        max_bytes: int | None = None,
        frame_stack: int | None = None,
    ) -> None:
        if isinstance(n_steps, bool) or not isinstance(n_steps, int | np.integer) or n_steps < 1:
            raise InputError(f"n_steps: expected a positive integer, got {n_steps!r}")
        if n_steps > 1 and optimize_memory_usage:
            raise InputError("optimize_memory_usage: expected False with n_steps above 1, got True")
        if n_steps > 1 and gamma is None:
            raise InputError(
                f"gamma: expected the algorithm's with n_steps = {n_steps}, got none; Stable-Baselines3 does not pass "
                'it to a custom buffer: give replay_buffer_kwargs={"n_steps": ..., "gamma": ...}'
            )
        self.n_steps, self.gamma = n_steps, 0.99 if gamma is None else gamma
        self._read_first = "next_observations" if n_steps == 1 else None
        options: dict[str, Any] = {"codec": codec, "max_bytes": max_bytes, "frame_stack": frame_stack}
        parent_options = (device, n_envs, optimize_memory_usage, handle_timeout_termination)
        super().__init__(buffer_size, observation_space, action_space, *parent_options, **options)

    def _get_samples(self, batch_inds: np.ndarray[Any, Any], env: VecNormalize | None = None) -> ReplayBufferSamples:
        if self.n_steps > 1:
            # It asks for nothing that this buffer does not have.
            return NStepReplayBuffer._get_samples(self, batch_inds, env)  # type: ignore[arg-type]
        return super()._get_samples(batch_inds, env)


class CompressedDictReplayBuffer(CompressedReplays, DictReplayBuffer):
    """Stable-Baselines3's `DictReplayBuffer` with coded images; other entries stay plain arrays.

    An image is a Box of uint8 with three or more axes; without any, a warning says that nothing is compressed. Images
    share one store, where a step is a frame of each; those of another `frame_stack`, and "desired_goal", have another.
    Arguments are those of `CompressedReplayBuffer`; as in Stable-Baselines3, there are no n-step returns and no
    `optimize_memory_usage`.

    Raises:
        InputError: the space is no Dict, or an argument makes no sense.
        UnknownCodecError: no such codec.

    Examples:
        >>> from stable_baselines3 import DQN
        >>> from diffreplay.sb3 import CompressedDictReplayBuffer
        >>> model = DQN("MultiInputPolicy", dicts, buffer_size=1000, replay_buffer_class=CompressedDictReplayBuffer)
    """


class CompressedHerReplayBuffer(CompressedReplays, HerReplayBuffer):
    """Stable-Baselines3's `HerReplayBuffer` with coded images, goals included; other entries stay plain arrays.

    Arguments are those of `HerReplayBuffer`, and `codec`, `max_bytes` and `frame_stack` as in `CompressedReplayBuffer`.
    Under `max_bytes`, an episode leaves whole with its first step.

    Raises:
        InputError: the space is no Dict, or an argument makes no sense.
        UnknownCodecError: no such codec.

    Examples:
        >>> from stable_baselines3 import DQN
        >>> from diffreplay.sb3 import CompressedHerReplayBuffer
        >>> model = DQN("MultiInputPolicy", goals, buffer_size=1000, replay_buffer_class=CompressedHerReplayBuffer)
    """

    def _sample_held(self, batch_size: int, env: VecNormalize | None) -> Any:
        # As where the ring overwrites an episode's first step: goals may come from any of its steps.
        begun = (self.pos - 1 - self.ep_start) % self.buffer_size
        self.ep_length[begun >= self.size()] = 0
        return HerReplayBuffer.sample(self, batch_size, env)

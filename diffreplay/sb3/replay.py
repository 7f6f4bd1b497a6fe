"""Replay buffers for Stable-Baselines3's off-policy algorithms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from diffreplay import codecs
from diffreplay.codecs import Codec
from diffreplay.errors import EmptyBufferError, InputError
from diffreplay.sb3.images import ImageArray, ImageStore
from diffreplay.sb3.spaces import NO_PIXELS, FrameCut, check_image_space, cut_frames, is_image
from diffreplay.sb3.usage import buffer_stats, share_bytes
from diffreplay.stats import ReplayStats

EVICT_EVERY = 64  # adds; memory is given back by thousands of frames, so more often would only cost time


class ImageRing:
    """The observations and next observations of a ring of `steps` steps of `n_envs` environments."""

    def __init__(
        self,
        cut: FrameCut,
        steps: int,
        n_envs: int,
        codec: Codec,
        max_bytes: int | None,
        *,
        single: bool = False,
        one_step: bool = True,
    ) -> None:
        self.steps, self.single, self.capped = steps, single, max_bytes is not None
        # obs and next_obs of each step, of those overwritten but not evicted yet, and of the one being added.
        held = 2 * n_envs * (steps + min(steps, EVICT_EVERY) + 2)
        self.store = ImageStore(cut, n_envs, held, codec, max_bytes)
        self.observations = ImageArray(self.store, (steps, n_envs))
        # One-step samples are read next observations first, then observations at the same index.
        then = self.observations if one_step else None
        self.next_observations = None if single else ImageArray(self.store, (steps, n_envs), then)
        self.held = 0

    @property
    def tables(self) -> list[ImageArray]:
        """What stands for observations and, unless one array holds both, for next observations."""
        return [self.observations] + ([] if self.next_observations is None else [self.next_observations])

    def advance(self, pos: int, full: bool) -> None:
        """Forget what the step before `pos` overwrote, and count the steps of which nothing was evicted."""
        size = self.steps if full else pos
        if full and pos % min(self.steps, EVICT_EVERY) == 0:
            # A single array holds the newest next observation at `pos`, in place of the oldest step.
            oldest = self.observations.rows((pos + self.single) % self.steps)
            self.store.evict_before(self.store.oldest_needed(oldest))
        self.held = min(self.held + 1, size)
        if self.capped:
            tail = self.store.frames.tail
            while self.held and self._needed((pos - self.held) % self.steps) < tail:
                self.held -= 1

    def _needed(self, position: int) -> int:
        return self.store.oldest_needed(np.concatenate([table.rows(position) for table in self.tables]))

    def clear(self) -> None:
        """Forget everything but the reference frames."""
        self.store.clear()
        for table in self.tables:
            table.clear()
        self.held = 0


class _RingMixin(ReplayBuffer):
    """What the two buffers share: rings of images beside arrays that stay as Stable-Baselines3 keeps them."""

    _rings: dict[str, ImageRing]
    _max_bytes: int | None

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Add a step of every environment; arguments as in Stable-Baselines3's `ReplayBuffer.add`.

        Raises:
            InputError: observations of the wrong dtype or shape.
        """
        super().add(*args, **kwargs)
        for ring in self._rings.values():
            ring.advance(self.pos, self.full)

    def size(self) -> int:
        """Steps held: as many as Stable-Baselines3's buffer holds, or fewer under `max_bytes`."""
        return min([super().size(), *(ring.held for ring in self._rings.values() if ring.capped)])

    def _restricted(self) -> bool:
        """Whether the byte cap evicted steps that the ring still counts."""
        return self.size() < ReplayBuffer.size(self)

    def _draw_held(self, batch_size: int) -> np.ndarray[Any, Any]:
        """Positions drawn uniformly among the steps held."""
        if self.size() == 0:
            raise EmptyBufferError(
                f"expected at least one step to sample from, got none; max_bytes = {self._max_bytes} is too low for "
                f"{self.n_envs} environments"
            )
        return (self.pos - self.size() + np.random.randint(0, self.size(), size=batch_size)) % self.buffer_size

    def to_torch(self, array: np.ndarray[Any, Any], copy: bool = True) -> th.Tensor:
        """An array as a tensor on the buffer's device. Samples are new arrays: a copy would only cost time."""
        return super().to_torch(array, copy=False)

    def reset(self) -> None:
        """Forget all steps; reference frames stay."""
        super().reset()
        for ring in self._rings.values():
            ring.clear()

    def stats(self) -> ReplayStats:
        """Counts and bytes now. Stacked bytes are those of the observations alone, without the next ones."""
        stores = [ring.store for ring in self._rings.values()]
        tables = [table for ring in self._rings.values() for table in ring.tables]
        return buffer_stats(stores, tables, self.size() * self.n_envs, self._plain_bytes())

    def _plain_bytes(self) -> int:
        """Bytes of the arrays that are kept as Stable-Baselines3 keeps them."""
        arrays = [self.actions, self.rewards, self.dones, self.timeouts]
        for observations in (self.observations, getattr(self, "next_observations", None)):
            if isinstance(observations, dict):
                arrays += [array for array in observations.values() if isinstance(array, np.ndarray)]
        return sum(array.nbytes for array in arrays)


class CompressedReplayBuffer(_RingMixin, ReplayBuffer):
    """Stable-Baselines3's `ReplayBuffer`, and with `n_steps` its `NStepReplayBuffer`, with coded observations.

    Samples are those of Stable-Baselines3's own buffers, bit for bit.

    Args:
        buffer_size: steps kept, over all environments.
        observation_space: a Box of uint8.
        action_space: as in Stable-Baselines3.
        device: of the samples.
        n_envs: environments.
        optimize_memory_usage: as in Stable-Baselines3, whose semantics at an episode's end it brings; it saves
            nothing here, where an observation is stored once anyway.
        handle_timeout_termination: whether an episode that was cut off does not count as done.
        n_steps: steps of reward in a sample. An algorithm does not pass its own `n_steps` to a custom buffer.
        gamma: discount of those steps.
        codec: "raw", "sparse", "zstd" or a codec instance.
        max_bytes: cap on `stats().total_bytes`; the oldest steps leave first, and `size()` counts those left.
        frame_stack: frames in an observation; None guesses one for every 3 channels, as of RGB frames, or for each
            channel where 3 does not divide them. A wrong guess costs compression, never exactness.

    Raises:
        InputError: the space cannot be stored losslessly, or an argument makes no sense.
        UnknownCodecError: no such codec.
        ValueError: optimize_memory_usage with handle_timeout_termination, as in Stable-Baselines3.
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
        gamma: float = 0.99,
        *,
        codec: str | Codec = "zstd",
        max_bytes: int | None = None,
        frame_stack: int | None = None,
    ) -> None:
        cut = cut_frames(check_image_space(observation_space), frame_stack)
        if isinstance(n_steps, bool) or not isinstance(n_steps, int | np.integer) or n_steps < 1:
            raise InputError(f"n_steps: expected a positive integer, got {n_steps!r}")
        if n_steps > 1 and optimize_memory_usage:
            raise InputError("optimize_memory_usage: expected False with n_steps above 1, got True")
        self._rings = {}
        # Without pixels the parent allocates no observations; those are replaced below.
        super().__init__(
            buffer_size, NO_PIXELS, action_space, device, n_envs, optimize_memory_usage, handle_timeout_termination
        )
        self.observation_space, self.obs_shape = observation_space, cut.shape
        self.n_steps, self.gamma, self._max_bytes = n_steps, gamma, max_bytes
        steps = self.buffer_size
        left = share_bytes(max_bytes, self._plain_bytes() + 8 * steps * n_envs, {"": cut}, n_envs)
        options = {"single": optimize_memory_usage, "one_step": n_steps == 1}
        ring = ImageRing(cut, steps, n_envs, codecs.get(codec), left[""], **options)
        self._rings = {"": ring}
        self.observations = ring.observations  # type: ignore[assignment]
        if ring.next_observations is not None:
            self.next_observations = ring.next_observations  # type: ignore[assignment]

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Draw a batch as Stable-Baselines3 does, with NumPy's global generator.

        Raises:
            EmptyBufferError: `max_bytes` leaves no step.
        """
        if self._restricted():
            return self._get_samples(self._draw_held(batch_size), env=env)
        return super().sample(batch_size, env=env)

    def _get_samples(self, batch_inds: np.ndarray[Any, Any], env: VecNormalize | None = None) -> ReplayBufferSamples:
        if self.n_steps > 1:
            # It asks for nothing that this buffer does not have.
            return NStepReplayBuffer._get_samples(self, batch_inds, env)  # type: ignore[arg-type]
        return super()._get_samples(batch_inds, env)


class CompressedDictReplayBuffer(_RingMixin, DictReplayBuffer):
    """Stable-Baselines3's `DictReplayBuffer` with coded images; other entries stay plain arrays.

    An image is a Box of uint8 with three axes. Arguments are those of `CompressedReplayBuffer`; as in
    Stable-Baselines3, there are no n-step returns and no `optimize_memory_usage`.

    Raises:
        InputError: the space is no Dict or has no image, or an argument makes no sense.
        UnknownCodecError: no such codec.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        codec: str | Codec = "zstd",
        max_bytes: int | None = None,
        frame_stack: int | None = None,
    ) -> None:
        plain, cuts = split_images(observation_space, frame_stack)
        if optimize_memory_usage:
            raise InputError("optimize_memory_usage: expected False with a Dict space, got True")
        self._rings = {}
        super().__init__(buffer_size, plain, action_space, device, n_envs, False, handle_timeout_termination)
        self.observation_space = observation_space
        self.obs_shape |= {key: cut.shape for key, cut in cuts.items()}
        self._max_bytes = max_bytes
        steps = self.buffer_size
        left = share_bytes(max_bytes, self._plain_bytes() + 8 * steps * n_envs * len(cuts), cuts, n_envs)
        for key, cut in cuts.items():
            ring = self._rings[key] = ImageRing(cut, steps, n_envs, codecs.get(codec), left[key])
            self.observations[key] = ring.observations  # type: ignore[assignment]
            self.next_observations[key] = ring.next_observations  # type: ignore[assignment]

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> DictReplayBufferSamples:  # type: ignore[override]
        """Draw a batch as Stable-Baselines3 does, with NumPy's global generator.

        Raises:
            EmptyBufferError: `max_bytes` leaves no step.
        """
        if self._restricted():
            return self._get_samples(self._draw_held(batch_size), env=env)
        return DictReplayBuffer.sample(self, batch_size, env=env)


def split_images(space: spaces.Space[Any], frame_stack: int | None) -> tuple[spaces.Dict, dict[str, FrameCut]]:
    """A Dict space with its images emptied, and how each of those is a stack of frames.

    Raises:
        InputError: it is no Dict, or has no image.
    """
    if not isinstance(space, spaces.Dict):
        raise InputError(f"observation_space: expected a Dict, got {space}; use the buffer without Dict in its name")
    images = {key: check_image_space(part) for key, part in space.spaces.items() if is_image(part)}
    if not images:
        raise InputError(f"observation_space: expected a Dict with an image, a Box of uint8 with 3 axes, got {space}")
    plain = spaces.Dict({key: NO_PIXELS if key in images else part for key, part in space.spaces.items()})
    return plain, {key: cut_frames(part, frame_stack) for key, part in images.items()}

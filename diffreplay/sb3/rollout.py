"""Rollout buffers for Stable-Baselines3's on-policy algorithms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from diffreplay import codecs
from diffreplay.codecs import Codec, ZstdCodec
from diffreplay.errors import InputError
from diffreplay.sb3.images import ImageArray, ImageStore
from diffreplay.sb3.replay import split_images
from diffreplay.sb3.spaces import FrameCut, check_image_space, cut_frames
from diffreplay.sb3.usage import buffer_stats, share_bytes
from diffreplay.stats import ReplayStats

STATES_PER_REFERENCE = 128
SCALARS = ("actions", "rewards", "returns", "episode_starts", "values", "log_probs", "advantages")


def _codec(codec: str | Codec, states: int) -> Codec:
    if codec == "zstd":
        return ZstdCodec(set_frames=min(64, max(1, states // STATES_PER_REFERENCE)))
    return codecs.get(codec)


class _RolloutMixin(RolloutBuffer):
    """What the two buffers share: stores of images that outlive a rollout."""

    _cuts: dict[str, FrameCut]
    _stores: dict[str, ImageStore]
    _codec: Codec
    _max_bytes: int | None

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
        *,
        codec: str | Codec = "zstd",
        max_bytes: int | None = None,
        frame_stack: int | None = None,
    ) -> None:
        self._cuts = self._cut(observation_space, frame_stack)
        self._stores, self._codec, self._max_bytes = {}, _codec(codec, buffer_size * n_envs), max_bytes
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)

    @staticmethod
    def _cut(space: spaces.Space[Any], frame_stack: int | None) -> dict[str, FrameCut]:
        """How the images of an observation are stacks of frames."""
        raise NotImplementedError

    def _open_stores(self) -> None:
        """Make the stores once the parent knows its sizes."""
        steps, n_envs = self.buffer_size, self.n_envs
        fixed = self._plain_bytes() + 4 * steps * n_envs * len(self._cuts)
        left = share_bytes(self._max_bytes, fixed, self._cuts, n_envs)
        for key, cut in self._cuts.items():
            # The newest observations of the rollout before stay, as the next ones build on them.
            self._stores[key] = ImageStore(cut, n_envs, n_envs * (steps + 2), self._codec, left[key])

    def _renewed(self, key: str) -> ImageArray:
        """An empty table in place of the one of the last rollout, whose frames are evicted."""
        store = self._stores[key]
        store.evict_before(store.newest_needed())
        return ImageArray(store, (self.buffer_size, self.n_envs))

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Add a step of every environment; arguments as in Stable-Baselines3's `RolloutBuffer.add`.

        Raises:
            InputError: observations of the wrong dtype or shape, or `max_bytes` does not hold a rollout.
        """
        super().add(*args, **kwargs)
        if self._max_bytes is None:
            return
        for table in self._tables():
            if table.store.oldest_needed(table.rows(0)) < table.store.frames.tail:
                raise InputError(
                    f"max_bytes: expected room for a whole rollout of {self.buffer_size} x {self.n_envs} steps, got "
                    f"{self._max_bytes}, which is full after {self.pos} steps"
                )

    def to_torch(self, array: np.ndarray[Any, Any], copy: bool = True) -> th.Tensor:
        """An array as a tensor on the buffer's device. Samples are new arrays: a copy would only cost time."""
        return super().to_torch(array, copy=False)

    def stats(self) -> ReplayStats:
        """Counts and bytes now; each state of the rollout is a transition."""
        tables, stores = self._tables(), list(self._stores.values())
        return buffer_stats(stores, tables, self.pos * self.n_envs, self._plain_bytes())

    def _plain_bytes(self) -> int:
        """Bytes of the arrays that are kept as Stable-Baselines3 keeps them."""
        arrays = [getattr(self, name) for name in SCALARS]
        if isinstance(self.observations, dict):
            arrays += [array for array in self.observations.values() if isinstance(array, np.ndarray)]
        return sum(array.nbytes for array in arrays)

    @staticmethod
    def swap_and_flatten(arr: Any) -> Any:
        """(steps, n_envs, ...) to (n_envs * steps, ...), environment after environment."""
        return arr.env_major() if isinstance(arr, ImageArray) else RolloutBuffer.swap_and_flatten(arr)

    def _tables(self) -> list[ImageArray]:
        observations = self.observations.values() if isinstance(self.observations, dict) else [self.observations]
        return [table for table in observations if isinstance(table, ImageArray)]


class CompressedRolloutBuffer(_RolloutMixin, RolloutBuffer):
    """Stable-Baselines3's `RolloutBuffer` with coded observations; samples are the same, bit for bit.

    Reference frames stay from rollout to rollout. `get` decodes one batch at a time.

    Args:
        buffer_size: steps of each environment in a rollout.
        observation_space: a Box of uint8.
        action_space: as in Stable-Baselines3.
        device: of the samples.
        gae_lambda: of the generalised advantage estimate.
        gamma: discount.
        n_envs: environments.
        codec: "raw", "sparse", "zstd" or a codec instance. "zstd" takes a set of reference frames in proportion to
            the rollout, as one for a whole replay buffer would be larger than the rollout.
        max_bytes: cap on `stats().total_bytes`; `add` raises when a rollout does not fit.
        frame_stack: frames in an observation; None guesses one for every 3 channels, as of RGB frames, or for each
            channel where 3 does not divide them. A wrong guess costs compression, never exactness.

    Raises:
        InputError: the space cannot be stored losslessly, or an argument makes no sense.
        UnknownCodecError: no such codec.
    """

    @staticmethod
    def _cut(space: spaces.Space[Any], frame_stack: int | None) -> dict[str, FrameCut]:
        return {"": cut_frames(check_image_space(space), frame_stack)}

    def reset(self) -> None:
        """Forget the rollout."""
        shape, self.obs_shape = self.obs_shape, (0,)  # the parent allocates no pixels
        super().reset()
        self.obs_shape = shape
        if not self._stores:
            self._open_stores()
        self.observations = self._renewed("")  # type: ignore[assignment]


class CompressedDictRolloutBuffer(_RolloutMixin, DictRolloutBuffer):
    """Stable-Baselines3's `DictRolloutBuffer` with coded images; other entries stay plain arrays.

    An image is a Box of uint8 with three axes. Arguments are those of `CompressedRolloutBuffer`.

    Raises:
        InputError: the space is no Dict or has no image, or an argument makes no sense.
        UnknownCodecError: no such codec.
    """

    @staticmethod
    def _cut(space: spaces.Space[Any], frame_stack: int | None) -> dict[str, FrameCut]:
        return split_images(space, frame_stack)[1]

    def reset(self) -> None:
        """Forget the rollout."""
        shapes = self.obs_shape
        self.obs_shape = shapes | dict.fromkeys(self._cuts, (0,))  # the parent allocates no pixels
        super().reset()
        self.obs_shape = shapes
        if not self._stores:
            self._open_stores()
        for key in self._cuts:
            self.observations[key] = self._renewed(key)  # type: ignore[assignment]

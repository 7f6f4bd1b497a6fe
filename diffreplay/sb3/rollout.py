"""Rollout buffers for Stable-Baselines3's on-policy algorithms."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from diffreplay import codecs
from diffreplay.codecs import Codec
from diffreplay.errors import InputError
from diffreplay.parts import Part
from diffreplay.sb3.buffer import CompressedBuffer
from diffreplay.sb3.images import ImageArray
from diffreplay.sb3.spaces import grouped
from diffreplay.sb3.usage import share_bytes
from diffreplay.tables import ImageStore, ImageTable

STATES_PER_REFERENCE = 128
MOST_REFERENCES = 64  # in a set


class CompressedRollouts(CompressedBuffer, RolloutBuffer):
    """Goes before one of Stable-Baselines3's rollout buffers among a class's bases; stores of images outlive a rollout.

    Args:
        buffer_size: steps of each environment in a rollout.
        observation_space: as that buffer takes it.
        action_space: as in Stable-Baselines3.
        *args: further arguments of that buffer.
        codec: "raw", "sparse", "zstd", "delta" (the default) or a codec instance.
        max_bytes: cap on `stats().total_bytes`; `add` raises when a rollout does not fit.
        frame_stack: frames in an observation; None finds it from the first observations.
        **kwargs: further arguments of that buffer.
    """

    _stores: list[ImageStore]

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
        self._prepare(observation_space, codec, max_bytes, frame_stack)
        self._stores = []
        super().__init__(buffer_size, observation_space, action_space, *args, **kwargs)

    def reset(self) -> None:
        """Forget the rollout."""
        with self._lock:
            self.changes += 1
            shapes: Any = self.obs_shape
            empty: Any = shapes | dict.fromkeys(self._parts, (0,)) if isinstance(shapes, dict) else (0,)
            self.obs_shape = empty if self._parts else shapes  # the parent allocates no pixels
            super().reset()
            self.obs_shape = shapes
            if not self._stores:
                self._stores = self._open_stores(self._parts)
                for store in self._stores:
                    store.watches = self._watches
            for store in self._stores:  # forget the last rollout
                store.evict_before(store.newest_needed())
            self.observations = self._with("observations", map(self._empty_table, self._stores))

    def _open_stores(self, parts: dict[str, Part]) -> list[ImageStore]:
        """Empty stores for these images, once the parent knows its sizes."""
        states, groups = self.buffer_size * self.n_envs, grouped(parts.values())
        shares = share_bytes(self._max_bytes, self._plain_bytes() + 4 * states * len(groups), groups)
        codec = codecs.get(self._codec)
        if codec is not self._codec:  # one that was asked for by its name
            codec = codec.with_sets_of(min(MOST_REFERENCES, max(1, states // STATES_PER_REFERENCE)))
        # The newest observations of the rollout before stay, as the next ones build on them.
        held = states + 2 * self.n_envs
        return [
            ImageStore(group, self.n_envs, held, codec, share, share)
            for group, share in zip(groups, shares, strict=True)
        ]

    def _empty_table(self, store: ImageStore) -> ImageTable:
        return ImageTable(store, (self.buffer_size, self.n_envs))

    def _store_anew(self, parts: dict[str, Part]) -> None:
        stores = self._open_stores(parts)
        tables = list(map(self._empty_table, stores))
        for table in tables:
            for position in range(self.pos):
                self._copy("observations", position, table)
            table.store.watches = self._watches
        self._switch(parts, {"observations": tables}, _stores=stores)

    def _added(self) -> None:
        for table in self._tables() if self._max_bytes is not None else ():
            if table.store.oldest_needed(table.rows(0)) < table.store.frames.tail:
                raise InputError(
                    f"max_bytes: expected room for a whole rollout of {self.buffer_size} x {self.n_envs} steps, got "
                    f"{self._max_bytes}, which is full after {self.pos} steps"
                )

    @staticmethod
    def swap_and_flatten(arr: Any) -> Any:
        """(steps, n_envs, ...) to (n_envs * steps, ...), environment after environment."""
        return arr.env_major() if isinstance(arr, ImageArray) else RolloutBuffer.swap_and_flatten(arr)

    def _steps(self) -> int:
        return self.pos

    def _image_stores(self) -> list[ImageStore]:
        return self._stores

    def _tables(self) -> list[ImageTable]:
        tables = {id(array.table): array.table for array in self._arrays("observations").values()}
        return list(tables.values())


class CompressedRolloutBuffer(CompressedRollouts, RolloutBuffer):
    """Stable-Baselines3's `RolloutBuffer` with coded observations; samples are the same, bit for bit.

    Reference frames stay from rollout to rollout. `get` decodes one batch at a time.

    Args:
        buffer_size: steps of each environment in a rollout.
        observation_space: a Box of uint8. Observations of other spaces stay uncompressed, with a warning.
        action_space: as in Stable-Baselines3, and after it device, gae_lambda, gamma and n_envs.
        codec: "raw", "sparse", "zstd", "delta" (the default) or a codec instance. Asked for by name, "delta" and "zstd"
            take sets of reference frames in proportion to the rollout, as one for a whole replay buffer would be larger
            than the rollout. An instance is taken as it is: `DeltaCodec(set_frames=...)`.
        max_bytes: cap on `stats().total_bytes`; `add` raises when a rollout does not fit.
        frame_stack: frames in an observation; None finds it from the first observations. Until then, a frame has 3
            channels, or one where 3 does not divide them. What is wrong costs compression, never exactness.

    Raises:
        InputError: the space is a Dict, or an argument makes no sense.
        UnknownCodecError: no such codec.

    Examples:
        >>> from stable_baselines3 import PPO
        >>> from diffreplay.sb3 import CompressedRolloutBuffer
        >>> model = PPO("CnnPolicy", games, n_steps=8, batch_size=8, rollout_buffer_class=CompressedRolloutBuffer)
    """


class CompressedDictRolloutBuffer(CompressedRollouts, DictRolloutBuffer):
    """Stable-Baselines3's `DictRolloutBuffer` with coded images; other entries stay plain arrays.

    An image is a Box of uint8 with three or more axes; without any, a warning says that nothing is compressed.
    Arguments are those of `CompressedRolloutBuffer`.

    Raises:
        InputError: the space is no Dict, or an argument makes no sense.
        UnknownCodecError: no such codec.

    Examples:
        >>> from stable_baselines3 import PPO
        >>> from diffreplay.sb3 import CompressedDictRolloutBuffer
        >>> buffer = CompressedDictRolloutBuffer
        >>> model = PPO("MultiInputPolicy", dicts, n_steps=8, batch_size=8, rollout_buffer_class=buffer)
    """

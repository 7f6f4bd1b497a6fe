"""What compressed replay and rollout buffers share."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, DictReplayBuffer, DictRolloutBuffer

from diffreplay import codecs
from diffreplay.codecs import Codec
from diffreplay.errors import InputError
from diffreplay.sb3.images import ImageArray
from diffreplay.sb3.pickling import Unchanged
from diffreplay.sb3.spaces import FrameCut, split_images
from diffreplay.sb3.store import ImageStore
from diffreplay.sb3.usage import buffer_stats
from diffreplay.stats import ReplayStats


class CompressedBuffer(BaseBuffer):
    """Goes before one of Stable-Baselines3's buffers among a class's bases, and keeps its images coded.

    Everything else, drawing samples included, stays the code of that buffer. Several threads may add and sample.
    """

    _cuts: dict[str, FrameCut]
    _codec: str | Codec
    _max_bytes: int | None
    changes = 0  # counts what changes the contents

    def _prepare(
        self, space: spaces.Space[Any], codec: str | Codec, max_bytes: int | None, frame_stack: int | None
    ) -> spaces.Space[Any]:
        """Check and keep the arguments that Stable-Baselines3 does not know; its space, with the images emptied."""
        with_dict = isinstance(self, DictReplayBuffer | DictRolloutBuffer)
        if with_dict and not isinstance(space, spaces.Dict):
            raise InputError(
                f"observation_space: expected a Dict, got {space}; use the buffer without Dict in its name"
            )
        if isinstance(space, spaces.Dict) and not with_dict:
            raise InputError(
                "observation_space: expected a Box of uint8, got a Dict; use a buffer for Dict spaces, such as "
                "CompressedDictReplayBuffer or CompressedDictRolloutBuffer"
            )
        codecs.get(codec)
        plain, self._cuts = split_images(space, frame_stack)
        if not self._cuts:
            warnings.warn(
                f"{type(self).__name__}: expected images, which are Boxes of uint8, as observations, got {space}; "
                "everything is kept uncompressed, as in Stable-Baselines3's own buffer",
                stacklevel=3,
            )
        self._codec, self._max_bytes, self._lock = codec, max_bytes, threading.RLock()
        return plain

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Add a step of every environment; arguments as in Stable-Baselines3's buffer of the same kind.

        Raises:
            InputError: observations of the wrong dtype or shape, or `max_bytes` does not hold a rollout.
        """
        with self._lock:
            self.changes += 1
            super().add(*args, **kwargs)
            self._added()

    def to_torch(self, array: np.ndarray[Any, Any], copy: bool = True) -> th.Tensor:
        """An array as a tensor on the buffer's device. Samples are new arrays: a copy would only cost time."""
        return super().to_torch(array, copy=False)

    def stats(self) -> ReplayStats:
        """Counts and bytes now. Stacked bytes are those of the images alone, without a replay buffer's next ones.

        What is kept uncompressed counts as scalars, so that without an image there is no compression ratio: it is 0.
        """
        with self._lock:
            return buffer_stats(self._image_stores(), self._tables(), self._steps() * self.n_envs, self._plain_bytes())

    def __getstate__(self) -> dict[str, Any]:
        parent: Any = super()
        with self._lock:
            state = {key: value for key, value in parent.__getstate__().items() if key != "_lock"}
            return state | {"_unchanged": Unchanged(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = {key: value for key, value in state.items() if key != "_unchanged"}
        getattr(super(), "__setstate__", self.__dict__.update)(state)
        self._lock = threading.RLock()

    def _added(self) -> None:
        """Do what is due after a step was added."""
        raise NotImplementedError

    def _steps(self) -> int:
        """Steps of each environment held now."""
        raise NotImplementedError

    def _image_stores(self) -> list[ImageStore]:
        raise NotImplementedError

    def _tables(self) -> list[ImageArray]:
        raise NotImplementedError

    def _plain_bytes(self) -> int:
        """Bytes of the arrays that are kept as Stable-Baselines3 keeps them."""
        values = list(vars(self).values())
        values += [entry for value in values if isinstance(value, dict) for entry in value.values()]
        return sum(value.nbytes for value in values if isinstance(value, np.ndarray))

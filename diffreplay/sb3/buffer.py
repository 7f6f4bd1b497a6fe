"""What compressed replay and rollout buffers share."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import (
    BaseBuffer,
    DictReplayBuffer,
    DictRolloutBuffer,
    ReplayBuffer,
    RolloutBuffer,
)

from diffreplay import checks, codecs
from diffreplay.codecs import Codec
from diffreplay.errors import InputError
from diffreplay.parts import Part
from diffreplay.sb3.earlier import buffer_state
from diffreplay.sb3.images import ImageArray
from diffreplay.sb3.spaces import split_images
from diffreplay.sb3.usage import buffer_stats
from diffreplay.stats import ReplayStats
from diffreplay.tables import FrameWatch, ImageStore, ImageTable, Unchanged, channels_of, with_channels


class CompressedBuffer(BaseBuffer):
    """Goes before one of Stable-Baselines3's buffers among a class's bases, and keeps its images coded.

    Everything else, drawing samples included, stays the code of that buffer. Several threads may add and sample.
    """

    _parts: dict[str, Part]  # the images, by their keys
    _watches: dict[str, FrameWatch]  # of those whose frames are guessed
    _codec: str | Codec
    _max_bytes: int | None
    changes = 0  # counts what changes the contents

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Refuse what an algorithm of the other kind passes to its buffer."""
        if "gae_lambda" in options and issubclass(cls, ReplayBuffer):
            raise InputError(
                f"{cls.__name__}: expected an off-policy algorithm, such as DQN, got one that learns from rollouts, "
                "such as PPO; give it rollout_buffer_class=CompressedRolloutBuffer"
            )
        if "optimize_memory_usage" in options and issubclass(cls, RolloutBuffer):
            raise InputError(
                f"{cls.__name__}: expected an algorithm that learns from rollouts, such as PPO, got an off-policy one, "
                "such as DQN; give it replay_buffer_class=CompressedReplayBuffer"
            )
        return super().__new__(cls)

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
        plain, self._parts = split_images(space, frame_stack)
        channels = {key: channels_of(part) for key, part in self._parts.items()} if frame_stack is None else {}
        self._watches = {key: FrameWatch(count) for key, count in channels.items() if count > 1}
        if not self._parts:
            warnings.warn(
                f"{type(self).__name__}: expected images, which are Boxes of uint8, as observations, got {space}; "
                "everything is kept uncompressed, as in Stable-Baselines3's own buffer",
                stacklevel=3,
            )
        self._codec, self._max_bytes, self._lock = codec, checks.cap(max_bytes), threading.RLock()
        return plain

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Add a step of every environment; arguments as in Stable-Baselines3's buffer of the same kind.

        Raises:
            InputError: observations of the wrong dtype or shape, or `max_bytes` does not hold what comes.
        """
        with self._lock:
            self.changes += 1
            tables = [table for table in self._tables() if len(table.store.parts) > 1]
            with ImageTable.gathering(tables) if tables else contextlib.nullcontext():
                super().add(*args, **kwargs)
            if self._watches:
                self._find_frames()
            self._added()

    def to_torch(self, array: np.ndarray[Any, Any], copy: bool = True) -> th.Tensor:
        """An array as a tensor on the buffer's device. Samples are new arrays: a copy would only cost time."""
        return super().to_torch(array, copy=False)

    def stats(self) -> ReplayStats:
        """Counts and bytes now. Stacked bytes are those of the images of `obs` alone, without those of `next_obs`.

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
        state = buffer_state({key: value for key, value in state.items() if key != "_unchanged"})
        getattr(super(), "__setstate__", self.__dict__.update)(state)
        self._lock = threading.RLock()

    def _find_frames(self) -> None:
        """Store the steps so far anew where they show that their frames are others than was guessed."""
        known = {key: watch.frame_channels() for key, watch in self._watches.items()}
        channels = {key: count for key, count in known.items() if count is not None}
        parts = {key: with_channels(self._parts[key], count) for key, count in channels.items()}
        if any(part != self._parts[key] for key, part in parts.items()):
            # Otherwise such frames do not fit the cap.
            with contextlib.suppress(InputError):
                self._store_anew(self._parts | parts)
        for key in channels:
            del self._watches[key]

    def _store_anew(self, parts: dict[str, Part]) -> None:
        """Have the images as other parts from now on, and the steps so far."""
        raise NotImplementedError

    def _switch(self, parts: dict[str, Part], tables: Mapping[str, Iterable[ImageTable]], **stores: Any) -> None:
        """Have the images in other stores, and in other tables of each array."""
        before = {name: self._arrays(name) for name in tables}
        arrays = {name: self._with(name, its) for name, its in tables.items()}
        vars(self).update(arrays, _parts=parts, **stores)  # one statement, that no interrupt cuts in two
        for name, olds in before.items():  # which a caller may hold
            for key, old in olds.items():
                old.follow(self._arrays(name)[key])

    def _copy(self, name: str, position: int, table: ImageTable) -> None:
        """Store an observation of the arrays of that name in another table."""
        arrays = self._arrays(name)
        table.write_all(position, [arrays[part.name][position] for part in table.store.parts])

    def _arrays(self, name: str) -> dict[str, ImageArray]:
        """The images among the arrays of that name, by their keys."""
        values = getattr(self, name, None)
        values = values if isinstance(values, dict) else {"": values}
        return {key: value for key, value in values.items() if isinstance(value, ImageArray)}

    def _with(self, name: str, tables: Iterable[ImageTable]) -> Any:
        """The arrays of that name with images of these tables."""
        values, shapes = getattr(self, name), self.obs_shape
        images: dict[str, Any] = {
            part.name: ImageArray(table, image, shapes[part.name] if isinstance(shapes, dict) else shapes)
            for table in tables
            for image, part in enumerate(table.store.parts)
        }
        return values | images if isinstance(values, dict) else images.get("", values)

    def _added(self) -> None:
        """Do what is due after a step was added."""
        raise NotImplementedError

    def _steps(self) -> int:
        """Steps of each environment held now."""
        raise NotImplementedError

    def _image_stores(self) -> list[ImageStore]:
        raise NotImplementedError

    def _tables(self) -> Sequence[ImageTable]:
        raise NotImplementedError

    def _plain_bytes(self) -> int:
        """Bytes of the arrays that are kept as Stable-Baselines3 keeps them."""
        values = list(vars(self).values())
        values += [entry for value in values if isinstance(value, dict) for entry in value.values()]
        return sum(value.nbytes for value in values if isinstance(value, np.ndarray))

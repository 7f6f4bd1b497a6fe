"""ReplayStorage: a storage of TorchRL with compressed images."""

from __future__ import annotations

import warnings
from multiprocessing.context import get_spawning_popen
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import LazyStackedTensorDict, TensorDictBase
from torchrl.data.replay_buffers.storages import LazyTensorStorage

from diffreplay import codecs
from diffreplay.codecs import Codec
from diffreplay.errors import InputError
from diffreplay.parts import ArraySpec, Part
from diffreplay.stats import ReplayStats
from diffreplay.tables import image_of
from diffreplay.torchrl.cursors import entries_at
from diffreplay.torchrl.files import Checkpointer
from diffreplay.torchrl.images import CodedImages
from diffreplay.torchrl.state import images_state, load_images, loaded
from diffreplay.torchrl.tensor import ImageTensor, Key, leaves
from diffreplay.torchrl.usage import storage_stats

DTYPES = {torch.uint8: "uint8", torch.uint16: "uint16"}
NO_IMAGES = (
    "ReplayStorage: expected images, which are uint8 or uint16 tensors of two or more axes an item, got none; "
    "everything is kept uncompressed, as in LazyTensorStorage. Where a transform such as ToTensorImage makes floats of "
    "them, have the replay buffer apply it instead of the environment: buffer.append_transform(...)"
)


class ReplayStorage(LazyTensorStorage):
    """TorchRL's `LazyTensorStorage`, with images kept compressed, losslessly.

    Images are the uint8 and uint16 tensors of two or more axes an item, under any key of a TensorDict. An image of
    ("next", key) that is the one of `key` of another item is stored once: their bytes are compared. All else lies in
    plain memory, as in `LazyTensorStorage`. What any index reads and writes, and what samplers draw, is as there, bit
    for bit.

    A slice, `storage[:]`, holds images that are decoded when they are used. Images are written in this process alone,
    and read in it, by any of its threads. A pickle is a copy; a storage cannot be given to another process that goes on
    with the same memory.

    Args:
        max_size: items held at most.
        ndim: axes of the storage, as of `LazyTensorStorage`.
        device: the CPU.
        codec: "raw", "sparse", "zstd", "delta" (the default) or a codec instance.
        frame_stack: frames in an image, the same for all keys; None finds it from the first images. What is wrong costs
            compression, never exactness.

    Raises:
        InputError: an argument makes no sense.
        UnknownCodecError: no such codec.

    Examples:
        >>> from tensordict import TensorDict
        >>> from torchrl.data import TensorDictReplayBuffer
        >>> from diffreplay.torchrl import ReplayStorage
        >>> buffer = TensorDictReplayBuffer(storage=ReplayStorage(1000), batch_size=8)
        >>> pixels = torch.zeros(16, 4, 84, 84, dtype=torch.uint8)
        >>> index = buffer.extend(TensorDict({"pixels": pixels, "next": {"pixels": pixels}}, [16]))
        >>> buffer.sample()["pixels"].shape
        torch.Size([8, 4, 84, 84])
    """

    _default_checkpointer = Checkpointer
    _storage: Any

    def __init__(
        self,
        max_size: int,
        *,
        ndim: int = 1,
        device: torch.device | str = "cpu",
        codec: str | Codec = codecs.DEFAULT,
        frame_stack: int | None = None,
    ) -> None:
        for name, value in {"max_size": max_size, "ndim": ndim}.items():
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise InputError(f"{name}: expected a positive integer, got {value!r}")
        if str(device).partition(":")[0] != "cpu":
            raise InputError(f"device: expected the CPU, where images are compressed, got {device}; move what is drawn")
        self._codec, self._frame_stack = codecs.get(codec), frame_stack
        self._images: dict[Key, tuple[CodedImages, int]] = {}
        super().__init__(int(max_size), ndim=int(ndim))

    def stats(self) -> ReplayStats:
        """Counts and bytes now. Stacked bytes are those of the images as plain tensors, next ones included.

        What is kept uncompressed counts as scalars.
        """
        plain = self._plain().bytes() if isinstance(self._storage, TensorDictBase) else 0
        return storage_stats(self._cameras(), len(self), plain)

    def set(self, cursor: Any, data: Any, *, set_cursor: bool = True) -> None:
        """Write items.

        Args:
            cursor: an index of the items: a number, a slice, a range, a list, an array or a tensor.
            data: a TensorDict of as many, or a list of TensorDicts.
            set_cursor: whether the storage's length and cursor follow.

        Raises:
            IndexingError: there is no such item.
            InputError: an image has another shape or dtype than those before.
            ReadOnlyError: this is another process than the one that made the storage.
        """
        if isinstance(data, list) and data and all(isinstance(one, TensorDictBase) for one in data):
            data = torch.stack(data)
        if not isinstance(data, TensorDictBase):
            if not self.initialized:
                warnings.warn(NO_IMAGES, stacklevel=2)
            super().set(cursor, data, set_cursor=set_cursor)
            return
        if not self.initialized:
            single = isinstance(cursor, int | np.integer) or (isinstance(cursor, torch.Tensor) and not cursor.ndim)
            self._init(data if single else data[0])
        keys = [key for key in self._images if key in data.keys(True, True)]
        if keys:
            entries = entries_at(cursor, tuple(self._storage.shape[: self.ndim]))
            if tuple(data.shape[: entries.ndim]) != entries.shape:
                raise InputError(f"data: expected items of shape {entries.shape}, got {tuple(data.shape)}")
            self._set_images(entries, {key: data.get(key) for key in keys}, data.get(("next", "done"), None))
            data = data.exclude(*keys)
            if isinstance(data, LazyStackedTensorDict):
                data = data.contiguous()
        super().set(cursor, data, set_cursor=set_cursor)

    def _set_images(self, entries: NDArray[np.int64], data: dict[Key, torch.Tensor], ended: Any) -> None:
        """Write images at entries of any shape, in the order in which they came to each row of the storage."""
        arrays = {key: self._checked(key, value, entries.shape) for key, value in data.items()}
        count = entries.ndim
        lanes = entries.ndim == self.ndim > 1
        order = np.moveaxis(entries, 0, -1).reshape(-1) if lanes else entries.reshape(-1)
        _, last = np.unique(order[::-1], return_index=True)  # where an entry comes twice, the later one counts
        kept = np.sort(len(order) - 1 - last)

        def sorted_out(array: NDArray[Any]) -> NDArray[Any]:
            array = np.moveaxis(array, 0, count - 1) if lanes else array
            flat = array.reshape(len(order), *array.shape[count:])
            return flat if len(kept) == len(order) else flat[kept]

        if ended is not None:
            ended = ended.detach().cpu().numpy()
            ended = ended.reshape(*entries.shape, -1).any(axis=-1) if ended.size else None
        for images in self._cameras():
            its: list[Any] = [None] * len(images.tables)
            for key, array in arrays.items():
                if self._images[key][0] is images:
                    its[self._images[key][1]] = sorted_out(array)
            if any(some is not None for some in its):
                images.write(order[kept], its, None if ended is None else sorted_out(ended))

    def _checked(self, key: Key, value: torch.Tensor, shape: tuple[int, ...]) -> NDArray[Any]:
        images = self._images[key][0]
        expected = (*shape, *images.item)
        if value.dtype not in DTYPES or DTYPES[value.dtype] != images.part.dtype:
            raise InputError(f"{'.'.join(key)}: expected {images.part.dtype} as before, got {value.dtype}")
        try:
            return np.broadcast_to(value.detach().cpu().numpy(), expected)
        except ValueError:
            raise InputError(f"{'.'.join(key)}: expected shape {expected}, got {tuple(value.shape)}") from None

    def _init_standard(self, data: Any) -> None:
        if not isinstance(data, TensorDictBase):
            super()._init_standard(data)
            return
        lanes = self.ndim - 1
        found = [key for key, value in leaves(data) if value.dtype in DTYPES and value.ndim - lanes >= 2]
        if not found:
            warnings.warn(NO_IMAGES, stacklevel=4)
        parts = {key: self._part(key, data.get(key), lanes) for key in found}
        super()._init_standard(data.exclude(*found))
        self._open(parts, {key: tuple(data.get(key).shape[lanes:]) for key in found})

    def _open(self, parts: dict[Key, Part], items: dict[Key, tuple[int, ...]]) -> None:
        """Have images under these keys, a key and its next one together."""
        shape = tuple(self._storage.shape[: self.ndim])
        for key, part in parts.items():
            partner = ("next", *key)
            if key in self._images:
                continue
            before = key[1:]
            if key[0] == "next" and parts.get(before) == part and items[before] == items[key]:
                continue  # comes with the other
            count = 2 if parts.get(partner) == part and items[partner] == items[key] else 1
            images = CodedImages(part, items[key], shape, count, self._codec, guessed=self._frame_stack is None)
            for which, its in enumerate((key, partner)[:count]):
                self._images[its] = images, which
                self._storage.set(its, ImageTensor(images, which))

    def _part(self, key: Key, value: torch.Tensor, lanes: int) -> Part:
        shape = tuple(value.shape[lanes:])
        if 0 in shape:
            raise InputError(f"{'.'.join(key)}: expected images with pixels, got shape {shape}")
        first = len(shape) != 3 or shape[0] == min(shape)
        stack = self._frame_stack if len(shape) > 2 else None
        return image_of("", shape, DTYPES[value.dtype], stack, channels_first=first)

    @property
    def has_images(self) -> bool:
        """Whether any of its tensors are kept compressed."""
        return bool(self._images)

    def _cameras(self) -> list[CodedImages]:
        """The images, those of a key and of its next one once."""
        return list({id(images): images for images, _ in self._images.values()}.values())

    def _plain(self) -> TensorDictBase:
        """What is no image."""
        return self._storage.exclude(*self._images)

    def _empty(self) -> None:
        super()._empty()
        for images in self._cameras():
            images.clear()

    def state_dict(self) -> dict[str, Any]:
        """All of it, images coded as they are, for `load_state_dict`; `torch.load` needs no `weights_only=False`."""
        if self.initialized and not isinstance(self._storage, TensorDictBase):
            state: dict[str, Any] = super().state_dict()
            return state
        plain = self._plain().state_dict() if self.initialized else {}
        cameras = []
        for images in self._cameras():
            keys = [list(key) for key, (some, _) in self._images.items() if some is images]
            spec = [images.part.spec.to_json(), images.part.frame_stack, list(images.item)]
            cameras.append({"keys": keys, "spec": spec, "of": images_state(images)})
        counts = {"initialized": self.initialized, "_len": self._len, "max_size": self.max_size}
        return {"_storage": plain, **counts, "images": cameras}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what the `state_dict` of a `ReplayStorage` holds, or that of a `LazyTensorStorage`, which is coded.

        Raises:
            InputError: it is of another size or of another codec.
            CorruptDataError: it is damaged.
        """
        if "images" not in state_dict:
            other = LazyTensorStorage(self.max_size, ndim=self.ndim)
            other.load_state_dict(state_dict)
            self.take_over(other)
            return
        if state_dict["max_size"] != self.max_size:
            raise InputError(f"max_size: expected {state_dict['max_size']}, as in the state, got {self.max_size}")
        plain: Any = loaded(state_dict["_storage"]) if state_dict["initialized"] else None
        found: dict[Key, tuple[CodedImages, int]] = {}
        for one in state_dict["images"]:
            spec, stack, item = one["spec"]
            part, shape = Part("", ArraySpec.from_json(spec), stack), tuple(plain.shape[: self.ndim])
            images = CodedImages(part, tuple(item), shape, len(one["keys"]), self._codec, guessed=False)
            load_images(images, one["of"])
            found |= {tuple(key): (images, which) for which, key in enumerate(one["keys"])}
        for key, (images, which) in found.items():
            plain.set(key, ImageTensor(images, which))
        self._storage, self._images = plain, found
        self.initialized, self._len = state_dict["initialized"], state_dict["_len"]
        self.__dict__.pop("_total_shape_value", None)
        self._bump_mutation_revision()

    def take_over(self, other: LazyTensorStorage) -> None:
        """Be as another storage, which is used no more; its images are coded."""
        data, length = other._storage, len(other)
        self._storage, self._images, self._len, self.initialized = None, {}, 0, False
        self.__dict__.pop("_total_shape_value", None)
        if isinstance(data, TensorDictBase):
            steps = length if self.ndim == 1 else -(-length // data.shape[1 : self.ndim].numel())
            if length > self.max_size:
                raise InputError(f"max_size: expected at least {length}, to load so many items, got {self.max_size}")
            self.set(range(steps), data[:steps], set_cursor=False)
        else:
            self._storage, self.initialized = data, other.initialized
        self._len = length
        self._bump_mutation_revision()

    def __getstate__(self) -> dict[str, Any]:
        if get_spawning_popen() is not None:
            raise InputError(
                "ReplayStorage: expected to stay in the process that made it, got another one started with it; have "
                "collectors of other processes hand their data over, and use prefetch= to sample in threads"
            )
        return super().__getstate__()

    def __repr__(self) -> str:
        if not self.initialized:
            return f"ReplayStorage(empty, max_size={self.max_size})"
        return f"ReplayStorage({len(self)} of {self.max_size}, images {['.'.join(key) for key in self._images]})"

"""ImageTensor: what looks like a tensor of images, and decodes those that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from tensordict import TensorDictBase

from diffreplay.errors import InputError
from diffreplay.tables import table_key
from diffreplay.torchrl.images import CodedImages

Key = tuple[str, ...]
# What is answered without pixels.
OF_SHAPES = {"__get__", "size", "dim", "numel", "stride", "element_size", "is_contiguous", "__len__", "is_pinned"}


class ImageTensor(torch.Tensor):
    """Stands for a tensor (*entries, *item) of images, or of some of its steps.

    A slice of steps is a view, as of a tensor. Any other index, and every function, decodes what it needs into a tensor
    of its own. Images are written by an index, or by `copy_`, `fill_` and `zero_`.

    Args:
        images: where they are.
        which: of the images' tables.
        steps: of the first axis.
    """

    images: CodedImages
    which: int
    steps: range

    @staticmethod
    def __new__(cls, images: CodedImages, which: int, steps: range | None = None) -> ImageTensor:
        steps = range(images.shape[0]) if steps is None else steps
        shape = (len(steps), *images.shape[1:], *images.item)
        dtype = torch.from_numpy(np.empty(0, images.part.dtype)).dtype
        tensor = cast(Any, torch.Tensor)._make_wrapper_subclass(cls, shape, dtype=dtype, device="cpu")
        tensor.images, tensor.which, tensor.steps = images, which, steps
        return cast(ImageTensor, tensor)

    def __getitem__(self, key: Any) -> torch.Tensor:
        if isinstance(key, tuple) and len(key) == 1:
            key = key[0]
        if isinstance(key, slice):
            return ImageTensor(self.images, self.which, self.steps[key])
        taken = table_key(_each(_array, key), len(self.images.shape), tuple(self.shape))
        return self._decoded(...)[key] if taken is None else self._decoded(taken)

    def __setitem__(self, key: Any, value: Any) -> None:
        shape = self.images.shape
        numbers = np.arange(int(np.prod(shape))).reshape(shape)[_slice(self.steps)]
        key = _each(_array, key)
        if table_key(key, len(shape), tuple(self.shape)) is None:
            raise InputError(f"index: expected one that takes whole images, got {key!r}")
        entries = numbers[key]
        images = np.broadcast_to(_pixels(value, self.dtype), (*entries.shape, *self.images.item))
        some: list[Any] = [None] * len(self.images.tables)
        some[self.which] = images.reshape(-1, *self.images.item)
        self.images.write(entries.reshape(-1), some)

    def _decoded(self, key: Any) -> torch.Tensor:
        return torch.from_numpy(self.images.read(self.which, key, _slice(self.steps)))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return ImageTensor, (self.images, self.which, self.steps)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"ImageTensor(shape={tuple(self.shape)}, dtype={self.dtype})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in OF_SHAPES:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        if isinstance(args[0] if args else None, cls) and name in ("copy_", "fill_", "zero_"):
            args[0][...] = args[1] if len(args) > 1 else 0
            return args[0]
        return _apply(func, name, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _apply(func, str(func).split(".")[-2] if "." in str(func) else str(func), args, kwargs or {})


def _apply(func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """A function of tensors that are decoded."""
    if (name.endswith("_") and not name.endswith("__")) or kwargs.get("out") is not None or name == "__setitem__":
        raise InputError(
            f"{name}: expected a function that changes no image in place, got one that does; assign images by an index"
        )
    return func(*_each(_tensor, args), **_each(_tensor, kwargs))


def _each(function: Callable[[Any], Any], value: Any) -> Any:
    """What a function gives for each value in tuples, lists and mappings."""
    if isinstance(value, tuple | list):
        return type(value)([_each(function, one) for one in value])
    if isinstance(value, dict):
        return {name: _each(function, one) for name, one in value.items()}
    return function(value)


def _tensor(value: Any) -> Any:
    return value._decoded(...) if isinstance(value, ImageTensor) else value


def _array(value: Any) -> Any:
    """A part of an index as NumPy takes it."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return np.asarray(value, np.int64) if isinstance(value, range) else value


def _pixels(value: Any, dtype: torch.dtype) -> Any:
    """What is written as an array.

    Raises:
        InputError: it has another dtype.
    """
    if not isinstance(value, torch.Tensor):
        value = torch.as_tensor(value, dtype=dtype)
    if value.dtype != dtype:
        raise InputError(f"images: expected {dtype}, got {value.dtype}")
    return value.detach().cpu().numpy()


def _slice(steps: range) -> slice:
    return slice(steps.start, steps.stop, steps.step)


def leaves(data: TensorDictBase) -> Sequence[tuple[Key, torch.Tensor]]:
    """The tensors of a TensorDict by their keys as tuples."""
    try:
        items = list(data.items(include_nested=True, leaves_only=True))
    except RuntimeError:  # a lazy stack of tensors of several shapes, which TorchRL keeps apart
        return []
    return [
        (key if isinstance(key, tuple) else (key,), value) for key, value in items if isinstance(value, torch.Tensor)
    ]

"""What callers pass as observations, checked and converted before anything is written."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.errors import InputError
from diffreplay.parts.part import Part


class ObservationCheck:
    """Checks observations against the parts of one buffer.

    Args:
        parts: as `parts_of` gives them.
    """

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self.parts = parts
        self._names = [part.name for part in parts]
        self._is_plain = self._names == [""]

    def stacks(self, name: str, value: Any) -> tuple[NDArray[Any], ...]:
        """The frames of each part of an observation, oldest first; see `Part.stack`.

        Args:
            name: of the argument.
            value: an array, or a mapping from the parts' names to arrays; in nested mappings, "a/b" is the part
                `value["a"]["b"]`. Images are of the part's dtype; others hold values that the dtype does, see `held`.

        Raises:
            InputError: a part is missing or unknown, or has the wrong shape or values.
        """
        if self._is_plain:
            return (_stack(self.parts[0], name, value),)
        values = self._values(name, value)
        return tuple([_stack(part, name, item) for part, item in zip(self.parts, values, strict=True)])

    def arrays(self, name: str, value: Any) -> list[NDArray[Any]]:
        """The arrays that several observations have for each part, of which nothing is known yet.

        Args:
            name: of the argument.
            value: as of `stacks`; every array has a leading axis (N, ...).

        Raises:
            InputError: a part is missing or unknown, or no array of numbers.
        """
        values = [value] if self._is_plain else self._values(name, value)
        return [
            item if type(item) is np.ndarray else _array(_label(part, name), item, part.dtype, _leading(part.shape))
            for part, item in zip(self.parts, values, strict=True)
        ]

    def many(self, name: str, arrays: list[NDArray[Any]], count: int) -> list[NDArray[Any]]:
        """The frames of each part of `count` observations, (count, frame_stack, ...); see `Part.stacks`.

        Raises:
            InputError: a part has the wrong shape or values.
        """
        return [
            part.stacks(_checked(part, name, array, (count, *part.shape)))
            for part, array in zip(self.parts, arrays, strict=True)
        ]

    def _values(self, name: str, value: Any) -> list[Any]:
        """What an observation has for each part."""
        if type(value) is dict and len(value) == len(self._names):
            try:
                return [value[part] for part in self._names]
            except KeyError:
                pass  # its mappings are nested, or a part is missing
        if not isinstance(value, Mapping):
            raise InputError(f"{name}: expected a mapping with the parts {_listed(self._names)}, got {_kind(value)}")
        pairs = list(_flat(value))
        found = dict(pairs)
        faults = {
            "missing": [part for part in self._names if part not in found],
            "unknown": [part for part in found if part not in self._names],
            "there twice": [part for k, (part, _) in enumerate(pairs) if part in dict(pairs[:k])],
        }
        told = [
            f"{_listed(parts)} {'is' if len(parts) == 1 else 'are'} {what}" for what, parts in faults.items() if parts
        ]
        if told:
            raise InputError(f"{name}: expected the parts {_listed(self._names)}, but {' and '.join(told)}")
        return [found[part] for part in self._names]


def held(name: str, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...], *, finite: bool = False) -> NDArray[Any]:
    """An array in a dtype that holds the very values that came; floats are rounded, and may be infinite or NaN.

    Args:
        name: of the argument.
        value: an array of numbers, or what NumPy makes one of.
        dtype: wanted.
        shape: wanted.
        finite: floats may be neither infinite nor NaN.

    Raises:
        InputError: it has another shape, or values that the dtype does not hold.
    """
    array = value if type(value) is np.ndarray else _array(name, value, dtype, shape)
    kind = array.dtype.kind
    if array.shape != shape or not (kind in "biu" or kind == "f" == dtype.kind):
        if kind == "O" and array.shape == shape and all(type(item) is int for item in array.flat):
            raise _not_held(name, dtype, array, finite)  # of more than 64 bits
        raise _other(name, value, dtype, shape, array)
    if array.dtype == dtype and not (finite and kind == "f"):
        return array
    with np.errstate(all="ignore"):
        cast = array.astype(dtype)
        if kind == "f":
            fits = np.isfinite(cast) if finite else np.isfinite(cast) | ~np.isfinite(array)
        else:  # the float of 2**53 + 1 compares as equal to it, so that floats are cast back
            fits = cast == array if dtype.kind != "f" else cast.astype(array.dtype) == array
    if not fits.all():
        raise _not_held(name, dtype, array, finite)
    return cast


def _stack(part: Part, name: str, value: Any) -> NDArray[Any]:
    """The frames of one part."""
    if type(value) is np.ndarray and value.dtype == part.dtype and value.shape == part.shape:
        return part.stack(value)
    return part.stack(_checked(part, name, value, part.shape))


def _checked(part: Part, name: str, value: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """What came for one part as an array of its dtype and of a shape."""
    if type(value) is np.ndarray and value.dtype == part.dtype and value.shape == shape:
        return value
    name = _label(part, name)
    if not part.is_image:
        return held(name, value, part.dtype, shape)
    array = _array(name, value, part.dtype, shape)
    if array.shape != shape or array.dtype.newbyteorder("=") != part.dtype.newbyteorder("="):
        raise InputError(f"{_other(name, value, part.dtype, shape, array)}{_hint(shape, array)}")
    return array.astype(part.dtype, copy=False)


def _hint(shape: tuple[int, ...], array: NDArray[Any]) -> str:
    """What may help whoever gave an array that is no image of such a shape; nothing where that cannot be told."""
    if array.shape[1:] == shape:
        return "; add_batch takes the steps of several environments at once"
    if array.shape != shape and sorted(array.shape) == sorted(shape):
        return "; transpose it, or say its layout when the buffer is made, as ArraySpec(shape, layout=...)"
    if array.dtype.kind == "f" and array.shape == shape:
        return (
            f"; give the pixels before they are scaled, as images are uint8 or uint16; or an ArraySpec of "
            f"{array.dtype} stores floats, uncompressed"
        )
    return ""


def _leading(shape: tuple[int, ...]) -> str:
    """A shape behind an axis of any length, in words."""
    return f"(N, {', '.join(map(str, shape))})" if shape else "(N,)"


def _label(part: Part, name: str) -> str:
    """How an error calls a part."""
    return f"{name}[{part.name!r}]" if part.name else name


def _array(name: str, value: Any, dtype: np.dtype[Any], shape: object) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on a GPU or with a gradient
        raise InputError(f"{name}: expected {dtype} of shape {shape}, but {error}") from None


def _other(name: str, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...], array: NDArray[Any]) -> InputError:
    """The error for an array of another dtype or shape."""
    found = _kind(value) if isinstance(value, Mapping) else f"{array.dtype} of shape {array.shape}"
    return InputError(f"{name}: expected {dtype} of shape {shape}, got {found}")


def _not_held(name: str, dtype: np.dtype[Any], array: NDArray[Any], finite: bool) -> InputError:
    """The error for values that `dtype` does not hold."""
    if dtype.kind == "f":
        limits = f"{'finite ' if finite else ''}numbers that {dtype} can hold"
    elif dtype.kind == "b":
        limits = "0 or 1, as the dtype is bool"
    else:
        limits = f"numbers from {np.iinfo(dtype).min} to {np.iinfo(dtype).max}, as the dtype is {dtype}"
    shown = array.item() if array.size == 1 else reprlib.repr(array.tolist())
    return InputError(f"{name}: expected {limits}, got {shown}")


def _flat(value: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[Any, Any]]:
    """The items of nested mappings, by names such as "a/b"."""
    for key, item in value.items():
        name = f"{prefix}{key}" if isinstance(key, str) else key
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}/")
        else:
            yield name, item


def _kind(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, Mapping):
        return f"a mapping with {_listed(list(value))}"
    shape = getattr(value, "shape", None)
    return type(value).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")


def _listed(names: list[Any]) -> str:
    return ", ".join(map(repr, names)) or "nothing"

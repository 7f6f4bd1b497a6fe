"""Gymnasium's spaces as Minari's metadata holds them: what their arrays are, and the space of an array."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from diffreplay.datasets.needs import reason
from diffreplay.datasets.specs import dtype_of, observation_spec, spec_of
from diffreplay.errors import CorruptDataError, InputError
from diffreplay.parts import ArraySpec

LARGEST = 1 << 26  # numbers in a value of a space
DEEPEST = 8
IMAGE_SIDE = 32  # pixels; what is smaller Minari takes for no image
NUMBERS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")


def leaves(where: str, text: Any, action: bool = False) -> dict[str, dict[str, Any]]:
    """The spaces of numbers that a space is made of, by their names, such as "arm/front"; "" for itself.

    Args:
        where: it stands, for messages.
        text: the space, as the metadata has it.
        action: it is one of actions, which has no parts.

    Raises:
        CorruptDataError: it makes no sense.
        InputError: it is of a kind that a buffer does not hold.
    """
    try:
        found: dict[str, dict[str, Any]] = {}
        _walk(where, json.loads(text), "", found, 0 if action else DEEPEST)
    except InputError:
        raise
    except Exception as error:  # whatever may stand there
        raise CorruptDataError(
            f"{where}: expected a space as Minari writes it, got nonsense ({reason(error):.100})"
        ) from None
    return found


def _walk(where: str, space: dict[str, Any], name: str, found: dict[str, dict[str, Any]], deeper: int) -> None:
    kind = space["type"]
    if kind == "Dict" and deeper:
        for key, inner in space["subspaces"].items():
            _walk(where, inner, f"{name}/{key}" if name else str(key), found, deeper - 1)
        return
    if kind not in NUMBERS:
        raise InputError(f"{where}: expected a space of {', '.join(NUMBERS)} or a Dict of them, got {kind!r:.40}")
    if "dtype" in space:
        dtype_of(space["dtype"])
    if kind == "Box":
        shape = space["shape"]
        if any(type(side) is not int or side < 0 for side in shape) or math.prod(shape) > LARGEST:
            raise ValueError(f"shape {shape}")
        is_image(space)  # so that bounds that make no sense fail here
    found[name] = space


def is_image(space: dict[str, Any]) -> bool:
    """Whether Minari takes a space for one of images, which it codes as JPEG unless it is told not to."""
    if space["type"] != "Box" or space["dtype"] != "uint8" or len(space["shape"]) not in (2, 3):
        return False
    low, high = np.asarray(space["low"]), np.asarray(space["high"])
    return min(space["shape"][:2]) >= IMAGE_SIDE and bool((low == 0).all() and (high == 255).all())


def seen_spec(where: str, shape: tuple[int, ...], dtype: np.dtype[Any], frame_stack: int) -> ArraySpec:
    """The spec of one step's observation; gray images are two-dimensional here."""
    if len(shape) == 2 and dtype == np.uint8 and min(shape) >= IMAGE_SIDE:
        return spec_of(where, shape, dtype, "HW" if frame_stack == 1 else "FHW")
    return observation_spec(where, shape, dtype)


def box(spec: ArraySpec) -> dict[str, Any]:
    """A space that holds all values of a spec, as the metadata has it."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        low, high = -np.inf, np.inf
    elif dtype.kind == "b":
        low, high = 0, 1
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    both = {"low": np.full(spec.shape, low).tolist(), "high": np.full(spec.shape, high).tolist()}
    return {"type": "Box", "dtype": "int8" if dtype.kind == "b" else dtype.name, "shape": list(spec.shape), **both}


def nested(values: dict[str, Any], wrap: Any = dict) -> Any:
    """Values by such names as `leaves` gives, as a Dict has them: in one another."""
    if list(values) == [""]:
        return values[""]
    inner: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        key, _, rest = name.partition("/")
        inner.setdefault(key, {})[rest] = value
    return wrap({key: nested(value, wrap) for key, value in inner.items()})


def dict_space(subspaces: dict[str, Any]) -> dict[str, Any]:
    """A Dict of spaces, as the metadata has it."""
    return {"type": "Dict", "subspaces": subspaces}

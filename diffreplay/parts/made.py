"""Parts from what callers say of observations, and back to what JSON can hold."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffreplay.errors import InputError
from diffreplay.parts.part import Part
from diffreplay.parts.spec import ArraySpec, sides_of

LEAST_SIDE = 16  # pixels, of what is taken for an image by its sides alone


def extras_of(extras: Any) -> tuple[Part, ...]:
    """Further values of a step as parts of one frame, none of them an image.

    Args:
        extras: a mapping from names to ArraySpecs, or None.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(extras, Mapping | None):
        raise InputError(f"extras: expected a mapping from names to ArraySpecs, got {extras!r:.200}")
    found = []
    for name, spec in (extras or {}).items():
        if not isinstance(name, str) or not name:
            raise InputError(f"extras: expected values with names, got one called {name!r}")
        if not isinstance(spec, ArraySpec):
            raise InputError(f"extras[{name!r}]: expected an ArraySpec, got {spec!r}")
        found.append(Part(name, ArraySpec(spec.shape, spec.dtype, ""), 1))
    return tuple(found)


Shape = tuple[int, ...] | ArraySpec | Mapping[str, ArraySpec]


def shape_to_json(observation_shape: Shape) -> Any:
    """What `shape_from_json` takes, as JSON holds it."""
    if isinstance(observation_shape, Mapping):
        return {name: spec.to_json() for name, spec in observation_shape.items()}
    return {"": observation_shape.to_json()} if isinstance(observation_shape, ArraySpec) else list(observation_shape)


def shape_from_json(value: Any) -> Shape:
    """What `shape_to_json` gave.

    Raises:
        InputError: it did not give this.
    """
    if not isinstance(value, dict):
        return tuple(sides_of("observation_shape", value))
    specs = {name: ArraySpec.from_json(spec) for name, spec in value.items()}
    return specs[""] if list(specs) == [""] else specs


def parts_of(observation_shape: Any, frame_stack: int, channels_first: bool = False) -> tuple[Part, ...]:
    """The parts of the observations of a buffer, images first.

    Args:
        observation_shape: (frame_stack * C, H, W) of uint8 images, an ArraySpec, or a mapping from names to ArraySpecs.
        frame_stack: frames in an observation.
        channels_first: images are sampled as (f * C, H, W), whatever their layout.

    Raises:
        InputError: it is something else, or a layout takes no stack.
    """
    if not isinstance(channels_first, bool | np.bool_):
        raise InputError(f"channels_first: expected True or False, got {channels_first!r}")
    if isinstance(observation_shape, Mapping):
        if not observation_shape:
            raise InputError("observation_shape: expected at least one part, got an empty mapping")
        for name in observation_shape:
            if not isinstance(name, str) or not name:
                raise InputError(f"observation_shape: expected parts with names, got one called {name!r}")
        arrays = {f"observation_shape[{name!r}]": (name, spec) for name, spec in observation_shape.items()}
    elif isinstance(observation_shape, ArraySpec):
        arrays = {"observation_shape": ("", observation_shape)}
    else:
        arrays = {"observation_shape": ("", _plain("observation_shape", observation_shape, frame_stack))}
    for argument, (_, spec) in arrays.items():
        _check_spec(argument, spec, frame_stack)
    parts = [Part(name, spec, frame_stack, bool(channels_first)) for name, spec in arrays.values()]
    is_plain = not isinstance(observation_shape, Mapping | ArraySpec)
    for argument, part in zip(arrays, parts, strict=True):
        if part.spec.layout == "CHW":
            _warn_of_channels_last(argument, part, frame_stack if is_plain else 1)
    return tuple(sorted(parts, key=lambda part: not part.is_image))


def _plain(argument: str, shape: Any, frame_stack: int) -> ArraySpec:
    """The uint8 images of observations of shape (frame_stack * C, H, W)."""
    if not isinstance(shape, Iterable):
        raise InputError(
            f"{argument}: expected a tuple of positive integers, an ArraySpec or a mapping from names to ArraySpecs, "
            f"got {shape!r}{_hint(shape)}"
        )
    sides = sides_of(argument, shape)
    if len(sides) != 3 or sides[0] % frame_stack:
        raise InputError(f"{argument}: expected (frame_stack * C, H, W) with frame_stack {frame_stack}, got {sides}")
    return ArraySpec((sides[0] // frame_stack, *sides[1:]))


def _warn_of_channels_last(argument: str, part: Part, stack: int) -> None:
    """Warn of images read with their channels first whose sides look as if these came last.

    Args:
        argument: its name.
        part: what was made of it.
        stack: frames that the given shape counts in.
    """
    first, second, last = sides = part.shape if stack > 1 else part.spec.shape
    if min(first, second) < LEAST_SIDE or last not in (stack, 3 * stack, 4 * stack):
        return
    here = sys._getframe()
    package, level = str(Path(__file__).parents[1]), 1
    while here.f_back is not None and here.f_code.co_filename.startswith(package):
        here, level = here.f_back, level + 1
    f = "f * " if stack > 1 else ""
    warnings.warn(
        f"{argument}: {sides} is read as ({f}C, H, W), images of {second} x {last} pixels with {first // stack} "
        f"channels; if it is (H, W, {f}C), images of {first} x {second} pixels with {last // stack} channels, give "
        f'ArraySpec({(first, second, last // stack)}, "{part.dtype.name}", layout="HWC") (to estimate as specs=)',
        RuntimeWarning,
        stacklevel=level,
    )


def _check_spec(argument: str, spec: Any, frame_stack: int) -> None:
    if not isinstance(spec, ArraySpec):
        raise InputError(f"{argument}: expected an ArraySpec, got {spec!r}{_hint(spec)}")
    if spec.layout == "HW" and frame_stack > 1:
        raise InputError(
            f"{argument}: expected layout 'FHW' with frame_stack {frame_stack}, as observations are (f, H, W), got 'HW'"
        )


def _hint(value: Any) -> str:
    """What to do with a Gymnasium space, which is told by its method `contains`."""
    return "; of Gymnasium's spaces, ReplayBuffer.from_spaces makes a buffer" if hasattr(value, "contains") else ""

"""From Gymnasium's spaces to what a buffer is told: the arrays of a step and of an action.

Gymnasium is imported when a space is looked at, as nothing else of the library needs it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from diffreplay.errors import InputError
from diffreplay.parts import LAYOUTS, LEAST_SIDE, ArraySpec

Leaf = tuple[tuple[int, ...], np.dtype[Any]]
"""Shape and dtype of the arrays of a space."""
ARRAYS = "Box, Discrete, MultiDiscrete or MultiBinary"
MOST_CHANNELS = 4
"""Of a frame, where it is not said which axis holds them."""


def specs_of(
    observation_space: Any, frame_stack: int = 1, layouts: Mapping[str, str] | str | None = None
) -> ArraySpec | dict[str, ArraySpec]:
    """What the observations of a space are made of, for `ReplayBuffer`.

    Arrays of uint8 and uint16 with three dimensions are images, or with four where frames have an axis of their own;
    with two dimensions they are gray images where `frame_stack` is 1. The axis of 1 to 4 channels a frame is found by
    its size; where two axes may be it, or none, the error asks for `layouts`. All else is stored as it is, and so are
    images of floats: no bit of them is lost, but they take their raw size, so that images are better left in uint8.

    Args:
        observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or Dict of such. A Dict within it gives parts
            named "outer/inner": observations are added nested as they come, and batches have them by these names.
            Of a vector environment take `single_observation_space`.
        frame_stack: frames in an observation, which the space counts in already, for each part of a Dict: along an
            axis of their own, the first, as of `gymnasium.wrappers.FrameStackObservation`, or within another one.
        layouts: the layout of a space, see `ArraySpec`, where it is not told by the shape; of a Dict those of parts,
            by name.

    Returns:
        One ArraySpec, or of a Dict one for each part.

    Raises:
        InputError: a space is of another kind, is no such stack, or can be read in several ways.
    """
    if not isinstance(observation_space, _spaces().Dict):
        leaf = _leaf(_label(None), observation_space, f"Dict, {ARRAYS}")
        if layouts is not None and not isinstance(layouts, str):
            raise InputError(f"layouts: expected one layout, as the space is no Dict, got {layouts!r}")
        return _spec(None, leaf, frame_stack, layouts)
    leaves: dict[str, Leaf] = {}
    for name, space in _flat(observation_space):
        if name in leaves:
            raise InputError(f"observation_space: expected parts with different names, got {name!r} twice")
        leaves[name] = _leaf(_label(name), space, f"Dict, {ARRAYS}")
    if not leaves:
        raise InputError("observation_space: expected at least one part, got an empty Dict")
    if layouts is None:
        layouts = {}
    if not isinstance(layouts, Mapping) or not set(layouts) <= set(leaves):
        parts = ", ".join(map(repr, leaves))
        raise InputError(f"layouts: expected a mapping from names of parts, {parts}, to layouts, got {layouts!r}")
    return {name: _spec(name, leaf, frame_stack, layouts.get(name)) for name, leaf in leaves.items()}


def warn_of_what_is_not_compressed(observations: ArraySpec | Mapping[str, ArraySpec], said: bool) -> None:
    """Warn of images of floats, and of images of four channels that may be a stack; the caller's caller gets it.

    Args:
        observations: what `specs_of` made.
        said: whether the user has said how many frames an image shows, or where its channels lie.
    """
    parts = [(None, observations)] if isinstance(observations, ArraySpec) else observations.items()
    for name, spec in parts:
        label, shape = _label(name), spec.shape
        if np.dtype(spec.dtype).kind == "f" and len(shape) > 1 and sorted(shape)[-2] >= LEAST_SIDE:
            warnings.warn(
                f"{label}: images of {np.dtype(spec.dtype)}, {shape}, are kept as they are, uncompressed; give pixels "
                "of uint8 or uint16, before they are scaled, and scale batches",
                RuntimeWarning,
                stacklevel=3,
            )
        elif spec.layout == "CHW" and shape[0] == MOST_CHANNELS and not said:
            warnings.warn(
                f"{label}: {shape} is read as one frame of {MOST_CHANNELS} channels; if it is a stack of "
                f"{MOST_CHANNELS} frames, each of which is stored once, give frame_stack={MOST_CHANNELS}, and else "
                "frame_stack=1",
                RuntimeWarning,
                stacklevel=3,
            )


def action_of(action_space: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of the actions of a space, for `ReplayBuffer`.

    Args:
        action_space: Box, Discrete, MultiDiscrete or MultiBinary. Of a vector environment take `single_action_space`.

    Raises:
        InputError: it is of another kind.
    """
    return _leaf("action_space", action_space, ARRAYS)


def _spaces() -> Any:
    from gymnasium import spaces

    return spaces


def _label(name: str | None) -> str:
    """How an error calls a part of a Dict, or the space that is none."""
    return "observation_space" if name is None else f"observation_space[{name!r}]"


def _flat(space: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The spaces in a Dict, those in a Dict of it by names such as "outer/inner"."""
    for name, inner in space.items():
        if isinstance(inner, _spaces().Dict):
            yield from _flat(inner, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", inner


def _leaf(label: str, space: Any, expected: str) -> Leaf:
    spaces = _spaces()
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        hint = "; gymnasium.spaces.flatten makes one array of most values" if isinstance(space, spaces.Space) else ""
        raise InputError(f"{label}: expected {expected} of gymnasium.spaces, got {type(space).__name__}{hint}")
    return tuple(map(int, space.shape)), np.dtype(space.dtype)


def _spec(name: str | None, leaf: Leaf, frame_stack: int, layout: str | None) -> ArraySpec:
    """The ArraySpec of a part of a Dict, or of the space that is none."""
    label, (shape, dtype) = _label(name), leaf
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"layouts: expected one of {', '.join(map(repr, LAYOUTS))} for {label}, got {layout!r}")
    if layout is None:
        layout = _layout(name, leaf, frame_stack)
    frame = _frame(shape, layout, frame_stack)
    if frame is None:
        raise InputError(f"{label}: expected a stack of frame_stack {frame_stack} with layout {layout!r}, got {shape}")
    try:
        return ArraySpec(frame, dtype, layout)
    except InputError as error:
        raise InputError(f"{label} of shape {shape}: {error}") from None


def _frame(shape: tuple[int, ...], layout: str, frame_stack: int) -> tuple[int, ...] | None:
    """The shape of one frame of a stack; None where that is none of the layout."""
    if layout.startswith("F"):
        return shape[1:] if shape[:1] == (frame_stack,) else None
    if frame_stack == 1:
        return shape
    axis = 2 if layout == "HWC" else 0
    if layout == "HW" or len(shape) <= axis or shape[axis] % frame_stack:
        return None
    return (*shape[:axis], shape[axis] // frame_stack, *shape[axis + 1 :])


def _layout(name: str | None, leaf: Leaf, frame_stack: int) -> str:
    """The layout that a shape tells.

    Raises:
        InputError: it tells none, or more than one.
    """
    shape, dtype = leaf
    column = "F" if shape[:1] == (frame_stack,) and frame_stack > 1 else ""
    if dtype not in ("uint8", "uint16") or len(shape) < 2 or (len(shape) == 2 and frame_stack > 1):
        return column
    if len(shape) == 2:
        return "HW"
    channels = _images(shape, frame_stack)
    likely = [layout for layout, count in channels.items() if 1 <= count <= MOST_CHANNELS]
    if len(likely) == 1:
        return likely[0]
    ways = {layout: _counted(layout, channels[layout]) for layout in likely or channels}
    if not likely and _frame(shape, column, frame_stack):
        ways[column] = f"{column!r} (no image, stored as it is)"
    if not ways:
        raise InputError(f"{_label(name)}: expected a stack of frame_stack {frame_stack}, got {shape}")
    answer = next(iter(ways)) if name is None else {name: next(iter(ways))}
    hint = "; of a vector environment, take single_observation_space" if len(shape) > 3 else ""
    if likely:
        expected, what = "a shape that can be read in one way", "which may be"
    else:
        expected = f"an image of 1 to {MOST_CHANNELS} channels"
        what = "which it does not fit: give the frame_stack that it has; else it may be"
    raise InputError(
        f"{_label(name)}: expected {expected}, got {shape} with frame_stack {frame_stack}, {what} "
        f"{' or '.join(ways.values())}: say which, as layouts={answer!r}{hint}"
    )


def _counted(layout: str, channels: int) -> str:
    return f"{layout!r} ({channels} channel{'s' * (channels != 1)})"


def _images(shape: tuple[int, ...], frame_stack: int) -> dict[str, int]:
    """As which images a shape can be read, and how many channels a frame has then."""
    if len(shape) == 3:
        # With one channel, "CHW" and "FHW" are the same.
        first = "FHW" if shape[0] == frame_stack > 1 else "CHW"
        axes = {first: 0, "HWC": 2}
        return {layout: shape[k] // frame_stack for layout, k in axes.items() if not shape[k] % frame_stack}
    if len(shape) == 4 and shape[0] == frame_stack:
        return {"FCHW": shape[1], "FHWC": shape[3]}
    return {}

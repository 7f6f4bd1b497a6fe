"""Checks that an episode is what its source said, before any of it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets.episode import Description, Episode
from diffreplay.errors import InputError
from diffreplay.parts import ArraySpec

FLOAT32_MAX = float(np.finfo(np.float32).max)


def check_episode(description: Description, episode: Episode, where: str) -> None:
    """Refuse an episode of a source, `where`, that is not what was said.

    Raises:
        InputError: names the episode, what was expected and what came.
    """
    name = f"{where}, {episode.name}" if episode.name else where
    steps = _steps(name, episode)
    observations = steps + (episode.ends and description.final_observation)
    frames = description.frame_stack if episode.stacked else 1
    specs = {key: _stacked(spec, frames) for key, spec in description.parts.items()}
    _check_all(name, "observations", episode.parts, specs, observations)
    _check(name, "actions", episode.actions, description.action, steps)
    _check(name, "rewards", episode.rewards, description.reward, steps)
    _check_all(name, "extras", episode.extras, description.extras, steps)
    _check_finite(name, "actions", episode.actions, np.inf)
    _check_finite(name, "rewards", episode.rewards, FLOAT32_MAX)
    if episode.discounts is not None:
        _check(name, "discounts", episode.discounts, ArraySpec((), "float32"), steps)
        _check_finite(name, "discounts", episode.discounts, FLOAT32_MAX)


def _steps(name: str, episode: Episode) -> int:
    """How many actions an episode says that it has."""
    actions = episode.actions
    if not isinstance(actions, np.ndarray) or not actions.ndim:
        raise InputError(f"{name}: expected an array of actions, got {actions!r:.80}")
    if not len(actions):
        raise InputError(f"{name}: expected at least one action, got none")
    return len(actions)


def _stacked(spec: ArraySpec, frames: int) -> ArraySpec:
    return spec if frames == 1 else ArraySpec(spec.stacked(frames), spec.dtype, "")


def _check_all(name: str, what: str, arrays: Any, specs: Mapping[str, ArraySpec], count: int) -> None:
    if not isinstance(arrays, Mapping) or arrays.keys() != specs.keys():
        found = sorted(arrays) if isinstance(arrays, Mapping) else type(arrays).__name__
        raise InputError(f"{name}: expected {what} of {sorted(specs)}, got {found}")
    for key, spec in specs.items():
        _check(name, f"{what}[{key!r}]" if key else what, arrays[key], spec, count)


def _check(name: str, what: str, array: NDArray[Any], spec: ArraySpec, count: int) -> None:
    expected = (count, *spec.shape)
    if not isinstance(array, np.ndarray) or array.dtype != np.dtype(spec.dtype) or array.shape != expected:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else f"{array!r:.60}"
        raise InputError(f"{name}: expected {what} of {np.dtype(spec.dtype)} {expected}, got {found}")


def _check_finite(name: str, what: str, array: NDArray[Any], most: float) -> None:
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and np.abs(array).max(initial=0) <= most):
        place = int(np.argwhere(~(np.isfinite(array) & (np.abs(array) <= most)))[0][0])
        raise InputError(f"{name}: expected finite {what}, got {array[place].tolist()!r:.60} at step {place}")

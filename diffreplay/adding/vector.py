"""The step of a vector environment as transitions: checked whole, before anything of it is written."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.checks import FLOAT32_MAX, StepCheck, finite, stream_name
from diffreplay.errors import InputError
from diffreplay.store import Stack, Transition

Stacks = list[Stack]


def transitions(
    check: StepCheck,
    obs: Any,
    action: Any,
    reward: Any,
    next_obs: Any,
    terminated: Any,
    truncated: Any,
    streams: Any = None,
    extras: Any = None,
    infos: Any = None,
    skip: Any = None,
) -> list[Transition]:
    """What `ReplayBuffer.add_batch` is given, one transition for each environment whose step is one.

    Raises:
        InputError: an argument is wrong, or they are of different numbers of environments.
    """
    before, after = check.observations.arrays("obs", obs), check.observations.arrays("next_obs", next_obs)
    given = {"action": action, "reward": reward, "terminated": terminated, "truncated": truncated, "skip": skip}
    arrays = {name: _array(name, value) for name, value in given.items() if value is not None or name != "skip"}
    names = None if streams is None else _names(streams)
    check.no_extras(extras)
    further = check.extras.arrays("extras", extras) if check.extras else []
    count = _count({"obs": before, "next_obs": after, **{n: [a] for n, a in arrays.items()}, "extras": further}, names)
    ends, cuts = (_flags(name, arrays[name], count) for name in ("terminated", "truncated"))
    skipped = _flags("skip", arrays["skip"], count) if "skip" in arrays else np.zeros(count, np.bool_)
    actions, rewards = check.action(arrays["action"], count), _rewards(arrays["reward"], count)
    stacks = _each(check.observations.many("obs", before, count))
    next_stacks = _each(check.observations.many("next_obs", after, count))
    ended = ends | cuts
    _put_final(next_stacks, check, infos, np.flatnonzero(ended & ~skipped))
    discounts = np.where(ends, 0.0, 1.0).tolist()
    carried: Iterable[tuple[Any, ...]] = zip(actions, rewards, discounts, strict=True)
    if check.extras:
        bits = zip(check.extras.many("extras", further, count), check.extras.parts, strict=True)
        values = [value.view(part.dtype)[:, 0] for value, part in bits]
        carried = zip(actions, rewards, discounts, *values, strict=True)
    names = list(range(count)) if names is None else names
    found = map(Transition, names, stacks, next_stacks, carried, ended.tolist())
    return [each for each, left_out in zip(found, skipped.tolist(), strict=True) if not left_out]


def _array(name: str, value: Any) -> NDArray[Any]:
    if type(value) is np.ndarray:
        return value
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on a GPU or with a gradient
        raise InputError(f"{name}: expected an array with an entry for each environment, but {error}") from None


def _count(arguments: dict[str, list[NDArray[Any]]], streams: list[Any] | None) -> int:
    """How many environments the arguments are of."""
    counts: dict[str, int] = {}
    for name, arrays in arguments.items():
        for array in arrays:
            if not array.ndim:
                raise InputError(f"{name}: expected an entry for each environment, got a single {array.dtype}")
            if counts.setdefault(name, len(array)) != len(array):
                raise InputError(
                    f"{name}: expected as many environments in each part, got {counts[name]} and {len(array)}"
                )
    if streams is not None:
        counts["streams"] = len(streams)
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} in {name}" for name, count in counts.items())
        raise InputError(f"add_batch: expected as many environments in each argument, got {found}")
    return counts["obs"]


def _flags(name: str, array: NDArray[Any], count: int) -> NDArray[np.bool_]:
    """True or False for each environment."""
    if array.shape != (count,) or array.dtype.kind not in "biuf":
        raise InputError(f"{name}: expected {count} flags, got {array.dtype} of shape {array.shape}")
    if array.dtype.kind == "b":
        return array
    if not ((array == 0) | (array == 1)).all():
        raise InputError(f"{name}: expected {count} flags of True or False, got {reprlib.repr(array.tolist())}")
    return array.astype(np.bool_)


def _rewards(array: NDArray[Any], count: int) -> list[float]:
    """A finite number for each environment."""
    if array.shape != (count,) or array.dtype.kind not in "biuf":
        raise InputError(f"reward: expected {count} numbers, got {array.dtype} of shape {array.shape}")
    numbers: list[float] = array.astype(np.float64).tolist()
    if (count and not -FLOAT32_MAX <= min(numbers) <= max(numbers) <= FLOAT32_MAX) or sum(numbers) != sum(numbers):
        for k, number in enumerate(numbers):
            finite(f"reward[{k}]", number)
    return numbers


def _names(streams: Any) -> list[Any]:
    """Names of streams, each of them once."""
    if not isinstance(streams, Iterable) or isinstance(streams, str | bytes):
        raise InputError(f"streams: expected a name for each environment, got {reprlib.repr(streams)}")
    names = [stream_name(name) for name in streams]
    for k, name in enumerate(names):
        if name in names[:k]:
            raise InputError(f"streams: expected each stream once, as it is one environment, got {name!r} twice")
    return names


def _each(parts: list[NDArray[Any]]) -> Stacks:
    """The observation of each environment, from those of all."""
    return list(zip(*parts, strict=True))


def _put_final(stacks: Stacks, check: StepCheck, infos: Any, ended: NDArray[np.intp]) -> None:
    """Put the last observations of episodes that ended where an environment that was reset in the same step tells them.

    That is Gymnasium's `infos["final_obs"]`, an array of observations, or a mapping of arrays.
    """
    if infos is None:
        return
    if not isinstance(infos, Mapping):
        raise InputError(f"infos: expected the mapping that a vector environment's step gives, got {type(infos)}")
    final = infos.get("final_obs")
    if final is None:
        return
    for k in ended.tolist():
        try:
            last = {name: part[k] for name, part in final.items()} if isinstance(final, Mapping) else final[k]
        except (IndexError, KeyError, TypeError):
            last = None
        if last is None:
            raise InputError(
                f"infos: expected in infos['final_obs'] the last observation of environment {k}, whose episode ended, "
                "got none"
            )
        stacks[k] = check.observation(f"infos['final_obs'][{k}]", last)

"""What callers pass, checked and converted before anything is written.

A single value (a reward, a flag, a stream) may come as a Python number, a NumPy scalar, or an array or tensor of one
element, everywhere alike.
"""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from diffreplay.errors import InputError
from diffreplay.parts import ObservationCheck, Part, held

FLOAT32_MAX = float(np.finfo(np.float32).max)
FEW_NUMBERS = 64
STEP_FIELDS = "observation, action, reward, discount, first() and last()"


class TimeStep(Protocol):
    """A dm_env style step that carries the action that led to it.

    Examples:
        >>> step: diffreplay.checks.TimeStep = diffreplay.testing.TimeStep(frame, is_first=True)
        >>> replay.add(step)
    """

    @property
    def observation(self) -> Any:
        """(frame_stack * C, H, W), or as the buffer was told."""

    @property
    def action(self) -> Any:
        """What led here; ignored on the first step."""

    @property
    def reward(self) -> Any:
        """Received on arriving here; ignored on the first step."""

    @property
    def discount(self) -> Any:
        """0 where the episode ended for good; ignored on the first step."""

    def first(self) -> bool:
        """Whether it begins an episode."""

    def last(self) -> bool:
        """Whether it ends an episode."""


class StepCheck:
    """Checks the values of steps against the shapes and dtypes of one buffer.

    Args:
        parts: of observations.
        action_shape: of one action.
        action_dtype: of actions.
        extras: further values of a step, as `parts_of` gives them; none for none.
    """

    def __init__(
        self,
        parts: tuple[Part, ...],
        action_shape: tuple[int, ...],
        action_dtype: np.dtype[Any],
        extras: tuple[Part, ...] = (),
    ) -> None:
        self.action_shape, self.action_dtype = action_shape, action_dtype
        self.observations = ObservationCheck(parts)
        self.observation = self.observations.stacks
        self.extras = ObservationCheck(extras) if extras else None
        self._largest = float(np.finfo(action_dtype).max) if action_dtype.kind == "f" else 0.0
        self.blank = (np.zeros(action_shape, action_dtype), 0.0, 1.0, *(np.zeros(e.shape, e.dtype) for e in extras))
        """What the first step of an episode carries: nothing leads to it."""

    def time_step(self, step: Any, extras: Any = None) -> tuple[tuple[NDArray[Any], ...], tuple[Any, ...], bool, bool]:
        """A dm_env style step as its stack, its values, and whether it is first and last."""
        try:
            observation, first, last = step.observation, step.first(), step.last()
            first, last = flag("time_step.first()", first), flag("time_step.last()", last)
            values = None if first else (step.action, step.reward, step.discount)
        except (AttributeError, TypeError) as error:
            raise InputError(
                f"time_step: expected a dm_env style step with {STEP_FIELDS}, got {type(step).__name__} ({error}); "
                "for what a Gymnasium environment returns there is add_transition"
            ) from error
        stack = self.observation("observation", observation)
        return stack, self.blank if values is None else self.values(*values, extras), first, last

    def values(self, action: Any, reward: Any, discount: Any, extras: Any = None) -> tuple[Any, ...]:
        """What a step carries besides its observation."""
        values = self.action(action), finite("reward", reward), finite("discount", discount)
        if self.extras is extras:  # None both
            return values
        if self.extras is not None:
            given = zip(self.extras.stacks("extras", extras), self.extras.parts, strict=True)
            return (*values, *(value.view(part.dtype)[0] for value, part in given))  # of floats they are the bits
        self.no_extras(extras)
        return values

    def no_extras(self, extras: Any) -> None:
        """Refuse extras of a buffer that was made without."""
        if self.extras is None and extras is not None:
            raise InputError(
                f"extras: expected none, as the buffer was made without extras=, got {reprlib.repr(extras)}"
            )

    def action(self, value: Any, count: int | None = None) -> NDArray[Any]:
        """An action, or so many, in the buffer's dtype, which holds the very values that came; floats are rounded."""
        wanted, shape = self.action_dtype, self.action_shape if count is None else (count, *self.action_shape)
        fits = type(value) is np.ndarray and value.dtype.kind == "f" == wanted.kind and value.shape == shape
        # For a few numbers this is faster than NumPy: so short a vector has no NaN in it, nor too large a number.
        if fits and value.size <= FEW_NUMBERS and math.hypot(*value.reshape(-1).tolist()) <= self._largest:
            return value if value.dtype == wanted else value.astype(wanted)
        return held("action", value, wanted, shape, finite=True)


def finite(name: str, value: Any) -> float:
    """A single number that float32 can hold."""
    number = value
    if type(value) is not float:
        number = single(name, value, "a finite number")
        try:
            number = math.nan if isinstance(number, str | bytes | bytearray) else float(number)
        except OverflowError:
            number = math.inf
        except (TypeError, ValueError):
            number = math.nan
        if number != number and not isinstance(value, numbers.Real):
            raise InputError(f"{name}: expected a finite number, got {reprlib.repr(value)}")
    if not -FLOAT32_MAX <= number <= FLOAT32_MAX:  # so that NaN does not pass either
        raise InputError(f"{name}: expected a finite number (float32), got {reprlib.repr(value)}")
    return number


def flag(name: str, value: Any) -> bool:
    """A single True, False, 1 or 0."""
    if value is True or value is False:
        return bool(value)
    expected = "True or False"
    number = single(name, value, expected)
    if isinstance(number, numbers.Real) and (number == 0 or number == 1):
        return bool(number)
    raise InputError(f"{name}: expected {expected}, got {reprlib.repr(value)}")


def stream_name(value: Any) -> Any:
    """The name of a stream, an int or a str; one number is one stream, in whatever type it comes."""
    if type(value) is int:
        return value
    expected = "an integer or a string"
    name = single("stream", value, expected)
    if isinstance(name, str):
        return str.__str__(name)
    if isinstance(name, int) and not isinstance(name, bool):
        return int(name)
    raise InputError(f"stream: expected {expected}, got {reprlib.repr(value)}")


def single(name: str, value: Any, expected: str) -> Any:
    """The element of an array or tensor that has one; anything else as it is."""
    item = getattr(value, "item", None)
    if item is None:
        return value
    try:
        return item()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"{name}: expected {expected}, got {type(value).__name__} of shape {tuple(getattr(value, 'shape', ()))}; "
            "a call takes the step of one environment: call it for each, with a stream of its own"
        ) from None


def positive(name: str, value: Any) -> int:
    """A whole number above 0."""
    return at_least(1, name, value)


def at_least(least: int, name: str, value: Any) -> int:
    """A whole number that is not below `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        expected = "a positive integer" if least == 1 else f"an integer from {least} on"
        whole = isinstance(value, float) and value.is_integer() and value >= least
        raise InputError(f"{name}: expected {expected}, got {value!r}" + (f"; write {int(value)}" if whole else ""))
    return int(value)


def cap(value: Any) -> int | None:
    """A cap on a buffer's bytes; None for none."""
    if isinstance(value, str):
        raise InputError(f"max_bytes: expected a number of bytes, such as 4 << 30 for 4 GiB, got {value!r}")
    return None if value is None else positive("max_bytes", value)


def shape(name: str, value: Any) -> tuple[int, ...]:
    """A tuple of positive integers."""
    if not isinstance(value, Iterable):
        raise InputError(f"{name}: expected a tuple of positive integers, got {value!r}")
    return tuple(positive(name, side) for side in value)


def share(name: str, value: Any) -> float:
    """A number from 0 to 1."""
    number = finite(name, value)
    if not 0 <= number <= 1:
        raise InputError(f"{name}: expected a number in [0, 1], got {number}")
    return number


def number_dtype(value: DTypeLike) -> np.dtype[Any]:
    """A dtype of numbers that batches can be of."""
    try:
        dtype = np.dtype(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"action_dtype: expected a dtype of numbers, got {value!r} ({error})") from None
    if dtype.kind not in "biuf" or value is None:
        raise InputError(f"action_dtype: expected a dtype of numbers, got {dtype if value is not None else None}")
    try:
        torch.from_numpy(np.zeros(1, dtype))
    except (TypeError, ValueError) as error:
        raise InputError(f"action_dtype: expected a dtype that PyTorch has, got {value!r} ({error})") from None
    return dtype


def generator(seed: Any) -> np.random.Generator:
    """The generator of a seed."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise InputError(f"seed: expected a whole number from 0 on, got {seed!r} ({error})") from None


def path(name: str, value: Any) -> Path:
    """A path."""
    try:
        return Path(value)
    except TypeError:
        raise InputError(f"{name}: expected a path, got {reprlib.repr(value)}") from None

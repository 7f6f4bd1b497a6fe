"""Schedules of the exploration noise's standard deviation, in DrQ-v2's notation.

``0.2`` is constant, ``linear(1.0,0.1,500000)`` goes from the first value to the second over that many agent steps and
stays there; ``step_linear(init,mid,steps1,final,steps2)`` does so twice in a row.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from runs.errors import OptionError

Schedule = Callable[[int], float]


def parse_schedule(text: str | float) -> Schedule:
    """Return the function of the agent step that `text` describes; OptionError when it describes none."""
    try:
        constant = float(text)
    except ValueError:
        pass
    else:
        return lambda step: constant
    match = re.fullmatch(r"\s*(linear|step_linear)\s*\(([^()]*)\)\s*", str(text))
    if match is None:
        raise _malformed(text)
    try:
        numbers = [float(number) for number in match[2].split(",")]
    except ValueError as error:
        raise _malformed(text) from error
    if match[1] == "linear" and len(numbers) == 3 and numbers[2] > 0:
        start, end, duration = numbers
        return lambda step: _interpolate(start, end, step / duration)
    if match[1] == "step_linear" and len(numbers) == 5 and numbers[2] > 0 and numbers[4] > 0:
        start, middle, first, end, second = numbers
        return lambda step: (
            _interpolate(start, middle, step / first)
            if step <= first
            else _interpolate(middle, end, (step - first) / second)
        )
    raise _malformed(text)


def _interpolate(start: float, end: float, mix: float) -> float:
    mix = min(max(mix, 0.0), 1.0)
    return (1.0 - mix) * start + mix * end


def _malformed(text: str | float) -> OptionError:
    return OptionError(
        f"stddev_schedule={text!r} is no schedule: expected a number, linear(start,end,steps) with steps > 0, or "
        "step_linear(start,middle,steps,end,steps)"
    )

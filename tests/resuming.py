"""Checks that what is saved and loaded goes on as if it had not been, wherever that happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def check_resume(make: Callable[[], T], steps: Iterable[Callable[[T], Any]], resume: Callable[[T], T]) -> None:
    """Resume before every step; all that were resumed go on side by side with one that never was.

    What is resumed is what was resumed last, so the last one has been through it as often as there are steps.

    Args:
        make: what steps are done with.
        steps: each does one, and returns a value that tells all there is to tell of the result.
        resume: saves and loads; what it was given goes on, too.

    Raises:
        AssertionError: names the step, and where what differs was resumed.
    """
    going = [make()]
    going.append(resume(going[0]))
    for number, step in enumerate(steps):
        expected, *found = (step(each) for each in going)
        for point, value in enumerate(found):
            assert value == expected, f"step {number} differs where it was resumed before step {point}"
        going.append(resume(going[-1]))
    assert len(going) > 3

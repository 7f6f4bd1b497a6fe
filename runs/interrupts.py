"""Ctrl-C where a library does not bear it: what must not be cut short, and what came of an interrupt in the end.

A callback of `ctypes` (PyOpenGL has them at every call) turns a KeyboardInterrupt into an error of its own, and a
graphics context that is cut short while it is made fails once more when the process ends.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

RECENT_SECONDS = 30.0

_came = float("-inf")


def watch() -> None:
    """Have `came` know of each interrupt from now on; it raises KeyboardInterrupt as before."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _note)


def came() -> bool:
    """Whether there was an interrupt a moment ago, whatever became of it."""
    return time.monotonic() < _came + RECENT_SECONDS


def _note(number: int, frame: FrameType | None) -> None:
    global _came
    _came = time.monotonic()
    signal.default_int_handler(number, frame)


@contextmanager
def held_back() -> Iterator[None]:
    """Within, an interrupt waits for the end. Only the main thread is interrupted; elsewhere there is nothing to do."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    waiting: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: waiting.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if waiting:
            handler(*waiting[0])

"""Processes that a test kills, or expects to end."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def kill(*pids: int) -> None:
    """Kill processes, of which some may have ended by themselves meanwhile."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def runs(pid: int) -> bool:
    """Whether a process has not ended; one that has, and that nobody waited for, does not run."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def left_of(pids: Iterable[int], seconds: float = 200) -> list[int]:
    """Those that run even after so long; returns as soon as none does."""
    left, deadline = list(pids), time.monotonic() + seconds
    while (left := [pid for pid in left if runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def open_files(expected: int | None = None) -> int:
    """How many files this process has open, sockets and memory included; at once, or as soon as they are so many."""
    gc.collect()
    deadline = time.monotonic() + 20
    while (found := len(os.listdir("/proc/self/fd"))) != expected and expected is not None:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return found

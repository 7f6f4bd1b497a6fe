"""How memory is measured: the proportional set size (PSS) of this process and of all that it started.

PSS is a process's own memory, and its share of what it shares with others. Files are left out, whose pages are the code
of programs: the share of them that counts here changes whenever any other process on the machine starts or ends.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from typing import Any

import psutil

SHARED = ("/memfd:", "/dev/shm/", "/dev/zero", "/SYSV")  # memory that has a name like a file


def pss(pid: int | None = None, part: str = "") -> int:
    """Proportional set size of a process in bytes, or of its mappings whose name contains `part`.

    Raises:
        psutil.Error: the process has ended.
    """
    mappings = psutil.Process(pid).memory_maps()
    return sum(
        mapping.pss
        for mapping in mappings
        if part in mapping.path and (not mapping.path.startswith("/") or mapping.path.startswith(SHARED))
    )


def family() -> set[int]:
    """This process and all that it started, directly or not."""
    this = psutil.Process()
    return {this.pid, *(process.pid for process in this.children(recursive=True))}


def family_pss() -> int:
    """Proportional set size of this process and all that it started, in bytes."""
    total = 0
    for pid in family():
        with suppress(psutil.Error):  # it has ended
            total += pss(pid)
    return total


def in_new_process(call: Callable[..., Any], *args: Any) -> Any:
    """The result of a call in a process of its own: what was done before has left no memory there."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *args).result()

"""How time is measured: in turns, so that all that is compared sees the same machine; and step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]


class Quartiles(NamedTuple):
    """Median of some values, and the quartiles around it."""

    median: float
    lower: float
    upper: float


def quartiles(values: Any) -> Quartiles:
    """Of numbers in any order."""
    return Quartiles(*map(float, np.percentile(values, (50, 25, 75))))


def in_turns(
    calls: Sequence[Callable[[], Any]],
    repeats: int,
    clocks: Sequence[Callable[[], float]] = (time.process_time,),
    before: Callable[[int], Any] = lambda _: None,
) -> Times:
    """Seconds of each call in each turn, (clocks, calls, repeats): one call after another, then all again.

    Each is called once before, which is not timed.

    Args:
        calls: what is compared.
        repeats: turns.
        clocks: read in this order before a call and in the opposite one after it, so that reading the first is no part
            of the last one's time. By default processor time of this process: others on the machine count only
            through its caches.
        before: called with a call's number before it, untimed.
    """
    for call in calls:
        call()
    times = np.empty((len(clocks), len(calls), repeats))
    for turn in range(repeats):
        for k, call in enumerate(calls):
            before(k)
            start = [clock() for clock in clocks]
            call()
            end = [clock() for clock in reversed(clocks)]
            times[:, k, turn] = np.subtract(end[::-1], start)
    return times


def timed_adds(replay: Any, steps: Iterable[Any]) -> Times:
    """Processor seconds of each `add`."""
    costs = []
    for step in steps:
        start = time.process_time()
        replay.add(step)
        costs.append(time.process_time() - start)
    return np.array(costs)


def processor_seconds(pids: Iterable[int]) -> float:
    """Processor time that all threads of the processes have used.

    From the scheduler's own counts, in nanoseconds: psutil's are in hundredths of a second, as long as a few batches.
    """
    threads = (thread for pid in pids for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def settle(pids: set[int]) -> None:
    """Wait until no process works any more, such as those that prepare another loader's next batches."""

    def used() -> float:  # without what looking takes: of many threads, more than a process that idles
        return processor_seconds(pids) - time.thread_time()

    for _ in range(100):
        before = used()
        time.sleep(0.03)
        if used() - before < 0.003:
            return

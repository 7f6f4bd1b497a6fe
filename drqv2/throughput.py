"""Where the time of the training loop goes: frames and samples a second, and the share spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Throughput:
    """Counts frames, samples and seconds since the last report; evaluations are left out of the seconds."""

    def __init__(self, total_time: float = 0.0) -> None:
        """`total_time` is what earlier processes of the same run took, in seconds."""
        self._begin = time.perf_counter() - total_time
        self._reset()

    def _reset(self) -> None:
        self._start = time.perf_counter()
        self._paused = 0.0
        self._waited = 0.0
        self._frames = 0
        self._samples = 0

    @property
    def total_time(self) -> float:
        """Seconds that the run has taken so far, evaluations included."""
        return time.perf_counter() - self._begin

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the seconds of the block out."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - start

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Count the seconds of the block as waiting for data."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - start

    def count(self, *, frames: int = 0, samples: int = 0) -> None:
        """Add frames stepped or transitions learnt from."""
        self._frames += frames
        self._samples += samples

    def report(self) -> dict[str, float]:
        """`fps`, `samples_per_second` and `data_wait` (a share, 0 to 1) since the last report, and `total_time`."""
        seconds = max(time.perf_counter() - self._start - self._paused, 1e-9)
        report = {
            "fps": self._frames / seconds,
            "samples_per_second": self._samples / seconds,
            "data_wait": self._waited / seconds,
            "total_time": self.total_time,
        }
        self._reset()
        return report

"""What a loader says without failing: that a worker died, or what it waits for."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from diffreplay.errors import EmptyBufferError, ReplayError
from diffreplay.loading.sampling import ReplayReader

NOTICE_SECONDS = 5.0


def warn(message: str) -> None:
    """Warn with a RuntimeWarning that names the line which called this package."""
    level, package = 1, str(Path(__file__).parent)
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(package):
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    warnings.warn(message, RuntimeWarning, stacklevel=level)


class Notice:
    """Says once, after some seconds of waiting for a batch, what the buffer lacks."""

    def __init__(self, readers: Sequence[ReplayReader], sequence_length: int | None = None) -> None:
        self._readers, self._length, self._said = readers, sequence_length, False

    def start(self) -> Callable[[], None]:
        """Waiting begins; call what this returns from time to time."""
        begin = time.monotonic()

        def waiting() -> None:
            if not self._said and time.monotonic() - begin >= NOTICE_SECONDS:
                self._say()

        return waiting

    def _say(self) -> None:
        try:
            for reader in self._readers:
                reader.sample(1, np.random.default_rng(0), sequence_length=self._length)
        except EmptyBufferError as error:
            self._said = True
            warn(f"the loader waits for a batch: {error}")
        except ReplayError:  # it is raised where the batch itself is drawn
            return

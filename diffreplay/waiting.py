"""What a loader says while it waits for a buffer that holds too little."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from diffreplay.errors import EmptyBufferError, ReplayError, warn
from diffreplay.sampling import Sampler

NOTICE_SECONDS = 5.0


class Notice:
    """Says once, after some seconds of waiting for a batch, what the buffer lacks."""

    def __init__(self, replay: Sampler) -> None:
        self._replay, self._said = replay, False

    def start(self) -> Callable[[], None]:
        """Waiting begins; call what this returns from time to time."""
        begin = time.monotonic()

        def waiting() -> None:
            if not self._said and time.monotonic() - begin >= NOTICE_SECONDS:
                self._say()

        return waiting

    def _say(self) -> None:
        try:
            self._replay.draw(1, np.random.default_rng(0))
        except EmptyBufferError as error:
            self._said = True
            warn(f"the loader waits for a batch: {error}")
        except ReplayError:  # it is raised where the batch itself is drawn
            return

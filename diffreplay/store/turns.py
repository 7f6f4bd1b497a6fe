"""One thread at a time changes a store, and an interrupt between any two instructions is noticed afterwards.

A lock of `threading` is released by a call, and after a call Python may raise what a signal handler raises: a change
that is published would look as if it had failed. A turn ends with an assignment instead, `turns.claim = {}`, which
the writer makes in the statement that publishes. A claim that is left behind by a thread that does not change the
store any more tells of an interrupt.
"""

from __future__ import annotations

import sys
import threading
import time
from types import CodeType

from diffreplay.errors import ReplayError

PAUSE_SECONDS = 2e-5  # about what a step takes to be stored
CHECK_EVERY = 5000  # pauses


class Turns:
    """Whose turn it is.

    Args:
        change: the code that holds a turn as long as it runs.

    Attributes:
        claim: empty where it is nobody's turn, else by whom it is taken; a new empty one ends a turn.
    """

    def __init__(self, change: CodeType) -> None:
        self.claim: dict[str, tuple[int]] = {}
        self._change = change
        self._queue = threading.Lock()  # held by the one that is next

    def take(self) -> bool:
        """Wait for this thread's turn; whether the one before was cut short, and left its change half done.

        Raises:
            ReplayError: it is this thread's turn already, as in a signal handler.
        """
        mine, claim = (threading.get_ident(),), self.claim
        if not self._queue.locked():
            taken = claim.setdefault("by", mine)  # one instruction: of two threads, one gets it
            if taken is mine:
                return False
        else:
            taken = claim.get("by", mine)
        if taken[0] == mine[0] and taken is not mine:
            if self._is_changing(mine[0], 2):
                raise ReplayError(
                    "expected one call at a time, got another one from within an addition, a save, a draw of "
                    "sequences, or a draw or update of priorities, as from a signal handler: set a flag there, and act "
                    "on it after the call"
                )
            if self._take_over(claim, mine):
                return True
        with self._queue:
            return self._wait(mine)

    def _wait(self, mine: tuple[int]) -> bool:
        pauses = 0
        while True:
            claim = self.claim
            taken = claim.setdefault("by", mine)
            if taken is mine:
                return False
            time.sleep(PAUSE_SECONDS)
            pauses += 1
            # A thread that was interrupted went elsewhere, or ended.
            if pauses % CHECK_EVERY == 0 and not self._is_changing(taken[0], 1) and self._take_over(claim, mine):
                return True

    def _take_over(self, claim: dict[str, tuple[int]], mine: tuple[int]) -> bool:
        """Take a claim that was left behind, unless another thread did, or the one that made it goes on."""
        ours = {"by": mine}
        if self.claim is claim:  # no call from here to the assignment, so that no other thread comes in between
            self.claim = ours
            return True
        return False

    def _is_changing(self, thread: int, times: int) -> bool:
        """Whether so many calls of the changing code are on a thread's stack."""
        frame = sys._current_frames().get(thread)
        while frame is not None and times:
            times -= frame.f_code is self._change
            frame = frame.f_back
        return not times

"""Which priorities are saved with a buffer: those made last over it or, until any are, those that it came with."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from diffreplay.loading.sampling import ReplayReader


class HasState(Protocol):
    """`diffreplay.Priorities`."""

    def state_dict(self) -> dict[str, Any]:
        """All of it."""


_over: weakref.WeakKeyDictionary[ReplayReader, dict[str, Any] | weakref.ref[HasState]] = weakref.WeakKeyDictionary()


def made_over(reader: ReplayReader, priorities: HasState) -> None:
    """Have these saved from now on, as long as somebody holds them."""
    _over[reader] = weakref.ref(priorities)


def keep_priorities(reader: ReplayReader, state: dict[str, Any] | None) -> None:
    """Keep the state of those that a buffer was saved with, if any, for the first ones made over it."""
    if state is not None:
        _over[reader] = state


def kept_priorities(reader: ReplayReader) -> dict[str, Any] | None:
    """That state, until it is taken: `made_over` forgets it."""
    found = _over.get(reader)
    return found if isinstance(found, dict) else None


def priorities_over(reader: ReplayReader) -> dict[str, Any] | None:
    """The state that is to be saved; None where there is none."""
    found = _over.get(reader)
    if found is None or isinstance(found, dict):
        return found
    priorities = found()
    return None if priorities is None else priorities.state_dict()

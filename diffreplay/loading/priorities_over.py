"""Which priorities are saved with a buffer: those made last over it or, until any are, those that it came with."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

from diffreplay.loading.sampling import ReplayReader


class HasState(Protocol):
    """`diffreplay.Priorities`."""

    def state_dict(self) -> dict[str, Any]:
        """All of it."""


State = dict[str, Any]
Reads = Callable[[], State | None]  # it from where it was saved
_over: weakref.WeakKeyDictionary[ReplayReader, State | Reads | weakref.ref[HasState]] = weakref.WeakKeyDictionary()


def made_over(reader: ReplayReader, priorities: HasState) -> None:
    """Have these saved from now on, as long as somebody holds them."""
    _over[reader] = weakref.ref(priorities)


def keep_priorities(reader: ReplayReader, state: State | Reads | None) -> None:
    """Keep the state of those saved with a buffer, if any, or what reads it, for the first ones made over it."""
    if state is not None:
        _over[reader] = state


def kept_priorities(reader: ReplayReader) -> State | None:
    """That state, until it is taken: `made_over` forgets it."""
    found = _over.get(reader)
    if found is None or isinstance(found, dict):
        return found
    return None if isinstance(found, weakref.ref) else found()


def priorities_over(reader: ReplayReader) -> State | None:
    """The state that is to be saved; None where there is none."""
    found = _over.get(reader)
    if found is None or isinstance(found, dict):
        return found
    if not isinstance(found, weakref.ref):
        return found()
    priorities = found()
    return None if priorities is None else priorities.state_dict()

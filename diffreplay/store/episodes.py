"""Steps and transitions as the episodes that a store keeps: what follows what, and a warning where that looks wrong."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from diffreplay.errors import InputError
from diffreplay.store.coding import Ahead
from diffreplay.store.index import NO_ROW
from diffreplay.store.observations import Step, add_observation, go_back_to
from diffreplay.store.recent import KEPT, Recent
from diffreplay.store.runs import append_run
from diffreplay.store.streams import Stack, continues, same
from diffreplay.store.writer import FrameStore

FEW_STRAYS = 2
MANY_STRAYS = 10
RETRY = 10_000  # strays before it is tried anew to find them, where that was in vain
STRAYS = (
    f"{MANY_STRAYS} transitions in a row began with an observation that is not the next_obs before it: give every "
    "environment a stream= of its own, and add one-step transitions, from which the buffer makes those of n steps "
    "itself (nstep=n); as they come, they take more time and memory, and no window goes over several of them"
)
AFTER_AN_END = (
    "a transition began with the very observation at which its stream's episode had just ended: where a vector "
    "environment resets itself, leave out the step after an end (autoreset mode NEXT_STEP; skip= of add_batch), or "
    "give infos['final_obs'][k] as the last next_obs (SAME_STEP; infos= of add_batch)"
)


class Transition(NamedTuple):
    """A transition of a stream.

    Attributes:
        stream: its name.
        before: the observation at which it begins.
        after: the one at which it ends.
        values: what the step to `after` carries besides.
        ended: whether the episode ended there.
    """

    stream: Any
    before: Stack
    after: Stack
    values: tuple[Any, ...]
    ended: bool


class EpisodeWriter:
    """Adds to a store what has been checked, within a change of it.

    Args:
        store: where to.
        capacity: transitions held at most.
        blank: what the first step of an episode carries.
        nstep: steps that a sampled transition spans.
    """

    def __init__(self, store: FrameStore, capacity: int, blank: tuple[Any, ...], nstep: int) -> None:
        self._store, self._capacity, self._blank, self._nstep = store, capacity, blank, nstep
        self._strays: dict[Any, int] = {}  # transitions in a row that did not follow the one before, of each stream
        self._recent: dict[Any, Recent] = {}  # of the streams of which there are such
        self._warned: set[str] = set()

    def add_step(self, stream: Any, stack: Stack, values: tuple[Any, ...], first: bool, last: bool) -> None:
        """Append a step of an episode."""
        is_open = self._store.streams.is_open(stream)
        if first and is_open:
            warnings.warn("a first step came in mid-episode: the episode before counts as truncated", stacklevel=4)
        if not first and not is_open:
            raise InputError("time_step: expected a first step at an episode's start, got one that is not")
        self._append(Step(stack, values), stream, first=first)
        self._store.note_end(stream, last)

    def add_transitions(self, transitions: Sequence[Transition]) -> None:
        """Append transitions, each of a stream of its own, in order: the same as one by one, but for when they count.

        Of each the second step, and the first where it is not the newest one of the stream.
        """
        store = self._store
        ahead: list[tuple[Ahead, ...]] = [()] * len(transitions)
        if len(transitions) > 1:
            ahead = store.encode_ahead([each.after for each in transitions])
        steps = [Step(each.after, each.values, coded) for each, coded in zip(transitions, ahead, strict=True)]
        if len(transitions) > 1 and not self._strays and not self._recent:
            streams, before = [each.stream for each in transitions], [each.before for each in transitions]
            if append_run(store, streams, before, steps, self._capacity):
                for each in transitions:
                    if each.ended:  # else its episode goes on, as it did
                        store.note_end(each.stream, True)
                return
        for each, step in zip(transitions, steps, strict=True):
            self._add_transition(each, step)

    def _add_transition(self, transition: Transition, after: Step) -> None:
        """Append a transition that ends with the step `after`."""
        stream, before = transition.stream, transition.before
        self._store.go_on_with(stream)
        follows = self._goes_on(stream, before)
        recent = self._recent.get(stream)
        if recent is not None:
            self._append_found(recent, stream, before, after, transition.ended, follows)
        else:
            self._append_given(stream, before, after, follows)
        self._store.note_end(stream, transition.ended)

    def _append_given(self, stream: Any, before: Stack, after: Step, follows: bool) -> None:
        """Append a transition; its first step, too, where that is not there, or leaves as room is made for the second.

        The latter happens to a stream that paused for so long that its newest step has become the oldest one of all.
        """
        if follows:
            self._make_room()
            needed = min(self._store.streams[stream].needed, default=NO_ROW)
            if needed >= self._store.tail:
                self._append(after, stream, first=False)
                if needed >= self._store.tail:
                    return
        self._append(Step(before, self._blank), stream, first=True)
        self._append(after, stream, first=False)

    def _append_found(
        self,
        recent: Recent,
        stream: Any,
        before: Stack,
        after: Step,
        ended: bool,
        follows: bool,
    ) -> None:
        """Append a transition whose frames may be found among the newest ones of its stream."""
        store = self._store
        self._make_room()
        state = store.streams[stream]
        if not follows or min(state.needed, default=NO_ROW) < store.tail:
            row = recent.step(before)
            if row != NO_ROW:
                go_back_to(store, row, before, stream)
                recent.idle = 0
            else:
                add_observation(store, Step(before, self._blank), stream, True, recent.older_at(before))
                recent.note(before, state.row, False)
        stack = after.stack
        shifted = continues(stack, before)
        add_observation(store, after, stream, False, NO_ROW if shifted else recent.older_at(stack, state.row))
        recent.note(stack, state.row, not ended)
        recent.idle += 1
        if recent.idle > KEPT:
            del self._recent[stream]
            self._strays[stream] = -RETRY

    def _append(self, step: Step, stream: Any, *, first: bool) -> None:
        if not first:
            self._make_room()
        add_observation(self._store, step, stream, first)

    def _make_room(self) -> None:
        """Evict until one more transition may be held."""
        self._store.eviction.leave_room(1, self._capacity)

    def _goes_on(self, stream: Any, obs: Stack) -> bool:
        """Whether a transition from `obs` follows the one before; warns once of what is probably a mistake."""
        known = self._store.streams.get(stream)
        if known is None or known.row < self._store.tail:
            return False
        if same(obs, known.stack):
            if not known.is_open:
                self._warn_once(AFTER_AN_END)
            elif self._strays:
                self._strays.pop(stream, None)
            return known.is_open
        if known.is_open:
            self._strays[stream] = self._strays.get(stream, 0) + 1
            # Over more than one step, a window must not bridge what merely looks the same.
            if self._strays[stream] == FEW_STRAYS and self._nstep == 1:
                self._recent.setdefault(stream, Recent(self._store, stream))
            if self._strays[stream] >= MANY_STRAYS:
                self._warn_once(STRAYS)
        return False

    def _warn_once(self, message: str) -> None:
        """Warn the caller of the buffer's `add_transition`."""
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, RuntimeWarning, stacklevel=7)

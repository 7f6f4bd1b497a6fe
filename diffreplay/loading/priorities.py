"""Proportional prioritised replay (Schaul et al., 2016): which steps a batch begins at, and how much each counts.

All of it lies in the process that trains, which draws and updates. Nothing of it is in the shared memory.

A step is named by the number of its row. Rows are numbered for ever, so that a number stays that step's, and it is
plain whether it has left. What is known of the live rows lies in rings, row r at place r modulo their size: the
priority that the row was given, and in a sum tree what it counts in draws, which is 0 unless a complete window begins
there, all of whose frames are still held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from diffreplay import checks
from diffreplay.errors import CopyError, EmptyBufferError, InputError
from diffreplay.loading import priority_values
from diffreplay.loading.known_steps import Known
from diffreplay.loading.priorities_over import kept_priorities, made_over
from diffreplay.loading.sampling import HasReader, ReplayReader, reader_of
from diffreplay.loading.windows import Look, WindowFinder
from diffreplay.store import Rows, Turns

FIRST_PRIORITY = 1.0  # of steps before any was given, as in the paper
T = TypeVar("T")


class Priorities:
    """Priorities of a buffer's steps; a loader that is made with them draws in proportion to `priority ** alpha`.

    A step that no update has named yet has the largest priority that any was given so far. It is drawn as soon as the
    transition that begins at it is complete.

    Threads may draw and update at the same time. Of memory, a step takes 21 to 41 bytes: 20.5 for each place of rings
    whose size is a power of two.

    Args:
        replay: the buffer, or a reader of it. A buffer's snapshots hold the priorities that were made last over it;
            the first ones made over a loaded buffer go on with these, with their `beta`.
        alpha: how much priorities count, from 0 (not at all) to 1.
        beta: how much weights make up for that, from 0 (not at all) to 1 (wholly).
        epsilon: added to each error, so that each is drawn again some time.

    Attributes:
        reader: of the buffer.

    Raises:
        InputError: an argument makes no sense, or `alpha` is not that of the saved priorities.

    Examples:
        >>> priorities = diffreplay.Priorities(replay, alpha=0.6, beta=0.4)
        >>> loader = diffreplay.make_replay_loader(replay, 32, num_workers=0, priorities=priorities)
        >>> batch = next(iter(loader))
        >>> priorities.update(batch.index, torch.ones(32))
    """

    def __init__(
        self, replay: HasReader | ReplayReader, alpha: float = 0.6, beta: float = 0.4, epsilon: float = 1e-6
    ) -> None:
        self.reader = reader = reader_of(replay)
        self._alpha, self._beta = checks.share("alpha", alpha), checks.share("beta", beta)
        self._epsilon = checks.finite("epsilon", epsilon)
        if not np.float32(self._epsilon) > 0:
            raise InputError(f"epsilon: expected a number above 0 (float32), got {epsilon!r}")
        self._finder = WindowFinder(reader.frames, reader.nstep, reader.shorter_at_end)
        self._largest, self._drawn = FIRST_PRIORITY, False
        self._known = Known.nothing(0, 0)
        self._whole = True  # what follows from `given` does; else a call was cut short
        self._turns = Turns(Priorities._alone.__code__)
        if (saved := kept_priorities(reader)) is not None:
            self.load_state_dict(saved)
        made_over(reader, self)

    @property
    def alpha(self) -> float:
        """How much priorities count."""
        return self._alpha

    @property
    def beta(self) -> float:
        """How much weights make up for it; may be set at any time, as to anneal it. Counts from the next draw on."""
        return self._beta

    @beta.setter
    def beta(self, value: float) -> None:
        self._beta = checks.share("beta", value)

    def __reduce__(self) -> NoReturn:
        raise CopyError(
            "priorities belong to one buffer in one process, and cannot be pickled or copied: keep state_dict(), and "
            "give it to load_state_dict of priorities made over the buffer that was loaded"
        )

    def draw(
        self, count: int, rng: np.random.Generator, finder: WindowFinder | None = None
    ) -> tuple[Rows, NDArray[np.float64]]:
        """Draw the steps at which the transitions of a batch begin.

        Stratified as in the paper (appendix B.2.1): the sum of what all count is cut into as many equal ranges, oldest
        steps first, and one step drawn from each. Depends on the buffer, the updates and `rng` alone.

        Args:
            count: steps.
            rng: draws them.
            finder: of the windows that begin at them, as given to `bind`; of those before by default.

        Returns:
            (count,) the steps' numbers, and (count,) their weights, (p / sum of all) ** -beta up to a common factor.

        Raises:
            EmptyBufferError: there is no complete window yet.
            InputError: windows of another kind were drawn already.
        """
        return self._alone(self._draw, count, rng, finder)

    def update(self, index: Any, td_error: Any) -> None:
        """Give steps the priority |td_error| + epsilon.

        Steps that have left the buffer since they were drawn are ignored. Of a step that comes several times, the last
        one counts.

        Args:
            index: B numbers of steps, as `batch.index` has them; a tensor or an array of any shape.
            td_error: B finite numbers, likewise; on any device, with or without a gradient.

        Raises:
            InputError: they do not fit together, or some are not what is expected; nothing was changed.
        """
        rows, given = priority_values.row_numbers(index), priority_values.priorities_of(td_error, self._epsilon)
        if len(rows) != len(given):
            raise InputError(f"td_error: expected one for each of {len(rows)} steps of index, got {len(given)}")
        self._alone(self._update, rows, given)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs: numbers, and a tensor of 4 bytes for each live row.

        It fits the buffer as it is now, and that buffer saved and loaded, as steps keep their numbers.
        """
        return self._alone(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` gave; all priorities before are forgotten, and `beta` is the saved one.

        Steps that have left since then are ignored; those that came since then have the largest priority.

        Raises:
            InputError: it is no such state, of another `alpha`, or of a later time than the buffer.
        """
        beta, largest, first, given = priority_values.state_values(state, self._alpha)
        self._alone(self._load, beta, largest, first, given)

    def bind(self, finder: WindowFinder) -> None:
        """Draw steps at which this finder's windows begin, rather than transitions.

        Raises:
            InputError: windows of another kind were drawn already.
        """
        self._alone(self._bind, finder)

    # Steps of what a thread does alone.

    def _alone(self, step: Callable[..., T], *arguments: Any) -> T:
        """Run a step when it is this thread's turn. Interrupted at any moment, it leaves what `_mend` makes whole."""
        self._turns.take()
        try:
            if not self._whole:
                self._mend()
            result = step(*arguments)
            self._turns.claim = {}; return result  # noqa: E702  # fmt: skip  # no call in between
        except BaseException:
            self._turns.claim = {}
            raise

    def _draw(
        self, count: int, rng: np.random.Generator, finder: WindowFinder | None
    ) -> tuple[Rows, NDArray[np.float64]]:
        if finder is not None:
            self._bind(finder)  # another loader, of another kind, may have been made since that was done
        self._drawn = True
        known = self._follow()
        while not known.tree.total:
            if self._finder.frames.intact(known.tail):
                raise EmptyBufferError(self._finder.what_is_missing(known.tail, known.head, known.seen))
            known = self._follow()
        tree, tail = known.tree, known.tail
        masses = (np.arange(count) + rng.random(count)) * (tree.total / count)
        masses += tree.before(tail & (tree.size - 1))  # from the oldest step on, however large the ring is
        masses[masses >= tree.total] -= tree.total
        places = tree.find(masses)
        return tail + known.places(places - tail), tree.leaves[places] ** -self._beta

    def _update(self, rows: Rows, given: NDArray[np.float32]) -> None:
        known = self._follow()
        if len(rows) and rows.max() >= known.head:
            raise InputError(f"index: expected numbers of steps below {known.head}, got {rows.max()}, which none has")
        held = rows >= known.tail
        places, given = known.places(rows[held]), given[held]
        if not len(places):
            return
        self._whole = False
        known.given[places] = given  # NumPy assigns the last one where a place comes several times
        given = known.given[places]
        drawable = known.tree.leaves[places] > 0
        known.tree.set(places[drawable], self._counts(given[drawable]))
        self._largest = max(self._largest, float(given.max()))
        self._whole = True

    def _state(self) -> dict[str, Any]:
        known = self._follow()
        given = torch.from_numpy(known.given[known.places(np.arange(known.tail, known.head))])
        largest = self._largest
        return {"alpha": self._alpha, "beta": self._beta, "largest": largest, "first": known.tail, "priorities": given}

    def _load(self, beta: float, largest: float, first: int, given: NDArray[np.float32]) -> None:
        tail, head = self.reader.frames.bounds()
        if first + len(given) > head:
            raise InputError(
                f"state: expected priorities of steps below {head}, got such of steps below {first + len(given)}: the "
                "state is of a later time than the buffer, or of another one"
            )
        known = Known.nothing(tail, head)
        rows = np.arange(max(first, tail), first + len(given))
        known.given[known.places(rows)] = given[rows - first]
        self._known, self._largest, self._beta = known, largest, beta

    def _bind(self, finder: WindowFinder) -> None:
        if finder.kind == self._finder.kind:
            return
        if self._drawn:
            raise InputError(
                "priorities: expected such as have not drawn anything else than what this loader draws, got those of a "
                "loader of another kind: make Priorities for each"
            )
        self._known, self._finder = self._known.unseen(), finder

    # What they have in common.

    def _follow(self) -> Known:
        """Take in which rows have left and which windows have become complete."""
        tail, head = self._finder.frames.bounds()
        known = self._known
        if (tail, head) == (known.tail, known.seen.head) and not len(known.seen.unfinished):
            return known
        if head - tail > known.tree.size:
            self._known = known = known.grown(tail, head)
        self._whole = False
        self._known = known = known._replace(head=head)  # before any row up to there is given a priority
        tree, given, size = known.tree, known.given, known.tree.size
        # Those that left come first, as new rows take their places.
        gone = np.arange(max(known.tail, tail - size), tail)
        given[known.places(gone)] = 0
        gone = known.places(np.concatenate([gone, known.dependents.take(gone)]))

        def note(look: Look) -> None:
            nonlocal gone
            places = known.places(look.starts)
            its = given[places]
            its[its == 0] = self._largest
            given[places] = its
            tree.set(np.concatenate([gone, places]), np.concatenate([np.zeros(len(gone)), self._counts(its)]))
            known.dependents.add(look.starts, look.oldest)
            gone = gone[:0]

        seen = self._finder.look_on(known.seen, tail, head, note)
        if len(gone):
            tree.set(gone, np.zeros(len(gone)))
        self._known = known = known._replace(tail=tail, seen=seen)
        self._whole = True
        return known

    def _mend(self) -> None:
        """After a call that was cut short, keep the priorities that rows were given; `_follow` finds the rest anew."""
        self._known = self._known.unseen()
        self._largest = max(self._largest, float(self._known.given.max()))
        self._whole = True

    def _counts(self, given: NDArray[np.float32]) -> NDArray[np.float64]:
        return given.astype(np.float64) ** self._alpha

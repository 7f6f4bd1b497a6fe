"""What a loader decides of each batch before workers draw it: how many samples of each buffer, and which steps.

All of that is decided in the trainer's process, a fixed number of batches ahead, however many workers there are. So
batch k depends on what was asked for until batch k - DECIDED_AHEAD, and on nothing else besides contents and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.errors import InputError, ReplayError
from diffreplay.loading.drawing import Request
from diffreplay.loading.slots import BatchPlace, BatchSpec
from diffreplay.store import Rows

DECIDED_AHEAD = 8  # batches; no more are drawn ahead of the trainer then
MOST_GONE = 100  # requests in a row of which nothing was there
WEIGHT = np.float32  # as batches have weights: so all that comes of them is the same, whoever draws

Chooser = Callable[[int, np.random.Generator], Any]
"""Chooses so many steps, by their numbers: (N,) integers, or these and weights (N,) of importance sampling."""


class Requests:
    """The requests of the batches to come.

    Args:
        spec: of a batch.
        generator: of the number of a batch, and of further numbers; see `Batches.generator`.
        fractions: the share of each buffer.
        choosers: what chooses the steps of each buffer; None to draw them uniformly.
    """

    def __init__(
        self,
        spec: BatchSpec,
        generator: Callable[..., np.random.Generator],
        fractions: Sequence[float] | None,
        choosers: Sequence[Chooser | None],
    ) -> None:
        self._spec, self._generator, self._choosers = spec, generator, choosers
        self.fractions = fractions  # type: ignore[assignment]
        self._kept: dict[int, Request] = {}
        self._gone = 0

    @property
    def fractions(self) -> tuple[float, ...]:
        """The share of each buffer in the batches that are not decided yet."""
        return self._fractions

    @fractions.setter
    def fractions(self, fractions: Sequence[float]) -> None:
        self._fractions = checked_fractions(fractions, len(self._choosers))

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to decide."""
        return len(self._choosers) > 1 or self._choosers[0] is not None

    def decide(self, next_number: int) -> None:
        """Decide the batches up to DECIDED_AHEAD after `next_number`, which is handed out next.

        Raises:
            EmptyBufferError: there is nothing to choose from yet.
        """
        for number in [number for number in self._kept if number < next_number]:
            del self._kept[number]
        self._gone = 0
        for number in range(next_number, next_number + DECIDED_AHEAD + 1):
            if number not in self._kept:
                self._kept[number] = self._decide(number)

    def __getitem__(self, number: int) -> Request:
        return self._kept[number]

    def again(self, number: int) -> None:
        """Decide a batch anew, of which no step was there any more.

        Raises:
            ReplayError: that came to pass too often.
        """
        self._gone += 1
        if self._gone == MOST_GONE:
            self._gone = 0
            raise ReplayError(
                f"{MOST_GONE} times in a row, none of the steps that were chosen for a batch could be sampled: "
                "expected numbers of steps such as replay.indices() returns, and a capacity well above what is written "
                f"during {DECIDED_AHEAD} batches"
            )
        self._kept[number] = self._decide(number, self._gone)

    def write(self, number: int, place: BatchPlace) -> None:
        """Write a request to where the batch will be, for a worker to read."""
        request = self._kept[number]
        place.values["index"][:] = -1 if request.starts is None else request.starts
        place.values["weight"][:] = 1 if request.weight is None else request.weight
        place.values["source"][:] = np.repeat(np.arange(len(request.counts)), request.counts)

    def state(self, next_number: int) -> dict[str, Any]:
        """What `load` takes, for the batches from `next_number` on."""
        kept = {number: _plain(request) for number, request in self._kept.items() if number >= next_number}
        return {"fractions": list(self.fractions), "requests": kept}

    def load(self, state: dict[str, Any]) -> None:
        """Go on where `state` was told.

        Raises:
            InputError: it is none of such a loader; nothing was changed.
        """
        fractions = checked_fractions(state["fractions"], len(self._choosers))
        try:
            kept = {int(number): self._given(**request) for number, request in state["requests"].items()}
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"state: expected requests of {self._spec.size} samples from {len(self._choosers)} buffers, as "
                f"state_dict of such a loader gave them, got others ({error!s:.200})"
            ) from None
        self._fractions, self._kept = fractions, kept

    def _given(self, counts: Any, starts: Any, weight: Any) -> Request:
        """A request that somebody kept."""
        counts = tuple(map(int, counts))
        if len(counts) != len(self._choosers) or min(counts) < 0 or sum(counts) != self._spec.size:
            raise ValueError(f"counts {counts}")
        if starts is None:
            return Request(counts)
        steps, weights = np.asarray(starts), np.asarray(weight, WEIGHT)
        if steps.shape != (self._spec.size,) or steps.dtype.kind != "i" or steps.min() < -1:
            raise ValueError(f"starts {starts!r:.100}")
        if weights.shape != steps.shape or not np.all((weights > 0) & (weights < np.inf)):
            raise ValueError(f"weight {weight!r:.100}")
        return Request(counts, steps.astype(np.int64), weights)

    def _decide(self, number: int, again: int = 0) -> Request:
        rng = self._generator(number, 1, again)  # workers draw with that of the number alone
        counts = counts_of(self.fractions, self._spec.size)
        if all(chooser is None for chooser in self._choosers):
            return Request(counts)
        starts = np.full(self._spec.size, -1, np.int64)
        weight = np.ones(self._spec.size, WEIGHT)
        request = Request(counts, starts, weight)
        for chooser, share in zip(self._choosers, request.shares, strict=True):
            if chooser is not None and share.start < share.stop:
                chosen, its = _chosen(chooser, share.stop - share.start, rng)
                starts[share] = chosen
                if its is not None:
                    # None becomes 0, as all that are left where the others have left would be.
                    weight[share] = np.maximum(its / its.max(), np.finfo(WEIGHT).tiny)
        return request


def request_in(place: BatchPlace, buffers: int) -> Request:
    """What `write` wrote."""
    values = place.values
    counts = tuple(np.bincount(values["source"], minlength=buffers).tolist())
    return Request(counts, values["index"].copy(), values["weight"].copy())


def _plain(request: Request) -> dict[str, Any]:
    """A request in numbers and lists, which any file takes."""
    starts, weight = request.starts, request.weight
    return {
        "counts": list(request.counts),
        "starts": None if starts is None else starts.tolist(),
        "weight": None if weight is None else weight.tolist(),
    }


def counts_of(fractions: Sequence[float], size: int) -> tuple[int, ...]:
    """Whole numbers in proportion to `fractions` whose sum is `size`: what is left goes to the largest remainders."""
    wanted = np.asarray(fractions) * size
    counts = np.floor(wanted + 1e-9).astype(int)
    counts[np.argsort(counts - wanted, kind="stable")[: size - counts.sum()]] += 1
    return tuple(counts.tolist())


def checked_fractions(fractions: Any, buffers: int) -> tuple[float, ...]:
    """The shares of so many buffers; equal ones for None.

    Raises:
        InputError: they are no shares.
    """
    if fractions is None:
        return (1 / buffers,) * buffers
    try:
        found = tuple(float(share) for share in fractions)
    except (TypeError, ValueError):
        found = ()
    if len(found) != buffers or not all(0 <= share <= 1 for share in found) or abs(sum(found) - 1) > 1e-6:
        raise InputError(
            f"fractions: expected a share from 0 to 1 for each of {buffers} buffers, 1 in all, got {fractions!r:.200}"
        )
    return found


def _chosen(chooser: Chooser, count: int, rng: np.random.Generator) -> tuple[Rows, NDArray[np.float64] | None]:
    """What a chooser chose, checked: it may be anybody's."""
    chosen = chooser(count, rng)
    steps, weight = chosen if isinstance(chosen, tuple) and len(chosen) == 2 else (chosen, None)
    steps = _array(steps)
    if steps.shape != (count,) or steps.dtype.kind not in "iu":
        raise InputError(
            f"indices: expected numbers of steps, integers of shape ({count},), from {chooser!r:.200}, got "
            f"{steps.dtype} of shape {steps.shape}"
        )
    steps = steps.astype(np.int64)
    if len(steps) and steps.min() < 0:
        raise InputError(f"indices: expected numbers of steps, got {steps.min()} from {chooser!r:.200}")
    if weight is not None:
        given, weight = weight, _array(weight)
        numbers = weight.astype(np.float64) if weight.dtype.kind in "iuf" else np.zeros(0)
        if numbers.shape != (count,) or not np.all((numbers > 0) & (numbers < np.inf)):
            raise InputError(
                f"indices: expected weights above 0 of shape ({count},) from {chooser!r:.200}, got {given!r:.200}"
            )
        weight = numbers
    return steps, weight


def _array(values: Any) -> NDArray[Any]:
    """An array of anything."""
    try:
        return np.asarray(values)
    except ValueError:  # of lists of several lengths
        return np.asarray(None)

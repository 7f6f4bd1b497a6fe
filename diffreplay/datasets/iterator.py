"""Episodes of any iterator, as a loop over a Gymnasium environment collects them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay import checks
from diffreplay.datasets.episode import Arrays, Description, Episode, Source
from diffreplay.datasets.specs import observation_spec, value_spec
from diffreplay.errors import InputError
from diffreplay.parts import ArraySpec

KEYS = ("observations", "actions", "rewards", "terminated", "truncated", "extras")
Observations = ArraySpec | Mapping[str, ArraySpec]


def from_episodes(
    episodes: Iterable[Mapping[str, Any]],
    *,
    observations: Observations | None = None,
    frame_stack: int = 1,
    steps: int | None = None,
    name: str = "episodes",
) -> Source:
    """A source of the episodes that an iterator gives, one at a time.

    Args:
        episodes: each a mapping with `observations` (T + 1, ...), the last one that of the episode's end; `actions`
            (T, ...); `rewards` (T,), kept as float32; `terminated` and `truncated`, flags or (T,) flags of which the
            last one alone may be set; and maybe `extras`, a mapping from names to (T, ...). Observations may be
            mappings, of arrays or one for each step. Lists will do.
        observations: what one step's observation is. None to go by the first episode: arrays of uint8 and uint16 with
            three dimensions are images, with few channels last or else first.
        frame_stack: frames in an observation of the buffer, of which each observation here is one.
        steps: in all of them, where that is known; else `convert` needs a `capacity`.
        name: of the source, in messages; a conversion that was cut short goes on with a source of the same name.

    Returns:
        A source for `convert`. An iterator is used up by that.

    Raises:
        InputError: there is no episode, or the first one makes no sense.

    Examples:
        >>> def play(count):
        ...     for seed in range(count):
        ...         rng = np.random.default_rng(seed)
        ...         yield {
        ...             "observations": rng.integers(0, 256, (11, 64, 64, 3), np.uint8),
        ...             "actions": rng.uniform(-1, 1, (10, 2)).astype(np.float32),
        ...             "rewards": rng.random(10),
        ...             "terminated": True,
        ...             "truncated": False,
        ...         }
        >>> source = diffreplay.datasets.from_episodes(play(3), frame_stack=3)
        >>> diffreplay.datasets.convert(source, "played", capacity=1000).steps
        30
        >>> diffreplay.open("played").sample(8).obs.shape
        torch.Size([8, 64, 64, 9])
    """
    return _Iterated(episodes, observations, checks.positive("frame_stack", frame_stack), steps, name)


class _Iterated:
    """See `from_episodes`."""

    format = "iterator"

    def __init__(
        self,
        episodes: Iterable[Mapping[str, Any]],
        observations: Observations | None,
        frame_stack: int,
        steps: int | None,
        name: str,
    ) -> None:
        if not isinstance(episodes, Iterable):
            raise InputError(f"episodes: expected an iterable of mappings, got {episodes!r:.60}")
        self._name, self._given = name, iter(episodes)
        self._first = [_episode(item, f"{name}[0]") for item in islice(self._given, 1)]
        if not self._first:
            raise InputError(f"{name}: expected at least one episode, got none")
        first = self._first[0]
        found = {
            key: observation_spec(f"{name}[0]: observations", values.shape[1:], values.dtype)
            for key, values in first.parts.items()
        }
        self.description = Description(
            observations if observations is not None else found.get("", found),
            value_spec(f"{name}[0]: actions", first.actions.shape[1:], first.actions.dtype),
            frame_stack=frame_stack,
            extras={
                key: value_spec(f"{name}[0]: extras[{key!r}]", values.shape[1:], values.dtype)
                for key, values in first.extras.items()
            },
            steps=None if steps is None else checks.positive("steps", steps),
            fingerprint=name,
        )

    def episodes(self, start: int = 0) -> Iterator[Episode]:
        """The episodes from number `start` on; those before it are gone over."""
        rest = (_episode(item, f"{self._name}[{k}]") for k, item in enumerate(self._given, 1))
        yield from islice(chain(self._first, rest), start, None)


def _episode(item: Any, where: str) -> Episode:
    if not isinstance(item, Mapping) or not {*KEYS[:-1]} <= item.keys() <= {*KEYS}:
        found = sorted(map(str, item)) if isinstance(item, Mapping) else type(item).__name__
        raise InputError(f"{where}: expected a mapping with {', '.join(KEYS[:-1])} and maybe extras, got {found}")
    extras = item.get("extras") or {}
    if not isinstance(extras, Mapping):
        raise InputError(f"{where}: expected extras as a mapping from names to arrays, got {extras!r:.60}")
    return Episode(
        _observations(item["observations"], where),
        _array(item["actions"], f"{where}: actions"),
        _array(item["rewards"], f"{where}: rewards").astype(np.float32),
        terminated=_at_end(item["terminated"], f"{where}: terminated"),
        truncated=_at_end(item["truncated"], f"{where}: truncated"),
        extras={key: _array(values, f"{where}: extras[{key!r}]") for key, values in extras.items()},
        name=where,
    )


def _observations(value: Any, where: str) -> Arrays:
    if not isinstance(value, Mapping) and len(value) and isinstance(value[0], Mapping):
        try:
            value = {key: [each[key] for each in value] for key in value[0]}
        except (KeyError, TypeError):
            raise InputError(f"{where}: expected observations with the same parts at each step, got others") from None
    if isinstance(value, Mapping):
        return {key: _array(values, f"{where}: observations[{key!r}]") for key, values in value.items()}
    return _array(value, f"{where}: observations")


def _array(value: Any, where: str) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: expected an array with an entry for each step, but {error}") from None
    if not array.ndim or array.dtype.kind not in "biuf":
        raise InputError(f"{where}: expected numbers for each step, got {array.dtype} of shape {array.shape}")
    return array


def _at_end(value: Any, where: str) -> bool:
    flags = np.asarray(value)
    if flags.dtype.kind not in "biu" or flags.ndim > 1 or not flags.size or not np.isin(flags, (0, 1)).all():
        raise InputError(f"{where}: expected True or False, or that of each step, got {value!r:.60}")
    if flags.ndim and flags[:-1].any():
        raise InputError(f"{where}: expected no flag but the last one set, as an episode ends there, got others")
    return bool(flags.reshape(-1)[-1])

"""Episodes into DrQ-v2's folder of `.npz` files; see `drqv2`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets.drqv2 import FIELDS, FIRST, FLOAT32, NAME, blank
from diffreplay.datasets.episode import REWARD, Description, Episode
from diffreplay.datasets.names import check_names
from diffreplay.datasets.npz_growing import GrowingArrays
from diffreplay.datasets.stacks import Observations
from diffreplay.datasets.unfinished import UnfinishedFolder
from diffreplay.errors import CorruptDataError, InputError

NO_TIME = "19700101T000000"  # of an episode that does not say when it was
ROUNDED = "rewards are rounded to float32, as such files have them"


class EpisodeFolderTarget:
    """Writes such a folder; where one of the same conversion is, which was not completed, it goes on with that.

    A file appears whole, with the name that it had in such a folder, or else one that begins with `NO_TIME`. Memory
    holds a piece of an episode at a time; what is larger lies in files without a name in the folder, until its episode
    ends.

    Args:
        directory: of the files.
        description: of the source.
        conversion: what tells this conversion from others, as JSON holds it.

    Attributes:
        done: episodes that are there already.

    Raises:
        InputError: something else is there, the source has observations of several parts, or further values have the
            name of an array that such files have anyway.
    """

    def __init__(self, directory: Path, description: Description, conversion: dict[str, Any]) -> None:
        if isinstance(description.observations, Mapping):
            raise InputError(
                f"{directory}: expected observations of one part, as such files have, got {sorted(description.parts)}"
            )
        check_names(directory, [*FIELDS, *description.extras], nested=False)
        self._description, self._directory = description, directory
        self._folder = UnfinishedFolder(directory, conversion)
        self.done = sum(NAME.fullmatch(file.name) is not None for file in directory.iterdir())
        self._observations, self._arrays = Observations(description), GrowingArrays(directory)
        if description.reward.dtype != REWARD.dtype:
            warnings.warn(f"{directory}: {ROUNDED}", UserWarning, stacklevel=3)

    def write(self, episode: Episode) -> None:
        """Take an episode, or its next piece."""
        if episode.begins:
            self._arrays.clear()
        self._observations.take(episode)
        for step in range(len(self._observations)):
            self._arrays.append("observation", self._observations[step][""][None])
        for key, values in _values(episode, self._description):
            if episode.begins:
                self._arrays.append(key, _first(episode, key, values)[None])
            self._arrays.append(key, values)
        if episode.ends:
            self._end(episode)

    def _end(self, episode: Episode) -> None:
        length = self._arrays.rows("action") - 1
        match = NAME.fullmatch(episode.name)
        is_kept = match is not None and int(match[2]) == length and not (self._directory / episode.name).exists()
        name = episode.name if is_kept else f"{NO_TIME}_{self.done}_{length}.npz"
        unfinished = self._directory / f"{name}.unfinished"
        self._arrays.save(unfinished)
        os.replace(unfinished, self._directory / name)
        self._arrays.clear()
        self.done += 1

    def finish(self) -> None:
        """The folder is complete."""
        self._folder.finish()

    def close(self) -> None:
        """Let others go on with the folder."""
        self._arrays.clear()
        self._folder.close()


def _values(episode: Episode, description: Description) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays besides the observations, without their first row."""
    yield "action", episode.actions
    yield "reward", episode.rewards.astype(FLOAT32)[:, None]
    yield "discount", _discounts(episode)[:, None]
    for key in description.extras:
        yield key, episode.extras[key]


def _first(episode: Episode, key: str, values: NDArray[Any]) -> NDArray[Any]:
    """The first row of an array, which no action led to."""
    dummy = blank(key, values)
    try:
        return np.array(episode.attributes.get(FIRST, {}).get(key, dummy), dummy.dtype).reshape(dummy.shape)
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise CorruptDataError(
            f"{episode.name}: expected a first row of {key} of shape {dummy.shape}, but {error}"
        ) from None


def _discounts(episode: Episode) -> NDArray[Any]:
    if episode.discounts is not None:
        return episode.discounts
    discounts = np.ones(len(episode.actions), FLOAT32)
    if episode.ends and episode.terminated:
        discounts[-1] = 0
    return discounts

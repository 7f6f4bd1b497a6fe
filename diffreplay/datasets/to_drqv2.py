"""Episodes into DrQ-v2's folder of `.npz` files; see `drqv2`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets.drqv2 import FIRST, FLOAT32, NAME, blank
from diffreplay.datasets.episode import Description, Episode
from diffreplay.datasets.stacks import Observations
from diffreplay.datasets.unfinished import UnfinishedFolder
from diffreplay.errors import InputError

NO_TIME = "19700101T000000"  # of an episode that does not say when it was


class EpisodeFolderTarget:
    """Writes such a folder; where one of the same conversion is, which was not completed, it goes on with that.

    A file appears whole, with the name that it had in such a folder, or else one that begins with `NO_TIME`. Memory
    holds an episode at a time.

    Args:
        directory: of the files.
        description: of the source.
        conversion: what tells this conversion from others, as JSON holds it.

    Attributes:
        done: episodes that are there already.

    Raises:
        InputError: something else is there, or the source has observations of several parts.
    """

    def __init__(self, directory: Path, description: Description, conversion: dict[str, Any]) -> None:
        if isinstance(description.observations, Mapping):
            raise InputError(
                f"{directory}: expected observations of one part, as such files have, got {sorted(description.parts)}"
            )
        self._description, self._directory = description, directory
        self._folder = UnfinishedFolder(directory, conversion)
        self.done = sum(NAME.fullmatch(file.name) is not None for file in directory.iterdir())
        self._pieces: list[Episode] = []

    def write(self, episode: Episode) -> None:
        """Take an episode, or its next piece."""
        self._pieces.append(episode)
        if not episode.ends:
            return
        arrays = self._arrays(self._pieces)
        length = len(arrays["action"]) - 1
        match = NAME.fullmatch(episode.name)
        is_kept = match is not None and int(match[2]) == length and not (self._directory / episode.name).exists()
        name = episode.name if is_kept else f"{NO_TIME}_{self.done}_{length}.npz"
        unfinished = self._directory / f"{name}.unfinished"
        with unfinished.open("wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(unfinished, self._directory / name)
        self.done, self._pieces = self.done + 1, []

    def _arrays(self, pieces: list[Episode]) -> dict[str, Any]:
        first = pieces[0].attributes.get(FIRST, {})

        def rows(key: str, of_pieces: list[NDArray[Any]]) -> NDArray[Any]:
            dummy = blank(key, of_pieces[0])
            return np.concatenate([np.array(first.get(key, dummy), dummy.dtype)[None], *of_pieces])

        discounts = [_discounts(piece) for piece in pieces]
        return {
            "observation": _stacks(pieces, self._description),
            "action": rows("action", [piece.actions for piece in pieces]),
            "reward": rows("reward", [piece.rewards.astype(FLOAT32)[:, None] for piece in pieces]),
            "discount": rows("discount", [values[:, None] for values in discounts]),
            **{key: rows(key, [piece.extras[key] for piece in pieces]) for key in self._description.extras},
        }

    def finish(self) -> None:
        """The folder is complete."""
        self._folder.finish()

    def close(self) -> None:
        """Let others go on with the folder."""
        self._folder.close()


def _stacks(pieces: list[Episode], description: Description) -> NDArray[Any]:
    """The observations of an episode, (T + 1, f * C, ...)."""
    observations, found = Observations(description), []
    for piece in pieces:
        observations.take(piece)
        found += [observations[step][""] for step in range(len(observations))]
    return np.stack(found)


def _discounts(piece: Episode) -> NDArray[Any]:
    if piece.discounts is not None:
        return piece.discounts
    discounts = np.ones(len(piece.actions), FLOAT32)
    if piece.ends and piece.terminated:
        discounts[-1] = 0
    return discounts

"""Minari's datasets, read by Minari's own package: `NAME-v0/data/metadata.json` and the episodes beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets import hdf5
from diffreplay.datasets.episode import Description, Episode
from diffreplay.datasets.minari_files import (
    ENDS,
    MAIN,
    METADATA,
    data_folder,
    lengths,
    look,
    read_metadata,
    sizes,
)
from diffreplay.datasets.minari_spaces import is_image, leaves, seen_spec
from diffreplay.datasets.needs import needs, told_as_damage
from diffreplay.datasets.specs import value_spec
from diffreplay.errors import CorruptDataError
from diffreplay.parts import ArraySpec

PIECE_BYTES = 32 << 20
INFOS, FIRST_INFOS = "infos/", "first_infos"


class MinariEpisodes:
    """The episodes of a dataset, in the order of their numbers.

    Terminations and truncations are kept as they are, and so are infos of numbers that all episodes have. Where a
    dataset's images are JPEG, these are what Minari decodes of it, and a warning says so.

    Args:
        path: of the dataset, or of its folder `data`.
        frame_stack: frames in an observation of the buffer; None for 1.

    Raises:
        CorruptDataError: it is damaged; the message names it.
        InputError: its spaces are of a kind that a buffer does not hold.
        ReplayError: Minari is not installed.
    """

    format = "minari"

    def __init__(self, path: Path, frame_stack: int | None = None) -> None:
        self._path, self._folder = path, data_folder(path)
        storage = needs("minari.dataset.minari_storage", str(path)).MinariStorage
        self._metadata = read_metadata(self._folder)
        # Both spaces have to stand there: else Minari makes an environment, and so runs what the metadata names.
        self._seen = leaves(f"{path}: observation_space", self._metadata.get("observation_space"))
        leaves(f"{path}: action_space", self._metadata.get("action_space"), action=True)
        self._jpeg = bool(self._metadata.get("jpeg_encoding", True))
        self._groups = look(self._folder, self._seen, self._jpeg) if self._is_hdf5 else []
        steps = [arrays["rewards"][0] for arrays in self._groups] or lengths(self._folder, self._metadata)
        self._lengths = steps
        self._check_totals()
        with told_as_damage(path, "Minari dataset"):
            self._storage = storage.read(self._folder)
        self._infos = self._find_infos()
        self.description = self._describe(frame_stack or 1)

    def _check_totals(self) -> None:
        for key, there in (("total_episodes", len(self._lengths)), ("total_steps", sum(self._lengths))):
            if self._metadata.get(key, there) != there:
                file, told = self._folder / METADATA, self._metadata[key]
                raise CorruptDataError(f"{file}: expected {key} of {there}, as its episodes have, got {told}")

    @property
    def _is_hdf5(self) -> bool:
        return bool(self._metadata.get("data_format") == "hdf5")

    def _find_infos(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...], int]]:
        """The infos that are kept: dtype, shape of a row, and how many rows there are besides those of steps."""
        found: dict[str, tuple[np.dtype[Any], tuple[int, ...], int]] | None = None
        for arrays in self._groups:
            steps = arrays["rewards"][0]
            its = {
                key: (dtype, row, count - steps)
                for key, (count, dtype, row) in arrays.items()
                if key.startswith(INFOS) and dtype.kind in "biuf" and count - steps in (0, 1)
            }
            found = its if found is None else {key: kind for key, kind in found.items() if its.get(key) == kind}
        return found or {}

    def _describe(self, frame_stack: int) -> Description:
        first = next(self.episodes())
        kinds = {key: np.empty((0, *row), dtype) for key, (dtype, row, _) in self._infos.items()}
        extras = {key: _spec(f"{self._path}: {key}", values) for key, values in kinds.items()}
        extras |= {key: _spec(f"{self._path}: {key}", first.extras[key]) for key in ENDS}
        observations = {
            name: seen_spec(f"{self._path}: observations {name}", values.shape[1:], values.dtype, frame_stack)
            for name, values in first.parts.items()
        }
        return Description(
            observations[""] if list(observations) == [""] else observations,
            _spec(f"{self._path}: actions", first.actions),
            frame_stack=frame_stack,
            reward=_spec(f"{self._path}: rewards", first.rewards),
            extras=extras,
            episodes=len(self._lengths),
            steps=sum(self._lengths),
            attributes={"minari": self._metadata},
            warnings=tuple(self._warnings()),
            fingerprint=f"{sizes(self._folder)}",
        )

    def _warnings(self) -> Iterator[str]:
        if self._images:
            yield (
                f"{self._path}: {', '.join(self._images)}: stored as JPEG, which is lossy: what is kept is what Minari "
                "decodes; write datasets with jpeg_encoding=False"
            )
        infos = {key for arrays in self._groups for key in arrays if key.startswith(INFOS)}
        if left_out := sorted(infos - self._infos.keys()):
            yield f"{self._path}: {', '.join(left_out)[:200]}: left out, as they are not numbers of each step"
        if not self._is_hdf5:
            yield f"{self._path}: infos are left out, as the dataset is {self._metadata['data_format']}"

    @property
    def _images(self) -> list[str]:
        """The names of observations that are JPEG."""
        return [name or "observations" for name, space in self._seen.items() if self._jpeg and is_image(space)]

    def episodes(self, start: int = 0) -> Iterator[Episode]:
        """The episodes from number `start` on, of long ones the pieces in order, unless Minari has to decode them."""
        for number in range(start, len(self._lengths)):
            if self._is_hdf5:
                with hdf5.opened(self._folder / MAIN) as file:
                    group = file[f"episode_{number}"]
                    attributes = {hdf5.ATTRIBUTES: hdf5.attributes(self._path, group)}
                    yield from self._pieces(number, self._read(number) if self._images else group, attributes)
            else:
                with told_as_damage(self._path, "Minari dataset"):
                    yield from self._pieces(number, self._read(number), {})

    def _read(self, number: int) -> dict[str, Any]:
        """An episode as Minari gives it, whole."""
        with told_as_damage(self._path, "Minari dataset"):
            return dict(next(iter(self._storage.get_episodes([number]))))

    def _pieces(self, number: int, found: Any, attributes: dict[str, Any]) -> Iterator[Episode]:
        """The pieces of an episode, which is a group of the file, or what Minari gave."""
        steps = self._lengths[number]
        size = steps
        if self._is_hdf5:
            row = sum(dtype.itemsize * math.prod(shape) for _, dtype, shape in self._groups[number].values())
            size = max(1, PIECE_BYTES // max(1, row))
        first_infos = {
            key: {"dtype": dtype.str, "numbers": self._rows(number, found, key, 0, 1)[0].tolist()}
            for key, (dtype, _, extra) in self._infos.items()
            if extra
        }
        if first_infos:
            attributes = attributes | {FIRST_INFOS: first_infos}
        for first in range(0, steps, size):
            yield self._episode(number, found, first, min(first + size, steps), attributes)

    def _episode(self, number: int, found: Any, first: int, end: int, attributes: dict[str, Any]) -> Episode:
        """The steps from `first` to before `end`."""

        def rows(key: str, more: int = 0, skipped: int = 0) -> NDArray[Any]:
            return self._rows(number, found, key, first + skipped, end + skipped + more)

        is_last = end == self._lengths[number]
        shown = {name: rows(f"observations/{name}".rstrip("/"), more=is_last) for name in self._seen}
        ends = {key: rows(key) for key in ENDS}
        if any(values.ndim != 1 for values in ends.values()):
            raise CorruptDataError(f"{self._path}: episode {number}: expected a value a step of {', '.join(ENDS)}")
        return Episode(
            shown.get("", shown),
            rows("actions"),
            rows("rewards"),
            terminated=is_last and bool(ends["terminations"][-1]),
            truncated=is_last and bool(ends["truncations"][-1]),
            discounts=1 - ends["terminations"].astype(np.float32),
            extras={key: rows(key, skipped=extra) for key, (_, _, extra) in self._infos.items()} | ends,
            name=f"episode {number}",
            attributes=attributes,
            begins=first == 0,
            ends=is_last,
        )

    def _rows(self, number: int, found: Any, key: str, first: int, end: int) -> NDArray[Any]:
        """Rows of an array of an episode.

        Raises:
            CorruptDataError: they are not there.
        """
        values = found
        for name in key.split("/"):
            values = values.get(name) if hasattr(values, "get") else None
        values = values[first:end] if getattr(values, "shape", ()) else None
        if not isinstance(values, np.ndarray) or len(values) != end - first:
            there = "none" if values is None else f"{len(values)}"
            raise CorruptDataError(
                f"{self._path}: episode {number}: expected {end - first} rows of {key} from {first} on, got {there}"
            )
        return values


def _spec(where: str, values: NDArray[Any]) -> ArraySpec:
    """The spec of one row of values.

    Raises:
        CorruptDataError: there is no such spec.
    """
    if not values.ndim:
        raise CorruptDataError(f"{where}: expected a value of each step, got one")
    return value_spec(where, values.shape[1:], values.dtype)

"""Minari's datasets, read by Minari's own package: `NAME-v0/data/metadata.json` and the episodes beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets import hdf5
from diffreplay.datasets.episode import Description, Episode
from diffreplay.datasets.minari_files import ENDS, MAIN, METADATA, data_folder, look, read_metadata, reading, sizes
from diffreplay.datasets.minari_spaces import is_image, leaves, seen_spec
from diffreplay.datasets.needs import needs
from diffreplay.datasets.specs import value_spec
from diffreplay.errors import CorruptDataError
from diffreplay.parts import ArraySpec

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
        with reading(path):
            self._storage = storage.read(self._folder)
            self._count = int(self._storage.total_episodes)
        if self._count < 1 or (self._is_hdf5 and self._count != len(self._groups)):
            there = f"{len(self._groups)} episodes" if self._is_hdf5 else "no episodes"
            raise CorruptDataError(f"{path}: expected {self._count} episodes, as {METADATA} says, got {there}")
        self._infos = self._find_infos()
        self.description = self._describe(frame_stack or 1)

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
        first = self._read(0)
        shown, action = self._flat(first["observations"]), np.asarray(first["actions"])
        kinds = {key: np.empty((0, *row), dtype) for key, (dtype, row, _) in self._infos.items()}
        extras = {key: _spec(f"{self._path}: {key}", values) for key, values in kinds.items()}
        extras |= {key: _spec(f"{self._path}: {key}", np.asarray(first[key])) for key in ENDS}
        observations = {
            name: seen_spec(f"{self._path}: observations {name}", values.shape[1:], values.dtype, frame_stack)
            for name, values in shown.items()
        }
        return Description(
            observations[""] if list(observations) == [""] else observations,
            _spec(f"{self._path}: actions", action),
            frame_stack=frame_stack,
            reward=_spec(f"{self._path}: rewards", np.asarray(first["rewards"])),
            extras=extras,
            episodes=self._count,
            steps=int(self._storage.total_steps) if "total_steps" in self._metadata else None,
            attributes={"minari": self._metadata},
            warnings=tuple(self._warnings()),
            fingerprint=f"{sizes(self._folder)}",
        )

    def _warnings(self) -> Iterator[str]:
        if self._jpeg:
            images = [name or "observations" for name, space in self._seen.items() if is_image(space)]
            if images:
                yield (
                    f"{self._path}: {', '.join(images)}: stored as JPEG, which is lossy: what is kept is what Minari "
                    "decodes; write datasets with jpeg_encoding=False"
                )
        infos = {key for arrays in self._groups for key in arrays if key.startswith(INFOS)}
        if left_out := sorted(infos - self._infos.keys()):
            yield f"{self._path}: {', '.join(left_out)[:200]}: left out, as they are not numbers of each step"
        if not self._is_hdf5:
            yield f"{self._path}: infos are left out, as the dataset is {self._metadata['data_format']}"

    def _read(self, number: int) -> dict[str, Any]:
        """An episode as Minari gives it."""
        with reading(self._path):
            return dict(next(iter(self._storage.get_episodes([number]))))

    def _flat(self, observations: Any) -> dict[str, NDArray[Any]]:
        """The arrays of observations, by the names of their spaces.

        Raises:
            CorruptDataError: one is missing.
        """
        found = {}
        for name in self._seen:
            values = observations
            for key in name.split("/") if name else ():
                values = values.get(key) if isinstance(values, dict) else None
            if not isinstance(values, np.ndarray) or not values.ndim:
                raise CorruptDataError(f"{self._path}: expected an array of observations {name!r}, got {type(values)}")
            found[name] = values
        return found

    def episodes(self, start: int = 0) -> Iterator[Episode]:
        """The episodes from number `start` on."""
        for number in range(start, self._count):
            found = self._read(number)
            shown, infos = self._flat(found["observations"]), self._infos_of(found)
            steps, ends = len(found["rewards"]), {key: np.asarray(found[key]) for key in ENDS}
            if any(values.shape != (steps,) for values in ends.values()) or not steps:
                raise CorruptDataError(f"{self._path}: episode {number}: expected {steps} terminations and truncations")
            attributes: dict[str, Any] = {}
            if self._is_hdf5:
                with hdf5.opened(self._folder / MAIN) as file:
                    attributes[hdf5.ATTRIBUTES] = hdf5.attributes(self._path, file[f"episode_{number}"])
            if any(extra for _, _, extra in self._infos.values()):
                attributes[FIRST_INFOS] = {
                    key: {"dtype": values.dtype.str, "numbers": values[0].tolist()}
                    for key, values in infos.items()
                    if self._infos[key][2]
                }
            yield Episode(
                shown.get("", shown),
                np.asarray(found["actions"]),
                np.asarray(found["rewards"]),
                terminated=bool(ends["terminations"][-1]),
                truncated=bool(ends["truncations"][-1]),
                discounts=1 - ends["terminations"].astype(np.float32),
                extras={key: values[self._infos[key][2] :] for key, values in infos.items()} | ends,
                name=f"episode {number}",
                attributes=attributes,
            )

    def _infos_of(self, found: dict[str, Any]) -> dict[str, NDArray[Any]]:
        infos = {}
        for key in self._infos:
            values: Any = found
            for name in key.split("/"):
                values = values[name]
            infos[key] = np.asarray(values)
        return infos


def _spec(where: str, values: NDArray[Any]) -> ArraySpec:
    """The spec of one row of values.

    Raises:
        CorruptDataError: there is no such spec.
    """
    if not values.ndim:
        raise CorruptDataError(f"{where}: expected a value of each step, got one")
    return value_spec(where, values.shape[1:], values.dtype)

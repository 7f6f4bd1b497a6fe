"""Minari's datasets, read by Minari's own package: `NAME-v0/data/metadata.json` and the episodes beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets import hdf5
from diffreplay.datasets.episode import Description, Episode
from diffreplay.datasets.minari_spaces import is_image, leaves, seen_spec
from diffreplay.datasets.needs import needs, reason
from diffreplay.datasets.specs import value_spec
from diffreplay.errors import CorruptDataError, ReplayError
from diffreplay.parts import ArraySpec
from diffreplay.snapshots import open_regular

METADATA, MAIN = "metadata.json", "main_data.hdf5"
LARGEST_METADATA = 1 << 28
INFOS, FIRST_INFOS = "infos/", "first_infos"
ENDS = ("terminations", "truncations")
DAMAGE = (*hdf5.DAMAGE, AssertionError, LookupError, AttributeError, NotImplementedError, ArithmeticError)


def data_folder(path: Path) -> Path:
    """Where the metadata lies: `path`, or `data` in it."""
    return path / "data" if (path / "data" / METADATA).exists() else path


def is_dataset(path: Path) -> bool:
    """Whether it is a folder with the metadata of such a dataset."""
    return (data_folder(path) / METADATA).exists()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever Minari fails at within is told as damage of the dataset.

    Raises:
        CorruptDataError: so it is.
    """
    try:
        yield
    except ReplayError:
        raise
    except DAMAGE as error:
        raise CorruptDataError(
            f"{path}: expected a whole Minari dataset, got damaged or other data ({reason(error)})"
        ) from error


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
        self._metadata = self._read_metadata()
        # Both spaces have to stand there: else Minari makes an environment, and so runs what the metadata names.
        self._seen = leaves(f"{path}: observation_space", self._metadata.get("observation_space"))
        leaves(f"{path}: action_space", self._metadata.get("action_space"), action=True)
        self._groups = self._look() if self._is_hdf5 else []
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

    def _read_metadata(self) -> dict[str, Any]:
        path = self._folder / METADATA
        try:
            with open_regular(path) as file:
                text = file.read(LARGEST_METADATA + 1)
            found = json.loads(text if len(text) <= LARGEST_METADATA else b"")
        except (OSError, ValueError, RecursionError) as error:
            raise CorruptDataError(f"{path}: expected Minari's metadata, got other data ({reason(error)})") from None
        formats = ("hdf5", "arrow", "parquet")
        if not isinstance(found, dict) or found.get("data_format") not in formats:
            told = found.get("data_format") if isinstance(found, dict) else found
            raise CorruptDataError(f"{path}: expected a data_format of {', '.join(formats)}, got {told!r:.60}")
        return found

    def _look(self) -> list[dict[str, tuple[int, Any, tuple[int, ...]]]]:
        """Of each episode what its arrays are: rows, dtype and shape of a row; nothing of them is read.

        Raises:
            CorruptDataError: an episode is missing, or the file cannot hold what it says.
        """
        path, found = self._folder / MAIN, []
        with hdf5.opened(path) as file:
            groups = hdf5.children(path, file)
            for number in range(len(groups)):
                group = groups.get(f"episode_{number}")
                if not hasattr(group, "keys"):
                    raise CorruptDataError(f"{path}: expected episode_0 and so on, got {sorted(groups)[:3]}")
                arrays = dict(self._arrays(path, group, ""))
                missing = [key for key in ("rewards", *ENDS) if key not in arrays]
                if missing:
                    raise CorruptDataError(f"{path}: episode_{number}: expected {missing[0]}, got {sorted(arrays)[:9]}")
                found.append(arrays)
        return found

    def _arrays(self, path: Path, group: Any, prefix: str) -> Iterator[tuple[str, tuple[int, Any, tuple[int, ...]]]]:
        for name, item in hdf5.children(path, group).items():
            if hasattr(item, "keys"):
                yield from self._arrays(path, item, f"{prefix}{name}/")
                continue
            where = f"{path}: {item.name}"
            if item.shape is None:
                raise CorruptDataError(f"{where}: expected numbers or text, got nothing")
            hdf5.check_size(path, item)
            h5py = needs("h5py", str(path))
            is_jpeg = h5py.check_vlen_dtype(item.dtype) == np.uint8 and prefix.startswith("observations/")
            if item.dtype.kind not in "biufS" and not is_jpeg and h5py.check_string_dtype(item.dtype) is None:
                raise CorruptDataError(f"{where}: expected numbers or text, got {item.dtype}")
            yield prefix + name, (item.shape[0] if item.shape else -1, item.dtype, item.shape[1:])

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
            fingerprint=f"{sorted(_sizes(self._folder))}",
        )

    def _warnings(self) -> Iterator[str]:
        if self._metadata.get("jpeg_encoding", True):
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


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(folder)), path.stat().st_size

"""HDF5 as robomimic lays it out: `data/demo_0/obs/<key>`, `next_obs/<key>`, `actions`, `rewards`, `dones` and more.

Each array has T rows, `num_samples` of a demo's attributes; `total` of those of `data` is how many there are in all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets import hdf5
from diffreplay.datasets.episode import Description, Episode
from diffreplay.datasets.needs import needs
from diffreplay.datasets.specs import observation_spec, value_spec
from diffreplay.errors import CorruptDataError
from diffreplay.parts import ArraySpec

PIECE_BYTES = 32 << 20
FIELDS = ("actions", "rewards", "dones")
OBS, NEXT_OBS, MASK = "obs/", "next_obs/", "mask"
INNER, MASK_ATTRIBUTES = "inner attributes", "mask attributes"  # keys of what is kept


class Demonstrations:
    """The demos of a file, in the order of their numbers.

    `dones` are kept as they are; where one is set, the discount is 0, as robomimic has it. Where `next_obs` are the
    observations of the steps that follow, the last of them is the final observation; else they are kept as they are.
    To find that out, all of them are read when the file is opened.

    Args:
        path: of the file.
        frame_stack: frames in an observation of the buffer; None for 1.

    Raises:
        CorruptDataError: it is damaged, or not laid out so; the message names it.
        ReplayError: h5py is not installed.
    """

    format = "robomimic"

    def __init__(self, path: Path, frame_stack: int | None = None) -> None:
        self._path = path
        with hdf5.opened(path) as file:
            demos = self._demos(file)
            self._names = list(demos)
            kinds = {name: self._check(demo) for name, demo in demos.items()}
            self._kinds = kind = kinds[self._names[0]]
            for name, other in kinds.items():
                if other != kind:
                    expected = f"arrays like those of {self._names[0]}, {_told(kind)}"
                    raise CorruptDataError(f"{path}: {name}: expected {expected}, got {_told(other)}")
            self._has_next = any(key.startswith(NEXT_OBS) for key in kind)
            self._is_shifted = self._has_next and all(self._follows(demo) for demo in demos.values())
            self._lengths = [len(demo["actions"]) for demo in demos.values()]
            self._check_total(file)
            self.description = self._describe(file, frame_stack or 1)

    def _demos(self, file: Any) -> dict[str, Any]:
        data = hdf5.children(self._path, file).get("data")
        demos = {} if data is None else hdf5.children(self._path, data)
        if not demos or not all(hasattr(demo, "keys") for demo in demos.values()):
            raise CorruptDataError(
                f"{self._path}: expected groups such as data/demo_0, got {sorted(demos)[:3] or 'none'}"
            )
        order = sorted(
            demos, key=lambda name: [int(text) if text.isdecimal() else text for text in re.split(r"(\d+)", name)]
        )
        return {name: demos[name] for name in order}

    def _check(self, demo: Any) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """What the arrays of a demo are: dtype, and shape of a row.

        Raises:
            CorruptDataError: they do not fit together.
        """
        where, arrays = f"{self._path}: {demo.name}", hdf5.datasets(self._path, demo)
        missing = [key for key in FIELDS if key not in arrays]
        if missing or not any(key.startswith(OBS) for key in arrays):
            raise CorruptDataError(f"{where}: expected {', '.join(FIELDS)} and obs, got {sorted(arrays)}")
        count = demo.attrs.get("num_samples")
        if not isinstance(count, int | np.integer) or count < 1:
            raise CorruptDataError(f"{where}: expected the number of steps in num_samples, got {count!r:.60}")
        count = int(count)
        for key, array in arrays.items():
            if len(array) != count:
                raise CorruptDataError(
                    f"{where}: expected {count} rows of {key}, as num_samples says, got {len(array)}"
                )
        for key in ("rewards", "dones"):
            if arrays[key].shape != (count,):
                raise CorruptDataError(f"{where}: expected {key} of shape {(count,)}, got {arrays[key].shape}")
        kind = {key: (array.dtype, array.shape[1:]) for key, array in sorted(arrays.items())}
        shown = {key.removeprefix(OBS): its for key, its in kind.items() if key.startswith(OBS)}
        follow = {key.removeprefix(NEXT_OBS): its for key, its in kind.items() if key.startswith(NEXT_OBS)}
        if follow not in ({}, shown):
            raise CorruptDataError(f"{where}: expected next_obs like obs, {_told(shown)}, got {_told(follow)}")
        return kind

    def _follows(self, demo: Any) -> bool:
        """Whether the next observation of each step but the last is the observation of the step that follows."""
        for key, (dtype, row) in self._kinds.items():
            if key.startswith(NEXT_OBS):
                now, size = demo[OBS + key.removeprefix(NEXT_OBS)], _piece([(dtype, row)])
                for first in range(0, len(now) - 1, size):
                    end = min(first + size, len(now) - 1)
                    if not _same(hdf5.rows(demo[key], first, end), hdf5.rows(now, first + 1, end + 1)):
                        return False
        return True

    def _check_total(self, file: Any) -> None:
        total, found = file["data"].attrs.get("total"), sum(self._lengths)
        if total is not None and total != found:
            raise CorruptDataError(f"{self._path}: expected {total} steps in all, as total says, got {found}")

    def _describe(self, file: Any, frame_stack: int) -> Description:
        def spec(key: str, observed: bool = False) -> ArraySpec:
            dtype, row = self._kinds[key]
            return (observation_spec if observed else value_spec)(f"{self._path}: {key}", row, dtype)

        shown = [key for key in self._kinds if key.startswith(OBS)]
        others = [key for key in self._kinds if key not in (*shown, "actions", "rewards")]
        if self._is_shifted:
            others = [key for key in others if not key.startswith(NEXT_OBS)]
        loose = "next_obs are not the observations of the steps that follow: they are kept as further values, uncoded"
        attributes = {"root": hdf5.attributes(self._path, file), "data": hdf5.attributes(self._path, file["data"])}
        warnings = [f"{self._path}: {loose}"] if self._has_next and not self._is_shifted else []
        groups = hdf5.children(self._path, file)
        if MASK in groups:
            attributes |= self._masks(groups[MASK])
        if others_there := sorted(groups.keys() - {"data", MASK}):
            warnings.append(f"{self._path}: left out {', '.join(others_there):.200}, as only data and {MASK} are kept")
        return Description(
            {key.removeprefix(OBS): spec(key, True) for key in shown},
            spec("actions"),
            frame_stack=frame_stack,
            reward=spec("rewards"),
            extras={key: spec(key) for key in others},
            final_observation=self._has_next,
            episodes=len(self._names),
            steps=sum(self._lengths),
            attributes=attributes,
            warnings=tuple(warnings),
            fingerprint=f"{self._path.stat().st_size} bytes, {len(self._names)} demos, {sum(self._lengths)} steps",
        )

    def _masks(self, group: Any) -> dict[str, Any]:
        """What is kept of the filters: the names in each, how these are stored, and attributes."""
        check_string_dtype, found = needs("h5py", str(self._path)).check_string_dtype, {}
        there = hdf5.children(self._path, group)
        for name, item in there.items():
            names = hdf5.mask(self._path, item)
            text = check_string_dtype(item.dtype)
            if text is None:
                raise CorruptDataError(f"{self._path}: {item.name}: expected an array of names, got {item.dtype}")
            length = None if text.length is None else hdf5.width(text.length).itemsize
            found[name] = {"names": names, "encoding": text.encoding, "length": length}
        attributes = {name: hdf5.attributes(self._path, item) for name, item in {"": group, **there}.items()}
        return {MASK: found, MASK_ATTRIBUTES: {name: values for name, values in attributes.items() if values}}

    def _inner(self, group: Any, prefix: str = "") -> dict[str, Any]:
        """The attributes of what is in a demo, by name, where it has some or is a group that holds nothing."""
        found = {}
        for name, item in hdf5.children(self._path, group).items():
            values, is_group = hdf5.attributes(self._path, item), hasattr(item, "keys")
            if values or (is_group and not len(item)):
                found[prefix + name] = values
            if is_group:
                found |= self._inner(item, f"{prefix}{name}/")
        return found

    def episodes(self, start: int = 0) -> Iterator[Episode]:
        """The demos from number `start` on, of long ones the pieces in order."""
        for name, length in zip(self._names[start:], self._lengths[start:], strict=True):
            with hdf5.opened(self._path) as file:
                demo = file["data"][name]
                if self._check(demo) != self._kinds or len(demo["actions"]) != length:
                    raise CorruptDataError(f"{self._path}: {name}: expected the arrays that were looked at, got others")
                size = _piece(list(self._kinds.values()))
                for first in range(0, length, size):
                    yield self._episode(demo, name, first, min(first + size, length), length)

    def _attributes(self, demo: Any) -> dict[str, Any]:
        found, inner = {hdf5.ATTRIBUTES: hdf5.attributes(self._path, demo)}, self._inner(demo)
        return found | {INNER: inner} if inner else found

    def _episode(self, demo: Any, name: str, first: int, end: int, length: int) -> Episode:
        described, ends = self.description, end == length
        observations = {}
        for key in described.parts:
            shown = hdf5.rows(demo[OBS + key], first, end)
            if ends and self._has_next:
                shown = np.concatenate([shown, hdf5.rows(demo[NEXT_OBS + key], length - 1, length)])
            observations[key] = shown
        extras = {key: hdf5.rows(demo[key], first, end) for key in described.extras}
        discounts = (extras["dones"] == 0).astype(np.float32)
        return Episode(
            observations,
            hdf5.rows(demo["actions"], first, end),
            hdf5.rows(demo["rewards"], first, end),
            terminated=ends and discounts[-1] == 0,
            truncated=ends and discounts[-1] != 0,
            discounts=discounts,
            extras=extras,
            name=name,
            attributes=self._attributes(demo) if end == length else {},
            begins=first == 0,
            ends=ends,
        )


def _piece(arrays: list[tuple[np.dtype[Any], tuple[int, ...]]]) -> int:
    """How many rows of arrays are read at once."""
    return max(1, PIECE_BYTES // max(1, sum(dtype.itemsize * int(np.prod(row, dtype=int)) for dtype, row in arrays)))


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether arrays hold the same bits."""
    return np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()


def _told(kind: dict[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> str:
    return ", ".join(f"{key} {dtype} {row}" for key, (dtype, row) in kind.items())

"""Episodes into HDF5 as robomimic lays it out; see `robomimic`."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets import hdf5
from diffreplay.datasets.episode import REWARD, Description, Episode
from diffreplay.datasets.names import check_names
from diffreplay.datasets.needs import needs, reason
from diffreplay.datasets.robomimic import INNER, MASK, MASK_ATTRIBUTES, NEXT_OBS, OBS
from diffreplay.datasets.stacks import newest
from diffreplay.datasets.unfinished import UnfinishedPath
from diffreplay.errors import CorruptDataError, InputError, ReplayError

NAME = re.compile(r"[^/\0]*_\d+")
CHUNK_BYTES = 1 << 20
NO_ENV = "{}"  # of a source that does not say what environment it is of
DISCOUNTS = "discounts other than 0 and 1 are left out, as there are flags only"
OLDER_FRAMES = "the older frames of some observations are left out, as they are not those of the steps before"


class DemonstrationsTarget:
    """Writes such a file, which appears when it is complete.

    What was one there before gets the names and attributes back that it had; else demos are `demo_0` and so on. Of
    observations of several frames the newest are written, as robomimic stacks them itself.

    Args:
        path: of the file.
        description: of the source.
        conversion: what tells this conversion from others.

    Raises:
        InUseError: a conversion that is running writes it.
        InputError: something is there, or arrays would take the place of one another.
        ReplayError: h5py is not installed.
    """

    done = 0

    def __init__(self, path: Path, description: Description, conversion: dict[str, Any]) -> None:
        self._h5py = needs("h5py", str(path))
        self._description, said = description, description.attributes
        self._was_one = "root" in said and "data" in said
        self._check_names(path)
        self._unfinished = UnfinishedPath(path)
        self._file = self._h5py.File(self._unfinished.path, "w")
        self._data, self._steps, self._told = self._file.create_group("data"), 0, set[str]()
        self._demo: Any = None

    def _check_names(self, path: Path) -> None:
        """Refuse names that clash, and further values that would count as observations."""
        extras, shown = [*self._description.extras], [key or "image" for key in self._description.parts]
        following = {NEXT_OBS + key for key in shown}
        self._is_loose = following <= set(extras)
        if self._description.final_observation and not self._is_loose:
            extras = [*following, *extras]
        dones = [] if "dones" in extras else ["dones"]
        check_names(path, [*(OBS + key for key in shown), "actions", "rewards", *dones, *extras])
        others = [key for key in extras if key.startswith((OBS, NEXT_OBS)) and key not in following]
        if others or self._description.extras.get("dones", REWARD).shape:
            found = others[0] if others else f"dones of shape {self._description.extras['dones'].shape}"
            raise InputError(
                f"{path}: expected names of arrays besides obs/ and next_obs/, and dones of a number each, got "
                f"{found}: rename it"
            )

    def write(self, episode: Episode) -> None:
        """Take an episode, or its next piece."""
        if episode.begins:
            self._demo = self._data.create_group(self._name(episode.name))
        count = len(episode.actions)
        if has_other_discounts(episode):
            self._tell(DISCOUNTS)
        for key, values in self._newest(episode).items():
            name = key or "image"
            self._append(OBS + name, values[:count], is_coded=True)
            if self._description.final_observation and not self._is_loose:
                self._append(NEXT_OBS + name, values[1:] if episode.begins else values, is_coded=True)
        for key, values in {"actions": episode.actions, "rewards": episode.rewards, **episode.extras}.items():
            self._append(key, values)
        if "dones" not in episode.extras:
            self._append("dones", _dones(episode))
        self._steps += count
        if episode.ends:
            self._end(episode)

    def _name(self, name: str) -> str:
        is_kept = NAME.fullmatch(name) is not None if not self._was_one else name not in ("", ".") and "/" not in name
        if is_kept and name not in self._data:
            return name
        return next(free for k in itertools.count(self.done) if (free := f"demo_{k}") not in self._data)

    def _newest(self, episode: Episode) -> dict[str, NDArray[Any]]:
        if not episode.stacked:
            return episode.parts
        self._tell(OLDER_FRAMES)
        specs, frames = self._description.parts, self._description.frame_stack
        return {key: newest(values, specs[key], frames) for key, values in episode.parts.items()}

    def _tell(self, sentence: str) -> None:
        """Warn, once."""
        if sentence not in self._told:
            self._told.add(sentence)
            warnings.warn(sentence, UserWarning, stacklevel=4)

    def _append(self, key: str, values: NDArray[Any], is_coded: bool = False) -> None:
        if key in self._demo:
            array = self._demo[key]
            first = len(array)
            array.resize(first + len(values), axis=0)
            array[first:] = values
            return
        row = values.dtype.itemsize * int(np.prod(values.shape[1:], dtype=int))
        chunk = (min(max(1, CHUNK_BYTES // max(1, row)), max(1, len(values))), *values.shape[1:])
        coded = {"compression": "gzip", "compression_opts": 1} if is_coded and values.ndim > 2 else {}
        shape = (None, *values.shape[1:])
        self._demo.create_dataset(key, data=values, chunks=chunk, maxshape=shape, **coded)

    def _end(self, episode: Episode) -> None:
        with _as_kept():
            hdf5.put_attributes(self._demo, episode.attributes.get(hdf5.ATTRIBUTES, {}))
            for name, values in episode.attributes.get(INNER, {}).items():
                hdf5.put_attributes(self._demo[name] if name in self._demo else self._demo.create_group(name), values)
        if "num_samples" not in self._demo.attrs:
            self._demo.attrs["num_samples"] = len(self._demo["actions"])
        self.done += 1

    def finish(self) -> None:
        """Write what is said of all demos, and give the file its name."""
        said = self._description.attributes
        added = {} if self._was_one else {"env_args": NO_ENV, "total": {"dtype": "<i8", "numbers": self._steps}}
        with _as_kept():
            hdf5.put_attributes(self._file, said.get("root", {}))
            hdf5.put_attributes(self._data, added | said.get("data", {}))
            if MASK in said:
                self._write_masks(said[MASK], said.get(MASK_ATTRIBUTES, {}))
        self._file.close()
        self._unfinished.finish()

    def _write_masks(self, masks: dict[str, Any], attributes: dict[str, Any]) -> None:
        group = self._file.create_group(MASK)
        for name, said in masks.items():
            if isinstance(said, list):  # noted before masks kept their dtypes
                said = {
                    "names": said,
                    "encoding": "ascii",
                    "length": max(map(len, map(str.encode, said)), default=1) or 1,
                }
            length = None if said["length"] is None else hdf5.width(said["length"]).itemsize
            dtype = self._h5py.string_dtype(said["encoding"], length)
            names = np.array([demo.encode() for demo in said["names"]], "O" if length is None else dtype)
            group.create_dataset(name, data=names, dtype=dtype)
        for name, values in attributes.items():
            hdf5.put_attributes(group[name] if name else group, values)

    def close(self) -> None:
        """Close the file; unless it was complete, it goes."""
        self._file.close()
        self._unfinished.close()


@contextmanager
def _as_kept() -> Iterator[None]:
    """Tell what fails as damage of what was kept of a source."""
    try:
        yield
    except ReplayError:
        raise
    except (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise CorruptDataError(
            f"expected attributes and masks as they were kept of a source, got others ({reason(error)})"
        ) from error


def has_other_discounts(episode: Episode) -> bool:
    """Whether flags of an end do not tell its discounts."""
    return episode.discounts is not None and not np.isin(episode.discounts, (0, 1)).all()


def _dones(episode: Episode) -> NDArray[np.int64]:
    dones = np.zeros(len(episode.actions), np.int64)
    if episode.discounts is not None:
        dones[:] = episode.discounts == 0
    if episode.ends:
        dones[-1] |= episode.terminated
    return dones

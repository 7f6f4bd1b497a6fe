"""Episodes into HDF5 as robomimic lays it out; see `robomimic`."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets import hdf5
from diffreplay.datasets.episode import Description, Episode
from diffreplay.datasets.needs import needs
from diffreplay.datasets.robomimic import MASK, NEXT_OBS, OBS
from diffreplay.datasets.stacks import newest
from diffreplay.datasets.unfinished import UnfinishedPath

NAME = re.compile(r"[^/\0]*_\d+")
CHUNK_BYTES = 1 << 20
NO_ENV = "{}"  # of a source that does not say what environment it is of
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
        InputError: something is there.
        ReplayError: h5py is not installed.
    """

    done = 0

    def __init__(self, path: Path, description: Description, conversion: dict[str, Any]) -> None:
        h5py = needs("h5py", str(path))
        self._description, self._unfinished = description, UnfinishedPath(path)
        self._is_loose = any(key.startswith(NEXT_OBS) for key in description.extras)
        self._file = h5py.File(self._unfinished.path, "w")
        self._data, self._steps, self._has_warned = self._file.create_group("data"), 0, False
        self._demo: Any = None

    def write(self, episode: Episode) -> None:
        """Take an episode, or its next piece."""
        if episode.begins:
            is_kept = NAME.fullmatch(episode.name) is not None and episode.name not in self._data
            self._demo = self._data.create_group(episode.name if is_kept else f"demo_{self.done}")
        count = len(episode.actions)
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

    def _newest(self, episode: Episode) -> dict[str, NDArray[Any]]:
        if not episode.stacked:
            return episode.parts
        if not self._has_warned:
            warnings.warn(OLDER_FRAMES, UserWarning, stacklevel=3)
            self._has_warned = True
        specs, frames = self._description.parts, self._description.frame_stack
        return {key: newest(values, specs[key], frames) for key, values in episode.parts.items()}

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
        hdf5.put_attributes(self._demo, episode.attributes.get(hdf5.ATTRIBUTES, {}))
        if "num_samples" not in self._demo.attrs:
            self._demo.attrs["num_samples"] = len(self._demo["actions"])
        self.done += 1

    def finish(self) -> None:
        """Write what is said of all demos, and give the file its name."""
        said = self._description.attributes
        hdf5.put_attributes(self._file, said.get("root", {}))
        hdf5.put_attributes(self._data, {"env_args": NO_ENV, **said.get("data", {})})
        if "total" not in self._data.attrs:
            self._data.attrs["total"] = self._steps
        for name, demos in said.get(MASK, {}).items():
            self._file[f"{MASK}/{name}"] = np.array([demo.encode() for demo in demos] or [b""])[: len(demos)]
        self._file.close()
        self._unfinished.finish()

    def close(self) -> None:
        """Close the file; unless it was complete, it goes."""
        self._file.close()
        self._unfinished.remove()


def _dones(episode: Episode) -> NDArray[np.int64]:
    dones = np.zeros(len(episode.actions), np.int64)
    if episode.discounts is not None:
        dones[:] = episode.discounts == 0
    if episode.ends:
        dones[-1] |= episode.terminated
    return dones

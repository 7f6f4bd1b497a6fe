"""Episodes into zarr as diffusion_policy's replay buffer lays it out; see `zarr_replay`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets.episode import Description, Episode
from diffreplay.datasets.names import check_names
from diffreplay.datasets.needs import needs
from diffreplay.datasets.stacks import newest
from diffreplay.datasets.unfinished import UnfinishedPath
from diffreplay.datasets.zarr_files import V2, V3
from diffreplay.datasets.zarr_replay import ACTION, ENDS, NEXT_REWARD, ZARR

CHUNK_BYTES, CHUNK_ROWS = 1 << 20, 1 << 14
FINAL = "the final observations of episodes are left out, and discounts too, as this format has none"
OLDER_FRAMES = "the older frames of some observations are left out, as they are not those of the steps before"


class ZarrTarget:
    """Writes such a directory, of format 2, which appears when it is complete.

    Of observations of several frames the newest are written, as diffusion_policy stacks them itself. What came from
    there gets its dtypes, chunks and attributes back; of others, rewards and further values are written, too.

    Args:
        path: of the directory.
        description: of the source.
        conversion: what tells this conversion from others.

    Raises:
        InUseError: a conversion that is running writes it.
        InputError: something is there, or arrays would take the place of one another.
        ReplayError: zarr is not installed.
    """

    done = 0

    def __init__(self, path: Path, description: Description, conversion: dict[str, Any]) -> None:
        self._zarr = needs("zarr", str(path))
        self._description, self._kept = description, description.attributes.get(ZARR, {})
        shown = [_named(key) for key in description.parts]
        self._has_reward = not self._kept or (NEXT_REWARD in self._kept["arrays"] and NEXT_REWARD not in shown)
        written = [*shown, *map(_named, description.extras), ACTION, *([NEXT_REWARD] if self._has_reward else [])]
        check_names(path, written, reserved=(*V2, V3))
        self._unfinished = UnfinishedPath(path)
        self._root = self._zarr.open_group(store=str(self._unfinished.path), mode="w", zarr_format=2)
        self._data, self._meta = self._root.create_group("data"), self._root.create_group("meta")
        self._ends: list[int] = []
        self._steps, self._has_warned = 0, False
        if description.final_observation:
            warnings.warn(FINAL, UserWarning, stacklevel=3)

    def write(self, episode: Episode) -> None:
        """Take an episode, or its next piece."""
        count = len(episode.actions)
        for key, values in episode.parts.items():
            self._append(_named(key), self._newest(key, values, episode)[:count])
        self._append(ACTION, episode.actions)
        if self._has_reward:
            self._append(NEXT_REWARD, episode.rewards)
        for key, values in episode.extras.items():
            self._append(_named(key), values)
        self._steps += count
        if episode.ends:
            self._ends.append(self._steps)
            self.done += 1

    def _newest(self, key: str, values: NDArray[Any], episode: Episode) -> NDArray[Any]:
        if not episode.stacked:
            return values
        if not self._has_warned:
            warnings.warn(OLDER_FRAMES, UserWarning, stacklevel=4)
            self._has_warned = True
        return newest(values, self._description.parts[key], self._description.frame_stack)

    def _append(self, name: str, values: NDArray[Any]) -> None:
        kept = self._kept.get("arrays", {}).get(name, {})
        values = values.astype(kept.get("dtype", values.dtype), copy=False)
        if name not in self._data:
            row = max(1, values.dtype.itemsize * int(np.prod(values.shape[1:], dtype=int)))
            chunks = kept.get("chunks") or [min(max(1, CHUNK_BYTES // row), CHUNK_ROWS), *values.shape[1:]]
            shape = (0, *values.shape[1:])
            array = self._data.create_array(name, shape=shape, chunks=tuple(chunks), dtype=values.dtype)
            array.attrs.update(kept.get("attributes", {}))
        self._data[name].append(values)

    def finish(self) -> None:
        """Write where episodes end, and give the directory its name."""
        ends = np.array(self._ends, self._kept.get("ends", "<i8"))
        written = self._meta.create_array(ENDS, data=ends, chunks=(max(1, len(ends)),))
        groups = self._kept.get("groups", {})
        for key, group in (("", self._root), ("data", self._data), ("meta", self._meta), (f"meta/{ENDS}", written)):
            group.attrs.update(groups.get(key, {}))
        self._unfinished.finish()

    def close(self) -> None:
        """Unless it was complete, it goes."""
        self._unfinished.close()


def _named(key: str) -> str:
    """The name of an array of values that are called `key`."""
    return str(key).replace("/", "_").replace("\\", "_") or "img"

"""zarr as diffusion_policy's replay buffer lays it out: `data/*`, whose rows are steps, and `meta/episode_ends`.

`data/action` is the action of each step and `data/reward`, where it is one number, its reward; all else is observed.
There is no observation after an episode's last action. `to_zarr` writes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets import zarr_files
from diffreplay.datasets.episode import REWARD, Description, Episode
from diffreplay.datasets.needs import needs, told_as_damage
from diffreplay.datasets.specs import observation_spec, value_spec
from diffreplay.datasets.zarr_files import ArrayHeader
from diffreplay.errors import CorruptDataError
from diffreplay.parts import ArraySpec

PIECE_BYTES = 32 << 20
ACTION, NEXT_REWARD, ENDS = "action", "reward", "episode_ends"
FEW_CHANNELS = 4
ZARR = "zarr"  # key of attributes that an export goes by


class ZarrReplay:
    """The episodes of a zarr group, in their order.

    Images that are float32 but hold nothing but whole numbers from 0 to 255 are kept as uint8, and are float32 again on
    the way back. To find that out, all of them are read when it is opened.

    Args:
        path: of the directory.
        frame_stack: frames in an observation of the buffer; None for 1.

    Raises:
        CorruptDataError: it is damaged, or not laid out so; the message names the array.
        ReplayError: zarr is not installed.
    """

    format = "zarr"

    def __init__(self, path: Path, frame_stack: int | None = None) -> None:
        self._path, zarr = path, needs("zarr", str(path))
        if not zarr_files.is_zarr(path):
            raise CorruptDataError(f"{path}: expected a zarr group with data and meta, got something else")
        zarr_files.check_files(path)
        self._headers = {
            each.name: zarr_files.header(each) for each in sorted((path / "data").iterdir()) if each.is_dir()
        }
        if ACTION not in self._headers or len(self._headers) < 2:
            raise CorruptDataError(
                f"{path / 'data'}: expected {ACTION} and what was observed, got {sorted(self._headers) or 'none'}"
            )
        with told_as_damage(path / "data", "array"):
            self._arrays = {key: self._open(zarr, path / "data" / key, each) for key, each in self._headers.items()}
        self._ends = self._read_ends(zarr, path / "meta" / ENDS)
        steps = int(self._ends[-1])
        for key, each in self._headers.items():
            if each.shape[0] != steps:
                raise CorruptDataError(
                    f"{path / 'data' / key}: expected {steps} rows, as {ENDS} says, got {each.shape[0]}"
                )
        self._bytes = [key for key, each in self._headers.items() if _may_be_bytes(each) and self._is_bytes(key)]
        self.description = self._describe(frame_stack or 1)

    def _open(self, zarr: Any, path: Path, header: ArrayHeader) -> Any:
        array = zarr.open_array(store=str(path), mode="r")
        if array.shape != header.shape or array.dtype != header.dtype:
            raise CorruptDataError(f"{path}: expected {header.dtype} {header.shape}, got {array.dtype} {array.shape}")
        return array

    def _read_ends(self, zarr: Any, path: Path) -> NDArray[np.int64]:
        header = zarr_files.header(path)
        if header.dtype.kind not in "iu" or len(header.shape) != 1 or not header.shape[0]:
            raise CorruptDataError(f"{path}: expected the ends of episodes, got {header.dtype} {header.shape}")
        with told_as_damage(path, "array"):
            ends = np.asarray(self._open(zarr, path, header)[:])
        if ends[0] < 1 or np.any(ends[1:] <= ends[:-1]) or ends[-1] > np.iinfo(np.int64).max:
            raise CorruptDataError(f"{path}: expected ends of episodes that grow, got {ends[:9].tolist()}")
        self._ends_dtype = header.dtype.str
        return ends.astype(np.int64)

    def _rows(self, key: str, first: int, end: int) -> NDArray[Any]:
        with told_as_damage(self._path / "data" / key, "array"):
            return np.asarray(self._arrays[key][first:end])

    def _is_bytes(self, key: str) -> bool:
        """Whether an array holds whole numbers from 0 to 255 only."""
        size, count = self._piece([key]), int(self._ends[-1])
        for first in range(0, count, size):
            values = self._rows(key, first, min(first + size, count))
            with np.errstate(invalid="ignore"):
                back = values.astype(np.uint8).astype(values.dtype)
            if back.tobytes() != values.tobytes():
                return False
        return True

    def _piece(self, keys: list[str]) -> int:
        """How many rows of arrays are read at once."""
        row = sum(self._headers[key].dtype.itemsize * int(np.prod(self._headers[key].shape[1:])) for key in keys)
        return max(1, PIECE_BYTES // max(1, row))

    def _describe(self, frame_stack: int) -> Description:
        def spec(key: str, observed: bool = False) -> ArraySpec:
            header, where = self._headers[key], str(self._path / "data" / key)
            dtype = np.dtype(np.uint8) if key in self._bytes else header.dtype
            return (observation_spec if observed else value_spec)(where, header.shape[1:], dtype)

        has_reward = NEXT_REWARD in self._headers and len(self._headers[NEXT_REWARD].shape) == 1
        self._shown = [key for key in self._headers if key != ACTION and not (has_reward and key == NEXT_REWARD)]
        self._has_reward, path = has_reward, self._path
        kept = {
            key: {"dtype": each.dtype.str, "chunks": list(each.chunks), "attributes": each.attributes}
            for key, each in self._headers.items()
        }
        groups = {name: zarr_files.attributes(path / name) for name in ("", "data", "meta", f"meta/{ENDS}")}
        others = sorted(each.name for each in (path / "meta").iterdir() if each.is_dir() and each.name != ENDS)
        return Description(
            {key: spec(key, True) for key in self._shown},
            spec(ACTION),
            frame_stack=frame_stack,
            reward=spec(NEXT_REWARD) if has_reward else REWARD,
            final_observation=False,
            episodes=len(self._ends),
            steps=int(self._ends[-1]),
            attributes={ZARR: {"arrays": kept, "groups": groups, "ends": self._ends_dtype}},
            warnings=(f"{path / 'meta'}: left out {', '.join(others)}",) if others else (),
            fingerprint=f"{len(self._ends)} episodes, {int(self._ends[-1])} steps of {sorted(self._headers)}",
        )

    def episodes(self, start: int = 0) -> Iterator[Episode]:
        """The episodes from number `start` on, of long ones the pieces in order."""
        size = self._piece(list(self._headers))
        for number in range(start, len(self._ends)):
            begin, end = int(self._ends[number - 1]) if number else 0, int(self._ends[number])
            for first in range(begin, end, size):
                yield self._episode(number, first, min(first + size, end), first == begin, first + size >= end)

    def _episode(self, number: int, first: int, end: int, begins: bool, ends: bool) -> Episode:
        shown = {key: self._rows(key, first, end) for key in self._shown}
        for key in set(self._bytes) & set(shown):
            shown[key] = shown[key].astype(np.uint8)
        rewards = self._rows(NEXT_REWARD, first, end) if self._has_reward else np.zeros(end - first, np.float32)
        return Episode(
            shown,
            self._rows(ACTION, first, end),
            rewards,
            truncated=ends,
            name=f"episode {number}",
            begins=begins,
            ends=ends,
        )


def _may_be_bytes(header: ArrayHeader) -> bool:
    return (
        header.dtype == np.float32 and len(header.shape) == 4 and min(header.shape[1], header.shape[3]) <= FEW_CHANNELS
    )

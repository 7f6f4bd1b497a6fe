"""DrQ-v2's folder of episodes: an `.npz` file each, `<time>_<number>_<length>.npz`, with whole stacks.

Its arrays have T + 1 rows: `observation` (f * C, H, W), `action`, `reward` (1,) and `discount` (1,), both float32. A
row has the action that led to its observation; that of the first row is a dummy. Further arrays, such as `physics`, are
kept. `to_drqv2` writes it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay import checks
from diffreplay.datasets.episode import Description, Episode
from diffreplay.datasets.npz import Header, read_arrays, read_headers
from diffreplay.datasets.specs import spec_of
from diffreplay.datasets.stacks import single
from diffreplay.errors import CorruptDataError, InputError
from diffreplay.parts import ArraySpec

NAME = re.compile(r"[^/]*_(\d+)_(\d+)\.npz")
FIELDS = ("observation", "action", "reward", "discount")
FLOAT32 = np.dtype("float32")
FIRST = "first row"  # key of an episode's attributes


def is_folder(path: Path) -> bool:
    """Whether there are such files in a directory."""
    return path.is_dir() and any(NAME.fullmatch(file.name) for file in path.iterdir())


class EpisodeFolder:
    """The episodes of a folder, in the order of their numbers.

    Args:
        directory: of the files.
        frame_stack: frames in an observation; None to find out from the first episode.

    Raises:
        CorruptDataError: a file is damaged, or is not like the others; the message names it.
        InputError: there is no such file, or `frame_stack` does not fit.
    """

    format = "drqv2"

    def __init__(self, directory: Path, frame_stack: int | None = None) -> None:
        if not directory.is_dir():
            raise InputError(f"{directory}: expected a folder of episodes, got none")
        found = [(match, file) for file in directory.iterdir() if (match := NAME.fullmatch(file.name))]
        found.sort(key=lambda pair: (int(pair[0][1]), pair[0][0]))
        if not found:
            raise InputError(f"{directory}: expected files <time>_<number>_<length>.npz in it, got none")
        self._files = [file for _, file in found]
        self._headers = [_checked(file, int(match[2])) for match, file in found]
        _check_alike(self._files, self._headers)
        headers = self._headers[0]
        shape, dtype = headers["observation"].shape[1:], headers["observation"].dtype
        if len(shape) != 3 and frame_stack not in (None, 1):
            raise InputError(f"frame_stack: expected 1, as observations are of shape {shape}, got {frame_stack!r}")
        self._frame_stack = self._find_stack() if frame_stack is None else checks.positive("frame_stack", frame_stack)
        if shape and shape[0] % self._frame_stack:
            raise InputError(f"frame_stack: expected a divisor of {shape[0]} channels, got {self._frame_stack}")
        frame = (shape[0] // self._frame_stack, *shape[1:]) if self._frame_stack > 1 else shape
        others = {key: header for key, header in headers.items() if key not in FIELDS}
        self.description = Description(
            self._spec("observation", Header(frame, dtype), None),
            self._spec("action", Header(headers["action"].shape[1:], headers["action"].dtype)),
            frame_stack=self._frame_stack,
            extras={key: self._spec(key, Header(each.shape[1:], each.dtype)) for key, each in others.items()},
            episodes=len(found),
            steps=sum(each["action"].shape[0] - 1 for each in self._headers),
            fingerprint=self._fingerprint(),
        )

    def _spec(self, key: str, row: Header, layout: str | None = "") -> ArraySpec:
        return spec_of(f"{self._files[0]}: {key}", row.shape, row.dtype, layout)

    def _find_stack(self) -> int:
        """Frames in an observation, as the first episode tells: of three channels or of one where they are shifted."""
        headers = self._headers[0]
        shape = headers["observation"].shape[1:]
        if len(shape) != 3:
            return 1
        stacks = read_arrays(self._files[0], headers)["observation"]
        counts = [shape[0] // channels for channels in (3, 1) if shape[0] % channels == 0]
        return next((count for count in counts if count > 1 and single(stacks, count) is not None), 1)

    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for file in self._files:
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        return digest.hexdigest()

    def episodes(self, start: int = 0) -> Iterator[Episode]:
        """The episodes from number `start` on."""
        for file, headers in zip(self._files[start:], self._headers[start:], strict=True):
            yield self._episode(file, read_arrays(file, headers))

    def _episode(self, file: Path, arrays: dict[str, NDArray[Any]]) -> Episode:
        stacks = arrays.pop("observation")
        frames = single(stacks, self._frame_stack) if self._frame_stack > 1 else stacks
        first = {
            key: values[0] for key, values in arrays.items() if values[0].tobytes() != blank(key, values).tobytes()
        }
        steps = {key: values[1:] for key, values in arrays.items()}
        discounts = steps.pop("discount")[:, 0]
        return Episode(
            stacks if frames is None else frames,
            steps.pop("action"),
            steps.pop("reward")[:, 0],
            terminated=discounts[-1] == 0,
            truncated=discounts[-1] != 0,
            discounts=discounts,
            extras=steps,
            stacked=frames is None,
            name=file.name,
            attributes={FIRST: {key: value.tolist() for key, value in first.items()}} if first else {},
        )


def blank(key: str, values: NDArray[Any]) -> NDArray[Any]:
    """What the first row of an episode carries."""
    return np.full(values.shape[1:], key == "discount", values.dtype)


def _checked(file: Path, length: int) -> dict[str, Header]:
    """The headers of a file that is what its name says."""
    headers = read_headers(file)
    if missing := [key for key in FIELDS if key not in headers]:
        raise CorruptDataError(f"{file}: expected arrays {', '.join(FIELDS)}, got none called {', '.join(missing)}")
    rows = {key: header.shape[0] if header.shape else None for key, header in headers.items()}
    if set(rows.values()) != {length + 1} or not length:
        raise CorruptDataError(f"{file}: expected {length + 1} rows in each array, as its name tells, got {rows}")
    for key in ("reward", "discount"):
        if headers[key] != Header((length + 1, 1), FLOAT32):
            found = headers[key]
            raise CorruptDataError(
                f"{file}: expected {key} of float32 {(length + 1, 1)}, got {found.dtype} {found.shape}"
            )
    return headers


def _check_alike(files: list[Path], headers: list[dict[str, Header]]) -> None:
    """Refuse a file whose arrays are of other shapes or dtypes than those of the first one."""

    def of_a_row(each: dict[str, Header]) -> dict[str, str]:
        return {key: f"{header.dtype} {header.shape[1:]}" for key, header in sorted(each.items())}

    expected = of_a_row(headers[0])
    for file, each in zip(files, headers, strict=True):
        if of_a_row(each) != expected:
            raise CorruptDataError(
                f"{file}: expected rows like those of {files[0].name}, {expected}, got {of_a_row(each)}"
            )

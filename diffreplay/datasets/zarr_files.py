"""Looks at a zarr group before any of it is read: plain files, arrays of numbers, codecs that run no code."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffreplay.datasets.needs import reason
from diffreplay.datasets.specs import dtype_of
from diffreplay.datasets.zarr_chunks import Coding, check_chunk, coding
from diffreplay.errors import CorruptDataError
from diffreplay.snapshots import open_regular

MOST_METADATA = 1 << 20
MOST_CHUNK = 1 << 30  # bytes that are decompressed at once
MOST_TIMES, MOST_MORE = 4096, 1 << 30  # bytes of an array, for each that its files have and besides
V2, V3 = (".zarray", ".zgroup", ".zattrs"), "zarr.json"


class ArrayHeader(NamedTuple):
    """What an array says that it is."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    coding: Coding  # of a chunk in its file
    attributes: dict[str, Any]

    @property
    def chunk_bytes(self) -> int:
        """Of a chunk."""
        return math.prod(self.chunks) * self.dtype.itemsize


def is_zarr(path: Path) -> bool:
    """Whether a directory has the groups `data` and `meta` in it, as zarr 2 or 3 writes them."""
    return (
        any((path / name / file).is_file() for name in ("data",) for file in (V2[1], V3)) and (path / "meta").is_dir()
    )


def check_files(root: Path) -> None:
    """Refuse links and whatever else is no file or directory.

    Raises:
        CorruptDataError: names it.
    """
    try:
        for folder, directories, files in os.walk(root):
            for name in (*directories, *files):
                path = Path(folder, name)
                kind = path.lstat().st_mode
                if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                    what = "a link" if stat.S_ISLNK(kind) else "something else"
                    raise CorruptDataError(f"{path}: expected files in the dataset itself, got {what}")
    except OSError as error:
        raise CorruptDataError(f"{root}: cannot be read: {error.strerror}") from error


def header(path: Path) -> ArrayHeader:
    """What the array in a directory is.

    Raises:
        CorruptDataError: it is none of numbers, its chunks are not what it says, or its codecs are not known.
    """
    try:
        found = _v3(path) if (path / V3).exists() else _v2(path)
    except Exception as error:  # whatever may stand there
        raise CorruptDataError(
            f"{path}: expected an array of zarr, but its description makes no sense: {reason(error)}"
        ) from error
    if found.dtype.kind not in "biuf" or not found.shape or len(found.chunks) != len(found.shape):
        raise CorruptDataError(f"{path}: expected an array of numbers, got {found.dtype} {found.shape}")
    if min(*found.shape, 0) < 0 or min(*found.chunks, 1) < 1:
        raise CorruptDataError(f"{path}: expected a shape and chunks, got {found.shape} and {found.chunks}")
    if found.chunk_bytes > MOST_CHUNK:
        raise CorruptDataError(f"{path}: expected chunks of at most {MOST_CHUNK} bytes, got {found.chunk_bytes}")
    _check_chunks(path, found)
    return found


def _check_chunks(path: Path, array: ArrayHeader) -> None:
    """Refuse files that are not the chunks of an array, or too few of them."""
    stored = 0
    for folder, _, names in os.walk(path):
        for name in names:
            if name not in (*V2, V3):
                stored += check_chunk(Path(folder, name), array.chunk_bytes, array.coding)
    nbytes, most = math.prod(array.shape) * array.dtype.itemsize, MOST_TIMES * stored + MOST_MORE
    if nbytes > most:
        raise CorruptDataError(f"{path}: expected at most {most} bytes, as its files can hold, got {nbytes}")


def attributes(path: Path) -> dict[str, Any]:
    """The attributes of a group or an array.

    Raises:
        CorruptDataError: they make no sense.
    """
    try:
        if (path / V3).exists():
            found = _json(path / V3).get("attributes", {})
        else:
            found = _json(path / V2[2]) if (path / V2[2]).exists() else {}
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"{path}: expected attributes as JSON, but {reason(error)}") from error
    if not isinstance(found, dict):
        raise CorruptDataError(f"{path}: expected attributes with names, got {found!r:.60}")
    return found


def _v2(path: Path) -> ArrayHeader:
    told = _json(path / V2[0])
    if told["zarr_format"] != 2 or told.get("filters"):
        raise ValueError(f"filters: expected none, got {told.get('filters')!r:.60}")
    codec = told.get("compressor")
    coded = coding([] if codec is None else [(codec["id"], codec)])
    return ArrayHeader(_sides(told["shape"]), dtype_of(told["dtype"]), _sides(told["chunks"]), coded, attributes(path))


def _v3(path: Path) -> ArrayHeader:
    told = _json(path / V3)
    if told["zarr_format"] != 3 or told["node_type"] != "array" or told.get("storage_transformers"):
        raise ValueError(f"expected an array of format 3, got {told.get('node_type')!r:.60}")
    codecs = [(each["name"].removeprefix("numcodecs."), each.get("configuration") or {}) for each in told["codecs"]]
    if told["chunk_grid"]["name"] != "regular":
        raise ValueError(f"chunk_grid: expected a regular one, got {told['chunk_grid']!r:.60}")
    chunks = _sides(told["chunk_grid"]["configuration"]["chunk_shape"])
    return ArrayHeader(_sides(told["shape"]), dtype_of(told["data_type"]), chunks, coding(codecs), attributes(path))


def _sides(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or any(type(side) is not int for side in value):
        raise ValueError(f"expected a list of integers, got {value!r:.60}")
    return tuple(value)


def _json(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            data = file.read(MOST_METADATA + 1)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from error
    if len(data) > MOST_METADATA:
        raise ValueError(f"{path.name}: expected at most {MOST_METADATA} bytes, got more")
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError(f"{path.name}: expected an object, got {found!r:.60}")
    return found

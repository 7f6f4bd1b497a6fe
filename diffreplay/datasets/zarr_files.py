"""Looks at a zarr group before any of it is read: plain files, arrays of numbers, codecs that run no code."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffreplay.errors import CorruptDataError
from diffreplay.snapshots import open_regular

CODECS = {"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd", "bytes", "crc32c", "transpose"}
MOST_METADATA = 1 << 20
MOST_CHUNK = 1 << 30  # bytes that are decompressed at once
MOST_TIMES, MOST_MORE = 4096, 1 << 30  # bytes of an array, for each that its files have and besides
MOST_OVERHEAD = 4096  # bytes of a coded chunk beyond those of its numbers
BLOSC = np.dtype([("flags", "<u4"), ("nbytes", "<u4"), ("blocksize", "<u4"), ("cbytes", "<u4")])  # begins a chunk
V2, V3 = (".zarray", ".zgroup", ".zattrs"), "zarr.json"


class ArrayHeader(NamedTuple):
    """What an array says that it is."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    codec: str  # of what a chunk's file holds; "bytes" for none
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
        CorruptDataError: it is none of numbers, cannot be in its files, or its codecs are not known.
    """
    try:
        found = _v3(path) if (path / V3).exists() else _v2(path)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CorruptDataError(
            f"{path}: expected an array of zarr, but its description makes no sense: {error}"
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
    """Refuse files that cannot be the chunks of an array: of Blosc's and of bare ones the sizes are known.

    Blosc believes what its own header says of them, and reads beyond their end.
    """
    stored = 0
    for folder, _, names in os.walk(path):
        for file in (Path(folder, name) for name in names if name not in (*V2, V3)):
            size = file.stat().st_size
            stored += size
            if array.codec == "blosc":
                with open_regular(file) as opened:
                    head = opened.read(BLOSC.itemsize)
                told = np.frombuffer(head, BLOSC, 1)[0].tolist() if len(head) == BLOSC.itemsize else (0, 0, 0, 0)
                is_whole = (told[1], told[3]) == (array.chunk_bytes, size)
            else:
                is_whole = size == array.chunk_bytes or (
                    array.codec != "bytes" and size <= MOST_OVERHEAD + array.chunk_bytes * 1.02
                )
            if not is_whole:
                raise CorruptDataError(
                    f"{file}: expected a whole chunk of {array.chunk_bytes} bytes, got {size} as stored"
                )
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
    except ValueError as error:
        raise CorruptDataError(f"{path}: expected attributes as JSON, but {error}") from error
    if not isinstance(found, dict):
        raise CorruptDataError(f"{path}: expected attributes with names, got {found!r:.60}")
    return found


def _v2(path: Path) -> ArrayHeader:
    told = _json(path / V2[0])
    if told["zarr_format"] != 2 or told.get("filters"):
        raise ValueError(f"filters: expected none, got {told.get('filters')!r:.60}")
    compressor = told.get("compressor")
    codec = _known("bytes" if compressor is None else compressor["id"])
    return ArrayHeader(_sides(told["shape"]), _dtype(told["dtype"]), _sides(told["chunks"]), codec, attributes(path))


def _v3(path: Path) -> ArrayHeader:
    told = _json(path / V3)
    if told["zarr_format"] != 3 or told["node_type"] != "array" or told.get("storage_transformers"):
        raise ValueError(f"expected an array of format 3, got {told.get('node_type')!r:.60}")
    codecs = [_known(codec["name"].removeprefix("numcodecs.")) for codec in told["codecs"]]
    if told["chunk_grid"]["name"] != "regular":
        raise ValueError(f"chunk_grid: expected a regular one, got {told['chunk_grid']!r:.60}")
    chunks = _sides(told["chunk_grid"]["configuration"]["chunk_shape"])
    return ArrayHeader(_sides(told["shape"]), _dtype(told["data_type"]), chunks, codecs[-1], attributes(path))


def _known(codec: str) -> str:
    if codec not in CODECS:
        raise ValueError(f"codecs: expected some of {', '.join(sorted(CODECS))}, got {codec!r:.60}")
    return codec


def _sides(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or any(type(side) is not int for side in value):
        raise ValueError(f"expected a list of integers, got {value!r:.60}")
    return tuple(value)


def _dtype(value: Any) -> np.dtype[Any]:
    if not isinstance(value, str):
        raise ValueError(f"dtype: expected the name of one of numbers, got {value!r:.60}")
    return np.dtype(value)


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

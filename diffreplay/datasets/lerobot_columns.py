"""The columns of a LeRobot dataset's Parquet files: which there are, in all files alike, and images."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets import parquet
from diffreplay.datasets.lerobot_files import INFO, video_keys
from diffreplay.datasets.needs import needs, reason
from diffreplay.errors import CorruptDataError

ACTION, NEXT_REWARD, DONE, TRUNCATED, OBSERVED = "action", "next.reward", "next.done", "next.truncated", "observation"
SINGLE = (NEXT_REWARD, DONE, TRUNCATED)  # of one number each, also where that stands in a list
Kinds = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Of columns of numbers by their names: dtype, and shape of a row."""


def find(root: Path, info: dict[str, Any], path: Path) -> tuple[Kinds, list[str], list[str]]:
    """The columns of a file: those of numbers, of images, and of anything else.

    Args:
        root: of the dataset.
        info: what its metadata says.
        path: of the file.

    Raises:
        CorruptDataError: one is missing, or is not what the metadata says.
    """
    found: Kinds = {}
    features = {key: each for key, each in info["features"].items() if each.get("dtype") != "video"}
    images = [key for key, each in features.items() if each.get("dtype") == "image"]
    with parquet.opened(path) as file:
        kinds = parquet.kinds(path, file)
        for key in (ACTION, *features):
            if key not in kinds:
                raise CorruptDataError(f"{path}: expected a column {key!r}, got {sorted(kinds)!s:.200}")
        for key, kind in kinds.items():
            told = features.get(key, {}).get("dtype", "string")
            if kind is None and (key in (ACTION, *SINGLE) or told not in ("string", "image")):
                raise CorruptDataError(f"{path}: {key}: expected numbers, got a column of others")
            if kind is not None and key not in info["features"]:
                row = next(parquet.batches(file, [key], 0, 1, 1), None)
                if row is None:
                    raise CorruptDataError(f"{path}: {key}: expected rows, got none")
                found[key] = kind[0], parquet.shape_of(row.column(0), kind[1])
            elif kind is not None and key in features:
                found[key] = kind[0], _told_shape(f"{root / INFO}: {key}", f"{path}: {key}", features[key], *kind)
    for key in SINGLE:
        if key in found and math.prod(found[key][1]) != 1:
            raise CorruptDataError(f"{path}: {key}: expected one number in a row, got {found[key][1]}")
    return found, images, sorted(kinds.keys() - found.keys() - {*images, *video_keys(info)})


def _told_shape(where: str, column: str, feature: dict[str, Any], dtype: np.dtype[Any], deep: int) -> tuple[int, ...]:
    """The shape of a column's rows, as the metadata says.

    Raises:
        CorruptDataError: it does not fit the column.
    """
    told, shape = feature.get("dtype"), feature.get("shape")
    if not isinstance(shape, list) or not all(type(n) is int and 0 < n < 1 << 31 for n in shape):
        raise CorruptDataError(f"{where}: expected a shape, got {shape!r:.60}")
    if told != dtype.name or (deep != len(shape) if deep else math.prod(shape) != 1):
        expected = f"{told!r:.30} {tuple(shape)!s:.60}, as {INFO} says"
        raise CorruptDataError(f"{column}: expected {expected}, got {dtype} in {deep} lists")
    return tuple(shape) if deep else ()


def check(path: Path, numbers: Kinds, images: list[str], rows: int) -> None:
    """Refuse a file with other columns or rows than are expected.

    Raises:
        CorruptDataError: so it is.
    """
    with parquet.opened(path) as file:
        kinds = parquet.kinds(path, file)
        for key, (dtype, shape) in numbers.items():
            if kinds.get(key) != (dtype, len(shape)):
                got = "none" if key not in kinds else "others" if kinds[key] is None else str(kinds[key])
                raise CorruptDataError(f"{path}: {key}: expected {dtype} in {len(shape)} lists, got {got}")
        for key in images:
            if key not in kinds or not _is_image(file.schema_arrow.field(key).type):
                raise CorruptDataError(f"{path}: {key}: expected images, as {INFO} says, got others or none")
        if file.metadata.num_rows != rows:
            raise CorruptDataError(f"{path}: expected {rows} rows, as meta says, got {file.metadata.num_rows}")
        parquet.check_values(path, file, {key: shape for key, (_, shape) in numbers.items()})


def _is_image(type_: Any) -> bool:
    """Whether a column is of images, each the bytes of a file."""
    types = needs("pyarrow.types", "Parquet")
    return bool(
        types.is_struct(type_) and type_.get_field_index("bytes") >= 0 and types.is_binary(type_.field("bytes").type)
    )


def images(where: str, column: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The images (n, height, width, 3) of a column of a batch, each a PNG, which loses nothing.

    Raises:
        CorruptDataError: one is missing, damaged, of another kind or size.
    """
    pillow = needs("PIL.Image", where)
    found = np.empty((len(column), *size, 3), np.uint8)
    for row, data in enumerate(column.field("bytes")):
        try:
            with pillow.open(io.BytesIO(data.as_py() or b""), formats=("PNG",)) as image:
                if (image.mode, image.height, image.width) != ("RGB", *size):
                    got = f"{image.mode} of {image.width}x{image.height}"
                    raise CorruptDataError(f"{where}: expected RGB of {size[1]}x{size[0]} pixels, got {got}")
                found[row] = np.asarray(image)
        except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
            if isinstance(error, CorruptDataError):
                raise
            raise CorruptDataError(f"{where}: expected PNG images, got other data ({reason(error)})") from None
    return found

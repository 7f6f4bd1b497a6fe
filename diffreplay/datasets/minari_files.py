"""The files of a Minari dataset, looked at before Minari reads them: what they claim has to be possible."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffreplay.datasets import hdf5
from diffreplay.datasets.minari_spaces import is_image
from diffreplay.datasets.needs import needs, reason, told_as_damage
from diffreplay.errors import CorruptDataError
from diffreplay.snapshots import open_regular

METADATA, MAIN = "metadata.json", "main_data.hdf5"
LARGEST_METADATA = 1 << 28
MOST_IMAGES = 4 << 30  # bytes of an episode's images that are JPEG, once decoded: Minari reads it whole
NO_DATA = ["_", ".", METADATA]  # begins the names of files that are no rows
FORMATS = ("hdf5", "arrow", "parquet")
ENDS = ("terminations", "truncations")
Arrays = dict[str, tuple[int, Any, tuple[int, ...]]]
"""Of arrays by their names: rows, dtype and shape of a row."""


def data_folder(path: Path) -> Path:
    """Where the metadata lies: `path`, or `data` in it."""
    return path / "data" if (path / "data" / METADATA).exists() else path


def is_dataset(path: Path) -> bool:
    """Whether it is a folder with the metadata of such a dataset."""
    return (data_folder(path) / METADATA).exists()


def read_metadata(folder: Path) -> dict[str, Any]:
    """What the metadata in a folder says.

    Raises:
        CorruptDataError: it is damaged, or of a format that Minari does not have.
    """
    path = folder / METADATA
    try:
        with open_regular(path) as file:
            text = file.read(LARGEST_METADATA + 1)
        found = json.loads(text if len(text) <= LARGEST_METADATA else b"")
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptDataError(f"{path}: expected Minari's metadata, got other data ({reason(error)})") from None
    if not isinstance(found, dict) or found.get("data_format") not in FORMATS:
        told = found.get("data_format") if isinstance(found, dict) else found
        raise CorruptDataError(f"{path}: expected a data_format of {', '.join(FORMATS)}, got {told!r:.60}")
    for key in ("total_episodes", "total_steps"):
        told = found.get(key, 0)
        if type(told) is not int or told < 0:
            raise CorruptDataError(f"{path}: expected a number as {key}, got {told!r:.60}")
    return found


def look(folder: Path, seen: dict[str, dict[str, Any]], jpeg: bool) -> list[Arrays]:
    """Of each episode of an HDF5 file what its arrays are; of images that are JPEG, the first one's head is read.

    Args:
        folder: of the file.
        seen: the spaces of observations.
        jpeg: images are JPEG.

    Raises:
        CorruptDataError: an episode is missing, or the file cannot hold what it says.
    """
    path, found = folder / MAIN, list[Arrays]()
    images = {f"observations/{name}".rstrip("/"): space for name, space in seen.items() if jpeg and is_image(space)}
    with hdf5.opened(path) as file:
        groups = hdf5.children(path, file)
        for number in range(len(groups)):
            group = groups.get(f"episode_{number}")
            if not hasattr(group, "keys"):
                raise CorruptDataError(f"{path}: expected episode_0 and so on, got {sorted(groups)[:3]}")
            arrays = dict(_arrays(path, group, images))
            _check_episode(f"{path}: episode_{number}", arrays, seen, images, found[0] if found else arrays)
            found.append(arrays)
    return found


def _check_episode(
    where: str, arrays: Arrays, seen: dict[str, Any], images: dict[str, dict[str, Any]], first: Arrays
) -> None:
    """Refuse arrays that are not there, are not of the same steps, or are others than those of the first episode."""
    shown = [f"observations/{name}".rstrip("/") for name in seen]
    missing = [key for key in ("rewards", "actions", *ENDS, *shown) if key not in arrays]
    if missing:
        raise CorruptDataError(f"{where}: expected {missing[0]}, got {sorted(arrays)[:9]}")
    steps = arrays["rewards"][0]
    if steps < 1:
        raise CorruptDataError(f"{where}: expected rewards of at least one step, got none")
    for key in ("rewards", "actions", *ENDS, *shown):
        rows, *kind = arrays[key]
        if rows != steps + (key in shown):
            raise CorruptDataError(f"{where}: expected {steps + (key in shown)} rows of {key}, got {rows}")
        expected = [np.uint8, tuple(images[key]["shape"])] if key in images else list(first[key][1:])
        if key in images:
            nbytes = rows * math.prod(images[key]["shape"])
            if nbytes > MOST_IMAGES:
                raise CorruptDataError(f"{where}: expected at most {MOST_IMAGES} bytes of {key}, got {nbytes}")
        elif kind != expected:
            raise CorruptDataError(f"{where}: expected {key} of {_told(expected)}, as in episode_0, got {_told(kind)}")


def _told(kind: list[Any]) -> str:
    return f"{kind[0]} {kind[1]}"


def lengths(folder: Path, metadata: dict[str, Any]) -> list[int]:
    """How many steps the episodes of Arrow or Parquet have.

    Raises:
        CorruptDataError: one is missing or damaged, or there are others.
    """
    dataset = needs("pyarrow.dataset", str(folder))
    found: list[int] = []
    there = sum(each.name.isdigit() for each in folder.iterdir())
    if metadata.get("total_episodes") != there:
        told = metadata.get("total_episodes")
        raise CorruptDataError(f"{folder / METADATA}: expected total_episodes of {there}, as there are, got {told}")
    for number in range(there):
        path = folder / str(number)
        with told_as_damage(path, "Minari dataset"):
            rows = dataset.dataset(str(path), format=metadata["data_format"], ignore_prefixes=NO_DATA).count_rows()
        most = hdf5.MOST_TIMES * sum(size for _, size in sizes(path))
        if not 2 <= rows <= most:  # one more than there are steps
            raise CorruptDataError(f"{path}: expected 2 to {most} rows, as its files can hold, got {rows}")
        found.append(rows - 1)
    return found


def _arrays(
    path: Path, group: Any, images: dict[str, dict[str, Any]]
) -> Iterator[tuple[str, tuple[int, Any, tuple[int, ...]]]]:
    h5py = needs("h5py", str(path))
    for name, item in hdf5.walk(path, group):
        where = f"{path}: {item.name}"
        if item.shape is None:
            raise CorruptDataError(f"{where}: expected numbers or text, got nothing")
        hdf5.check_size(path, item)
        is_jpeg = name in images and h5py.check_vlen_dtype(item.dtype) == np.uint8
        if item.dtype.kind not in "biufS" and not is_jpeg and h5py.check_string_dtype(item.dtype) is None:
            raise CorruptDataError(f"{where}: expected numbers or text, got {item.dtype}")
        if name in images and item.shape and len(item):
            _check_jpeg(where, bytes(item[0]), images[name])
        yield name, (item.shape[0] if item.shape else -1, item.dtype, item.shape[1:])


def _check_jpeg(where: str, data: bytes, space: dict[str, Any]) -> None:
    """Refuse an image that is larger than its space says before memory is taken for it.

    Raises:
        CorruptDataError: so it is, or it is no JPEG.
    """
    pillow = needs("PIL.Image", where)
    try:
        with pillow.open(io.BytesIO(data), formats=("JPEG",)) as image:
            width, height = image.size
    except Exception as error:  # Pillow raises errors of many kinds
        raise CorruptDataError(f"{where}: expected a JPEG, got other data ({reason(error)})") from None
    if [height, width] != list(space["shape"][:2]):
        raise CorruptDataError(f"{where}: expected a JPEG of {space['shape'][:2]} pixels, got {[height, width]}")


def sizes(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes of all files in a folder."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return sorted((str(path.relative_to(folder)), path.stat().st_size) for path in found)

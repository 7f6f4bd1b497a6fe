"""Opens HDF5 files that may be damaged or hostile: numbers only, nothing outside the file, no more than it can hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets.needs import needs, reason
from diffreplay.errors import CorruptDataError, ReplayError
from diffreplay.snapshots import open_regular

MAGIC = b"\x89HDF\r\n\x1a\n"
MOST_TIMES = 1032  # that deflate makes something smaller
ATTRIBUTES = "hdf5"  # key of what `attributes` gave among those of an episode
MOST_NAMES = 1 << 20
MOST_CHUNK = 1 << 30  # bytes that are decompressed at once
DAMAGE = (OSError, ValueError, KeyError, RuntimeError, TypeError)


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as such files do."""
    try:
        with open_regular(path) as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file as h5py has it; whatever fails within is told as damage of it.

    Raises:
        CorruptDataError: it cannot be read.
        ReplayError: h5py is not installed.
    """
    h5py = needs("h5py", str(path))
    try:
        open_regular(path).close()
        with h5py.File(path, "r") as file:
            yield file
    except ReplayError:
        raise
    except DAMAGE as error:
        raise CorruptDataError(
            f"{path}: expected a whole HDF5 file, got damaged or other data ({reason(error)})"
        ) from error


def children(path: Path, group: Any) -> dict[str, Any]:
    """What is in a group, by name.

    Raises:
        CorruptDataError: it leads out of the file or elsewhere in it.
    """
    h5py = needs("h5py", str(path))
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise CorruptDataError(f"{path}: expected data in the file itself, got a link at {group.name}/{name}")
    return dict(group.items())


def datasets(path: Path, group: Any, prefix: str = "") -> dict[str, Any]:
    """All arrays of numbers below a group, by their names, such as "obs/image".

    Raises:
        CorruptDataError: one is not of numbers, or cannot be in this file.
    """
    h5py = needs("h5py", str(path))
    found: dict[str, Any] = {}
    for name, item in children(path, group).items():
        if isinstance(item, h5py.Group):
            found |= datasets(path, item, f"{prefix}{name}/")
        else:
            _check(path, item)
            found[prefix + name] = item
    return found


def _check(path: Path, dataset: Any) -> None:
    where = f"{path}: {dataset.name}"
    if dataset.shape is None or dataset.dtype.kind not in "biuf" or dataset.dtype.subdtype or not dataset.ndim:
        raise CorruptDataError(f"{where}: expected an array of numbers, got {dataset.dtype} {dataset.shape}")
    check_size(path, dataset)


def check_size(path: Path, dataset: Any) -> None:
    """Refuse an array that lies in other files, or that this one cannot hold.

    Raises:
        CorruptDataError: so it is.
    """
    where = f"{path}: {dataset.name}"
    if dataset.is_virtual or dataset.external:
        raise CorruptDataError(f"{where}: expected data in the file itself, got data in other files")
    nbytes = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
    most = MOST_TIMES * path.stat().st_size
    if nbytes > most:
        raise CorruptDataError(f"{where}: expected at most {most} bytes, as the file can hold, got {nbytes}")
    chunk = int(np.prod(dataset.chunks or (), dtype=object)) * dataset.dtype.itemsize
    if chunk > MOST_CHUNK:
        raise CorruptDataError(f"{where}: expected chunks of at most {MOST_CHUNK} bytes, got {chunk}")


def attributes(path: Path, item: Any) -> dict[str, Any]:
    """The attributes of a group as JSON holds them; `put_attributes` writes them again.

    Raises:
        CorruptDataError: one is neither text nor numbers.
    """
    return {name: _to_json(f"{path}: {item.name}: {name}", value) for name, value in item.attrs.items()}


def _to_json(where: str, value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    array = np.asarray(value)
    if array.dtype.kind == "O" and all(isinstance(each, str) for each in array.flat):
        return {"texts": array.tolist()}
    if array.dtype.kind == "S":
        return {"bytes": [each.decode("latin-1") for each in array.reshape(-1).tolist()], "shape": array.shape}
    if array.dtype.kind not in "biuf":
        raise CorruptDataError(f"{where}: expected text or numbers, got {array.dtype}")
    return {"dtype": array.dtype.str, "numbers": array.tolist()}


def put_attributes(item: Any, values: dict[str, Any]) -> None:
    """Write what `attributes` gave to a group."""
    for name, value in values.items():
        item.attrs[name] = from_json(value)


def from_json(value: Any) -> Any:
    """An attribute's value, of what `attributes` made of it."""
    if isinstance(value, str):
        return value
    if "numbers" in value:
        return np.array(value["numbers"], value["dtype"])[()]
    if "texts" in value:
        return value["texts"]
    if "shape" in value:
        return np.array([each.encode("latin-1") for each in value["bytes"]]).reshape(value["shape"])
    return value["bytes"].encode("latin-1")


def mask(path: Path, item: Any) -> list[str]:
    """The names that an array of text holds.

    Raises:
        CorruptDataError: it is something else.
    """
    if getattr(item, "shape", None) is None or item.ndim != 1 or item.dtype.kind not in "SO" or len(item) > MOST_NAMES:
        raise CorruptDataError(f"{path}: {item.name}: expected an array of names, got others")
    return [each.decode() if isinstance(each, bytes) else str(each) for each in item[:].tolist()]


def rows(dataset: Any, first: int, end: int) -> NDArray[Any]:
    """Rows of an array."""
    return np.asarray(dataset[first:end])

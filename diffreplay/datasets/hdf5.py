"""Opens HDF5 files that may be damaged or hostile: numbers only, nothing outside the file, no more than it can hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets.listing import LISTING
from diffreplay.datasets.needs import needs, reason, told_as_damage
from diffreplay.datasets.specs import dtype_of
from diffreplay.datasets.unpacked import unpacked
from diffreplay.errors import CorruptDataError
from diffreplay.snapshots import open_regular

MAGIC = b"\x89HDF\r\n\x1a\n"
MOST_TIMES = 1032  # that deflate makes something smaller
ATTRIBUTES = "hdf5"  # key of what `attributes` gave among those of an episode
MOST_NAMES = 1 << 20
MOST_WIDTH = 1 << 16  # bytes of a text that is not as long as it is
MOST_CHUNK = 1 << 30  # bytes that are decompressed at once
DEEPEST = 32  # groups in one another
DEFLATE, FLETCHER32, LZF = 1, 3, 32000  # filters, by HDF5's numbers


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
    with told_as_damage(path, "HDF5 file"):
        open_regular(path).close()
        with h5py.File(path, "r") as file:
            yield file


def children(path: Path, group: Any) -> dict[str, Any]:
    """What is in a group, by name.

    Raises:
        CorruptDataError: it leads out of the file or elsewhere in it.
    """
    return _children(path, group, {_place(group)})


def _children(path: Path, group: Any, seen: set[int]) -> dict[str, Any]:
    """What is in a group; nothing that was seen already, as whoever follows such names may never come to an end."""
    h5py, found = needs("h5py", str(path)), {}
    for name in group:
        where = f"{group.name.rstrip('/')}/{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise CorruptDataError(f"{path}: expected data in the file itself, got a link at {where}")
        found[name] = item = group[name]
        if (place := _place(item)) in seen:
            raise CorruptDataError(f"{path}: {where}: expected data of its own, got some that has two names")
        seen.add(place)
    return found


def _place(item: Any) -> int:
    """Where in its file a group or an array begins, by whatever name it was found."""
    return int(needs("h5py", str(item)).h5o.get_info(item.id).addr)


def walk(path: Path, group: Any) -> Iterator[tuple[str, Any]]:
    """All that is below a group and no group itself, with names such as "obs/image".

    Raises:
        CorruptDataError: it leads elsewhere, is there twice, or lies too deep.
    """
    return _walk(path, group, "", {_place(group.file), _place(group)})


def _walk(path: Path, group: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if prefix.count("/") > DEEPEST:
        raise CorruptDataError(f"{path}: {group.name:.80}: expected groups at most {DEEPEST} deep, got deeper ones")
    for name, item in _children(path, group, seen).items():
        if hasattr(item, "keys"):
            yield from _walk(path, item, f"{prefix}{name}/", seen)
        else:
            yield prefix + name, item


def datasets(path: Path, group: Any) -> dict[str, Any]:
    """All arrays of numbers below a group, by their names, such as "obs/image".

    Raises:
        CorruptDataError: one is not of numbers, or cannot be in this file.
    """
    found = dict(walk(path, group))
    for item in found.values():
        _check(path, item)
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
    if dataset.chunks:
        _check_chunks(where, dataset, chunk)


def _check_chunks(where: str, dataset: Any, nbytes: int) -> None:
    """Refuse chunks that unpack to more than they hold: HDF5 takes as much memory as a stream asks for."""
    how = dataset.id.get_create_plist()
    filters = [how.get_filter(number)[0] for number in range(how.get_nfilters())]
    if sum(each in (DEFLATE, LZF) for each in filters) > 1:
        raise CorruptDataError(f"{where}: expected chunks that are compressed once, got {len(filters)} filters")
    if DEFLATE not in filters:
        return
    checksum = 4 if FLETCHER32 in filters[filters.index(DEFLATE) :] else 0
    large: list[tuple[int, ...]] = []

    def look(chunk: Any) -> None:
        is_plain = chunk.filter_mask >> filters.index(DEFLATE) & 1
        if not is_plain and chunk.size * MOST_TIMES > MOST_CHUNK:
            large.append(chunk.chunk_offset)

    dataset.id.chunk_iter(look)
    for place in large:
        data = dataset.id.read_direct_chunk(place)[1]
        if unpacked(data[: len(data) - checksum], "zlib", nbytes) > nbytes:
            raise CorruptDataError(f"{where}: expected chunks of {nbytes} bytes, got more in one")


def attributes(path: Path, item: Any) -> dict[str, Any]:
    """The attributes of a group or an array as JSON holds them; `put_attributes` writes them again.

    Raises:
        CorruptDataError: one is neither text nor numbers.
    """
    where = f"{path}: {item.name}"
    return {
        name: _to_json(f"{where}: {name}", value, item.attrs.get_id(name).dtype) for name, value in item.attrs.items()
    }


def _to_json(where: str, value: Any, dtype: np.dtype[Any]) -> Any:
    """Of a value, and the dtype with which it is stored."""
    h5py = needs("h5py", where)
    text = h5py.check_string_dtype(dtype)
    if text is None and dtype.kind not in "biuf":
        raise CorruptDataError(f"{where}: expected text or numbers, got {dtype}")
    if isinstance(value, h5py.Empty):
        return {"empty": dtype.str if text is None else None}
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if text is None:
        return {"dtype": array.dtype.str, "numbers": array.tolist(), "shape": array.shape}
    if text.length is None:
        return {"texts": array.tolist(), "shape": array.shape}
    names = [each.decode("latin-1") for each in array.reshape(-1).tolist()]
    return {"bytes": names, "shape": array.shape, "width": width(text.length).itemsize}


def put_attributes(item: Any, values: dict[str, Any]) -> None:
    """Write what `attributes` gave to a group or an array."""
    for name, value in values.items():
        item.attrs[name] = from_json(value)


def from_json(value: Any) -> Any:
    """An attribute's value, of what `attributes` made of it.

    Raises:
        CorruptDataError: it did not make this.
    """
    try:
        return _from_json(value)
    except Exception as error:  # whatever may stand there
        raise CorruptDataError(
            f"{LISTING}: expected an attribute of HDF5 as it was kept, got {value!r:.60} ({reason(error)})"
        ) from error


def _from_json(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if "empty" in value:
        h5py = needs("h5py", "attributes")
        return h5py.Empty(h5py.string_dtype() if value["empty"] is None else dtype_of(value["empty"]))
    if "numbers" in value:
        numbers = np.array(value["numbers"], dtype_of(value["dtype"]))
        return numbers.reshape(value.get("shape", numbers.shape))[()]
    if "texts" in value:
        texts = np.array(value["texts"], needs("h5py", "attributes").string_dtype())
        return texts.reshape(value.get("shape", texts.shape))
    if "shape" in value:
        found = [each.encode("latin-1") for each in value["bytes"]]
        return np.array(found, width(value["width"]) if "width" in value else None).reshape(value["shape"])
    return value["bytes"].encode("latin-1")


def width(value: Any) -> np.dtype[Any]:
    """The dtype of texts of so many bytes.

    Raises:
        ValueError: that is none.
    """
    if type(value) is not int or not 0 < value <= MOST_WIDTH:
        raise ValueError(f"expected texts of at most {MOST_WIDTH} bytes, got {value!r:.60}")
    return np.dtype(f"S{value}")


def mask(path: Path, item: Any) -> list[str]:
    """The names that an array of text holds.

    Raises:
        CorruptDataError: it is something else.
    """
    if getattr(item, "shape", None) is not None:
        check_size(path, item)
    if getattr(item, "shape", None) is None or item.ndim != 1 or item.dtype.kind not in "SO" or len(item) > MOST_NAMES:
        raise CorruptDataError(f"{path}: {item.name}: expected an array of names, got others")
    return [each.decode() if isinstance(each, bytes) else str(each) for each in item[:].tolist()]


def rows(dataset: Any, first: int, end: int) -> NDArray[Any]:
    """Rows of an array."""
    return np.asarray(dataset[first:end])

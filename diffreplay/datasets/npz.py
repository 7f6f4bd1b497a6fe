"""Reads `.npz` files that may be damaged or hostile: headers first, no pickle, nothing larger than it says."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from diffreplay.datasets.needs import reason
from diffreplay.errors import CorruptDataError
from diffreplay.snapshots import open_regular

MOST_BYTES = 4 << 30  # of the arrays of a file
SUFFIX = ".npy"
MOST_HEADER = 1 << 16
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of the others a few bytes may become gigabytes at once


class Header(NamedTuple):
    """What an array says that it is."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_headers(path: Path) -> dict[str, Header]:
    """What the arrays of a file are; no more of it is read.

    Raises:
        CorruptDataError: names the file, where it is not what it should be.
    """
    with _opened(path) as file:
        headers = {}
        for info in file.infolist():
            if not info.filename.endswith(SUFFIX):
                raise CorruptDataError(f"{path}: expected arrays only, got {info.filename!r:.60} in it")
            key = info.filename.removesuffix(SUFFIX)
            if info.compress_type not in COMPRESSIONS:
                raise CorruptDataError(
                    f"{path}: expected arrays that are stored or deflated, as NumPy writes them, got {key!r:.60} "
                    f"compressed by method {info.compress_type}"
                )
            with file.open(info) as member:
                beginning = _beginning(member)
            headers[key] = header = _read_header(beginning)
            left = info.file_size - beginning.tell()
            if header.dtype.hasobject:
                raise CorruptDataError(
                    f"{path}: expected numbers, got {key!r:.60} of Python objects, which are not read"
                )
            if left != header.nbytes:
                raise CorruptDataError(
                    f"{path}: expected {header.nbytes} bytes in {key!r:.60}, as {header.dtype} {header.shape} has, "
                    f"got {left}"
                )
        nbytes = sum(header.nbytes for header in headers.values())
        if nbytes > MOST_BYTES:
            raise CorruptDataError(f"{path}: expected at most {MOST_BYTES} bytes of arrays, got {nbytes}")
        return headers


def read_arrays(path: Path, headers: dict[str, Header]) -> dict[str, NDArray[Any]]:
    """The arrays of a file.

    Raises:
        CorruptDataError: it is damaged, or has other headers than it had.
    """
    if read_headers(path) != headers:
        raise CorruptDataError(f"{path}: expected the file that was looked at before, got one that has changed since")
    with _opened(path) as file:
        arrays = {}
        for key in headers:
            with file.open(key + SUFFIX) as member:
                arrays[key] = npy.read_array(member, allow_pickle=False)
                member.read(1)  # so that its checksum is compared
        return arrays


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with open_regular(path) as raw, zipfile.ZipFile(raw) as file:
            yield file
    except CorruptDataError:
        raise
    except OSError as error:
        raise CorruptDataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a header is parsed as Python's literals, which fail in many ways
        raise CorruptDataError(
            f"{path}: expected an .npz file that is whole, got damaged or other data ({reason(error)})"
        ) from error


def _beginning(member: Any) -> io.BytesIO:
    """As much as an array's header says that it has, and no more: the array may be damaged without stopping this."""
    data = member.read(10)
    if data[6:7] == b"\x02":
        data += member.read(2)
    size = int.from_bytes(data[8:], "little")
    if size > MOST_HEADER:
        raise ValueError(f"a header of {size} bytes")
    return io.BytesIO(data + member.read(size))


def _read_header(member: Any) -> Header:
    version = npy.read_magic(member)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(member)
    elif version == (2, 0):
        shape, _, dtype = npy.read_array_header_2_0(member)
    else:
        raise ValueError(f"version {version} of .npy")
    return Header(shape, dtype)

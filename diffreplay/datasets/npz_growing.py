"""Writes an `.npz` file whose arrays grow row by row, of which memory holds the beginning only."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

HELD = 8 << 20  # bytes of an array in memory; more go to a file without a name
BLOCK = 1 << 20


class GrowingArrays:
    """Arrays by name, as `savez_compressed` writes them.

    An array's header, which tells its rows, comes before them: so they wait until all are there.

    Args:
        directory: where what memory does not hold lies, uncompressed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._waiting: dict[str, _Waiting] = {}

    def append(self, key: str, values: NDArray[Any]) -> None:
        """Add rows (n, ...) to an array; all of them have the shape and dtype of its first ones."""
        if key not in self._waiting:
            self._waiting[key] = _Waiting(self._directory, values)
        self._waiting[key].append(values)

    def rows(self, key: str) -> int:
        """So many does an array have."""
        return self._waiting[key].rows

    def save(self, path: Path) -> None:
        """Write the file."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for key, array in self._waiting.items():
                with file.open(f"{key}.npy", "w", force_zip64=True) as member:
                    array.save(member)

    def clear(self) -> None:
        """Begin anew, without arrays."""
        for array in self._waiting.values():
            array.data.close()
        self._waiting.clear()


class _Waiting:
    """The rows of an array, while they become more."""

    def __init__(self, directory: Path, values: NDArray[Any]) -> None:
        self.rows, self._shape, self._dtype = 0, values.shape[1:], values.dtype
        self.data = tempfile.SpooledTemporaryFile(HELD, dir=str(directory))  # noqa: SIM115  # `clear` closes it

    def append(self, values: NDArray[Any]) -> None:
        self.data.write(np.ascontiguousarray(values).tobytes())
        self.rows += len(values)

    def save(self, member: IO[bytes]) -> None:
        shape, descr = (self.rows, *self._shape), npy.dtype_to_descr(self._dtype)
        npy.write_array_header_1_0(member, {"descr": descr, "fortran_order": False, "shape": shape})
        self.data.seek(0)
        shutil.copyfileobj(self.data, member, BLOCK)

"""Columns of numbers out of Parquet files, through pyarrow, a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets.needs import needs, told_as_damage
from diffreplay.errors import CorruptDataError
from diffreplay.snapshots import open_regular

MAGIC = b"PAR1"
MOST_GROUP = 1 << 30  # bytes of a column that are decompressed at once


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file as pyarrow has it; whatever pyarrow fails at within is told as damage of it.

    Raises:
        CorruptDataError: it cannot be read.
        ReplayError: pyarrow is not installed.
    """
    parquet = needs("pyarrow.parquet", str(path))
    with told_as_damage(path, "Parquet file"), open_regular(path) as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError("it does not begin as such files do")
        yield parquet.ParquetFile(file, memory_map=False, pre_buffer=False)


def kinds(path: Path, file: Any) -> dict[str, tuple[np.dtype[Any], int] | None]:
    """Of each column the dtype of its numbers and how deeply they are nested in lists; None for what is no numbers.

    Raises:
        CorruptDataError: two columns have one name, or more would be decompressed at once than is fair.
    """
    schema, metadata = file.schema_arrow, file.metadata
    if len(set(schema.names)) != len(schema.names):
        raise CorruptDataError(f"{path}: expected columns of different names, got {sorted(schema.names)!s:.200}")
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.total_uncompressed_size > MOST_GROUP:
                raise CorruptDataError(
                    f"{path}: {column.path_in_schema}: expected at most {MOST_GROUP} bytes in a group of rows, "
                    f"got {column.total_uncompressed_size}"
                )
    return {each.name: _kind(each.type) for each in schema}


def _kind(type_: Any) -> tuple[np.dtype[Any], int] | None:
    types, deep = needs("pyarrow.types", "Parquet"), 0
    type_ = getattr(type_, "storage_type", type_)
    while types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_):
        type_, deep = type_.value_type, deep + 1
    if not (types.is_integer(type_) or types.is_floating(type_) or types.is_boolean(type_)):
        return None
    return np.dtype(type_.to_pandas_dtype()), deep


def check_values(path: Path, file: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse columns that cannot have rows of these shapes, as the file's own counts are others.

    Raises:
        CorruptDataError: so it is.
    """
    metadata = file.metadata
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            place = f"{column.path_in_schema}."
            name = max((key for key in file.schema_arrow.names if place.startswith(f"{key}.")), key=len, default="")
            if name in shapes and column.num_values != group.num_rows * math.prod(shapes[name]):
                expected = f"{group.num_rows} rows of {shapes[name]}"
                raise CorruptDataError(f"{path}: {name}: expected {expected}, got {column.num_values} values")


def batches(file: Any, columns: list[str], first: int, count: int, size: int) -> Iterator[Any]:
    """Rows from number `first` on, `count` in all, as record batches of at most `size` rows."""
    metadata, begin, skip = file.metadata, 0, 0
    groups: list[int] = []
    for number in range(metadata.num_row_groups):
        end = begin + metadata.row_group(number).num_rows
        if begin < first + count and end > first:
            skip = skip if groups else first - begin
            groups.append(number)
        begin = end
    for batch in file.iter_batches(batch_size=size, row_groups=groups, columns=columns, use_threads=False):
        here = batch.slice(min(skip, batch.num_rows), count)
        skip -= batch.num_rows - here.num_rows if skip else 0
        count -= here.num_rows
        if here.num_rows:
            yield here


def numbers(where: str, column: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """The numbers (n, *shape) of a column of a batch; where its rows are single numbers, shape is ().

    Raises:
        CorruptDataError: rows are of other lengths, or are missing.
    """
    compute = needs("pyarrow.compute", where)
    found = getattr(column, "storage", column)
    for length in shape:
        lengths = np.asarray(compute.list_value_length(found).fill_null(-1))
        if (lengths != length).any():
            other = lengths[lengths != length][0]
            raise CorruptDataError(f"{where}: expected rows of shape {shape}, got one of length {max(0, other)}")
        found = found.flatten()
    if found.null_count:
        raise CorruptDataError(f"{where}: expected a number in each row, got none in some")
    values = np.ascontiguousarray(found.to_numpy(zero_copy_only=False))
    return values.reshape(len(column), *shape)


def shape_of(column: Any, deep: int) -> tuple[int, ...]:
    """The shape of a column's first row, which is nested so deeply in lists."""
    compute, shape = needs("pyarrow.compute", "Parquet"), []
    found = getattr(column, "storage", column).slice(0, 1)
    for _ in range(deep):
        shape.append(max(0, compute.list_value_length(found).fill_null(0).to_pylist()[0]))
        found = found.flatten().slice(0, 1)
        if not shape[-1]:
            break
    return tuple(shape)


def table(path: Path, columns: list[str], most: int) -> list[dict[str, Any]]:
    """All rows of a small table, some columns of it, as Python values.

    Raises:
        CorruptDataError: it is damaged, has other columns or more rows than `most`.
    """
    with opened(path) as file:
        kinds(path, file)
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise CorruptDataError(f"{path}: expected a column {missing[0]!r}, got {file.schema_arrow.names!s:.200}")
        if file.metadata.num_rows > most:
            raise CorruptDataError(f"{path}: expected at most {most} rows, got {file.metadata.num_rows}")
        return [dict(row) for row in file.read(columns=columns, use_threads=False).to_pylist()]

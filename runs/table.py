"""CSV files of numbers that a resumed run goes on with, whatever became of them meanwhile."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")

logger = logging.getLogger(__name__)


class CsvTable:
    """Rows with fixed columns, each on disk as soon as it is written.

    Args:
        path: of the file. An earlier one is continued.
        columns: names in order; a row may lack some, which stay empty.
        keep_below: rows of the earlier file stay when their frame is below this; see `keep_rows`. None starts over and
            keeps the earlier file besides.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], keep_below: int | None) -> None:
        if keep_below is None:
            set_aside(path)
        keep_rows(path, "frame", keep_below or 0, columns)
        self._file = path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, columns, lineterminator="\n")

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def set_aside(path: Path) -> Path | None:
    """Rename a file, if it is there, to `<name>.old<suffix>` or, where that is taken, `<name>.old2<suffix>` and on."""
    if not path.exists():
        return None
    number, old = 1, path.with_suffix(f".old{path.suffix}")
    while old.exists():
        number += 1
        old = path.with_suffix(f".old{number}{path.suffix}")
    os.replace(path, old)
    return old


def keep_rows(path: Path, key: str, below: int, columns: Sequence[str] = ()) -> list[str]:
    """Drop the rows of a file whose whole number in the column `key` is not below `below`, and what is no row.

    A row holds a number or nothing in each column. Where there are other lines, a warning says so, and the file is kept
    as it was besides.

    Args:
        path: of the file; made if missing.
        key: the column that orders the rows.
        below: bound on what stays.
        columns: that the file is to have, with nothing in those that it lacks; empty for those that it has.

    Returns:
        The file's columns.
    """
    header, rows, unreadable = _read_rows(path, key, columns) if path.exists() else (list(columns), [], 0)
    if unreadable:
        message = "%s: %d lines cannot be read and are left out; the file as it was is %s"
        logger.warning(message, path, unreadable, set_aside(path))
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(row for row in rows if int(row[key]) < below)
    os.replace(unfinished, path)
    return header


def _read_rows(path: Path, key: str, columns: Sequence[str]) -> tuple[list[str], list[dict[str, str]], int]:
    """Columns and rows of a file, and how many lines are neither.

    Read by lines: a quote in a damaged file would take all that follows for one value.
    """
    first, *lines = path.read_bytes().splitlines(keepends=True) or [b""]
    header, unreadable = _cells(first), 0
    if key not in header or (columns and not set(header) <= set(columns)):
        unreadable = 1
        if 2 * sum(map(str.__eq__, header, columns)) <= len(columns):
            return list(columns), [], unreadable + len(lines)  # not damaged: of another kind
        header = list(columns)
    rows = []
    for line in lines:
        cells = _cells(line)
        if len(cells) == len(header) and line.endswith((b"\r", b"\n")) and all(map(_is_number_or_empty, cells)):
            row = dict(zip(header, cells, strict=True))
            if WHOLE_NUMBER.fullmatch(row[key]):
                rows.append(dict.fromkeys(columns, "") | row)
                continue
        unreadable += 1
    return list(columns) or header, rows, unreadable


def _cells(line: bytes) -> list[str]:
    return line.decode(errors="replace").rstrip("\r\n").split(",")


def _is_number_or_empty(text: str) -> bool:
    try:
        float(text or "0")
    except ValueError:
        return False
    return True

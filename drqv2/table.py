"""CSV files of numbers that a resumed run goes on with, whatever became of them meanwhile."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FRAME = re.compile(r"[0-9]{1,18}")

logger = logging.getLogger(__name__)


class CsvTable:
    """Rows with fixed columns, each on disk as soon as it is written.

    Args:
        path: of the file. An earlier one is continued.
        columns: names in order; a row may lack some, which stay empty.
        keep_below: rows of the earlier file stay when their frame is below this; where a line of it cannot be read, a
            warning says so and the file is kept as it was besides. None starts over and keeps the earlier file.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], keep_below: int | None) -> None:
        kept: list[dict[str, str]] = []
        if keep_below is None:
            set_aside(path)
        elif path.exists():
            rows, unreadable = _read_rows(path, columns)
            kept = [row for row in rows if int(row["frame"]) < keep_below]
            if unreadable:
                old = set_aside(path)
                logger.warning(
                    "%s: %d lines cannot be read and are left out; the file as it was is %s", path, unreadable, old
                )
        unfinished = path.with_suffix(".tmp")
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(kept)
        os.replace(unfinished, path)
        self._file = path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, columns)

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


def _read_rows(path: Path, columns: tuple[str, ...]) -> tuple[list[dict[str, str]], int]:
    """The rows of a file that hold a number or nothing in each column, and how many lines are none.

    A column that the file's first line lacks is empty. Read by lines: a quote in a damaged file would take all that
    follows for one value.
    """
    first, *lines = path.read_bytes().splitlines(keepends=True) or [b""]
    header = _cells(first)
    unreadable = 0
    if not {"frame"} <= set(header) <= set(columns):
        if 2 * sum(map(str.__eq__, header, columns)) < len(columns):
            return [], 1 + len(lines)  # not damaged: of another kind
        unreadable, header = 1, list(columns)
    rows = []
    for line in lines:
        cells = _cells(line)
        if len(cells) == len(header) and line.endswith((b"\r", b"\n")) and all(map(_is_number_or_empty, cells)):
            row = dict(zip(header, cells, strict=True))
            if FRAME.fullmatch(row["frame"]):
                rows.append(dict.fromkeys(columns, "") | row)
                continue
        unreadable += 1
    return rows, unreadable


def _cells(line: bytes) -> list[str]:
    return line.decode(errors="replace").rstrip("\r\n").split(",")


def _is_number_or_empty(text: str) -> bool:
    try:
        float(text or "0")
    except ValueError:
        return False
    return True

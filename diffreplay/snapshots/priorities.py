"""The file of a snapshot that holds the priorities of its steps: see docs/snapshot-format.md.

header      HEADER
priorities  for each row [first, first + rows) a float32, 0 where none was given
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffreplay.codecs import Buffer
from diffreplay.errors import CorruptDataError
from diffreplay.snapshots.entries import read_file, write_file
from diffreplay.snapshots.manifest import FileEntry, Manifest

HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u8"),
        ("first", "<u8"),
        ("rows", "<u8"),
        ("alpha", "<f8"),
        ("beta", "<f8"),
        ("largest", "<f4"),
    ]
)
MAGIC, VERSION = b"dfrprior", 1
PRIORITY = np.dtype("<f4")


def write_priorities(directory: Path, commit: str, state: dict[str, Any], tail: int, head: int) -> FileEntry:
    """Write a state of `diffreplay.Priorities` to a new file, as of rows [tail, head)."""
    known, values = np.asarray(state["priorities"]), np.zeros(head - tail, PRIORITY)
    first = max(state["first"], tail)
    end = max(first, min(state["first"] + len(known), head))
    values[first - tail : end - tail] = known[first - state["first"] : end - state["first"]]
    header = np.zeros(1, HEADER)
    header[0] = (MAGIC, VERSION, tail, head - tail, state["alpha"], state["beta"], state["largest"])
    parts: list[Buffer] = [header.tobytes(), values.tobytes()]
    return write_file(directory, f"priorities-{tail:012d}-{commit}.bin", parts, tail, head)


def read_priorities(directory: Path, manifest: Manifest) -> dict[str, Any] | None:
    """The state that was saved, as `Priorities.load_state_dict` takes it; None where none was.

    Raises:
        CorruptDataError: its file is missing, damaged, or makes no sense.
    """
    for entry in manifest.priorities:
        return _state(directory, entry)
    return None


def _state(directory: Path, entry: FileEntry) -> dict[str, Any]:
    rows = entry.end - entry.first
    expected = f"{directory / entry.name}: expected priorities of {rows} rows from row {entry.first} on"
    if entry.nbytes != HEADER.itemsize + rows * PRIORITY.itemsize:
        raise CorruptDataError(f"{expected}, got {entry.nbytes} bytes")
    data = read_file(directory, entry)
    found = np.frombuffer(data, HEADER, 1)[0]
    if found[["magic", "version", "first", "rows"]].tolist() != (MAGIC, VERSION, entry.first, rows):
        raise CorruptDataError(f"{expected}, got a file that begins with {found.tolist()}")
    alpha, beta, largest = (float(found[name]) for name in ("alpha", "beta", "largest"))
    values = np.frombuffer(data, PRIORITY, rows, HEADER.itemsize)
    within = 0 <= alpha <= 1 and 0 <= beta <= 1 and 0 < largest < np.inf
    if not within or not (np.isfinite(values) & (values >= 0)).all():
        raise CorruptDataError(f"{expected}, got numbers out of range: alpha {alpha}, beta {beta}, {largest} or others")
    return {"alpha": alpha, "beta": beta, "largest": largest, "first": entry.first, "priorities": values}

"""What the tests of the benchmarks share: short real recordings, and the tables that are printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import recordings

FRAMES = 120  # of each recording


def record(folder: Path, *names: str, frames: int) -> Path:
    """Make a folder for `--folder` of recordings of so many frames."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recordings, "CACHE", folder)
        for name in names:
            recordings.load(name, frames=frames)
            (folder / f"{name}_{frames}.npz").rename(folder / f"{name}.npz")
    return folder


def number(cell: str) -> float:
    """The value of a cell: of quartiles, the median."""
    return float(cell.split()[0].replace(",", ""))


def rows(printed: str) -> dict[str, list[str]]:
    """Cells of all tables by the first cell of their row."""
    tables = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line[:1] == "|"]
    return {cells[0]: cells[1:] for cells in tables}

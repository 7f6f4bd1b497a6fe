"""Looks rows up in the columns of the index: compiled where there is a compiler, else by the same functions in NumPy.

A column is an array (blocks, BLOCK_ROWS, ...), and row r its entry [r // BLOCK_ROWS % blocks, r % BLOCK_ROWS]. Another
process may write to it meanwhile: then what comes out means nothing, and only that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def take(column: NDArray[Any], rows: NDArray[np.int64], out: NDArray[Any]) -> None:
    """Copy a column's entries at `rows` to `out`, which has one for each."""
    block, place = np.divmod(rows, column.shape[1])
    out[...] = column[block % len(column), place]


def stacks(
    flags: NDArray[Any],
    links: NDArray[Any],
    rows: NDArray[np.int64],
    out: NDArray[np.int64],
    padding: int,
    restart: int,
) -> None:
    """Rows of the frames of observations (N,) to `out` (N, frame_stack), oldest first; -1 is a frame of zeros.

    Args:
        flags: column.
        links: column of how many rows back the frame before is, 0 where it is this one again.
        rows: rows of the newest frames.
        out: where they go.
        padding: of the flags, those that a frame has before which there are zeros,
        restart: unless it has this one, too.
    """
    out[:, -1] = rows
    for k in range(out.shape[1] - 2, -1, -1):
        newer = out[:, k + 1]
        block, place = np.divmod(newer, flags.shape[1])
        block %= len(flags)
        zeros = (newer < 0) | ((flags[block, place] & (padding | restart)) == padding)
        out[:, k] = np.where(zeros, -1, newer - links[block, place])


def spans(
    base: NDArray[Any],
    before: NDArray[Any],
    ends: NDArray[Any],
    rows: NDArray[np.int64],
    starts_out: NDArray[np.int64],
    ends_out: NDArray[np.int64],
    log_bytes: int,
    back: int,
) -> None:
    """Where in the log the coded frames of `rows` begin and end, numbered for ever.

    Args:
        base: where the blocks begin, (blocks, 1).
        before: column of where the frame before ends, from its block's beginning on.
        ends: column of where the frames themselves end.
        rows: (N,).
        starts_out: (N,).
        ends_out: (N,).
        log_bytes: of the ring. No row's frames straddle its end: they start there anew.
        back: 1 where the frame before is the last one of the row before, 0 where it is one of the same row.
    """
    block, place = np.divmod(rows, ends.shape[1])
    block %= len(ends)
    begin = base[block, 0].astype(np.int64)
    ends_out[:] = begin + ends[block, place].astype(np.int64)
    if not back:
        np.add(begin, before[block, place].astype(np.int64), out=starts_out)
        return
    np.add(begin, np.where(place > 0, before[block, place - 1].astype(np.int64), 0), out=starts_out)
    np.maximum(starts_out, (ends_out - 1) // log_bytes * log_bytes, out=starts_out)


def ranges(table: NDArray[Any], rows: NDArray[np.int64], out: NDArray[np.int64], block_rows: int, none: int) -> None:
    """The slots of the reference sets of `rows` (N,) to `out` (N,), or `none`.

    Args:
        table: (blocks, RANGES) of RANGE: of each block, the places from which on its rows have another set.
        rows: (N,).
        out: (N,).
        block_rows: rows in a block.
        none: what stands for no set.
    """
    block, place = np.divmod(rows, block_rows)
    entries = table[block % len(table)]
    begun = entries["place"] <= place[:, None]
    last = table.shape[1] - 1 - np.argmax(begun[:, ::-1], axis=1)
    out[:] = np.where(begun.any(axis=1), entries["slot"][np.arange(len(rows)), last], none)


def follow(further: NDArray[Any], starts: NDArray[np.int64], out: NDArray[np.int64]) -> None:
    """Rows (N,), at least one, and those that follow each to `out` (N, L); -1 from where none does.

    Args:
        further: (1, size) how many rows further the next one is, that of row r at r % size; 0 where there is none.
        starts: (N,) rows, -1 for none.
        out: (N, L), whose first column they are.
    """
    row = out[:, 0] = starts
    for k in range(1, out.shape[1]):
        step = further[0, row % further.shape[1]].astype(np.int64)
        row = out[:, k] = np.where((step > 0) & (row >= 0), row + step, -1)


def equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two C-contiguous arrays hold the same bytes.

    Raises:
        ValueError: one is not C-contiguous.
    """
    if not (one.flags.c_contiguous and other.flags.c_contiguous):
        raise ValueError("ndarray is not C-contiguous")
    return one.tobytes() == other.tobytes()


try:
    from diffreplay.store import _lookup  # type: ignore[attr-defined,unused-ignore]
except ImportError:
    _lookup = None  # type: ignore[assignment,unused-ignore]

in_numpy = {
    "take": take,
    "stacks": stacks,
    "spans": spans,
    "follow": follow,
    "ranges": ranges,
    "equal": equal,
}  # for comparison with the compiled ones
if _lookup is not None:
    take, stacks, spans, ranges, equal = _lookup.take, _lookup.stacks, _lookup.spans, _lookup.ranges, _lookup.equal
    follow = _lookup.follow

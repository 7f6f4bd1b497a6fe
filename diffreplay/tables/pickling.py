"""The whole state of a FrameStore for pickle, without a second copy of it in memory.

It leaves in parts: reference sets, and runs of rows with their coded frames as they lie in memory, as buffers
(PEP 574). Nothing is decoded. On loading, each part goes to its place in a fresh store as soon as it is read and its
checksum is found to be right, and its memory is freed.
"""

from __future__ import annotations

import dataclasses
import pickle
import sys
import zlib
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from diffreplay.codecs import Buffer
from diffreplay.errors import CorruptDataError, InputError
from diffreplay.store import (
    MAGIC,
    NO_ROW,
    VERSION,
    Counter,
    FrameStore,
    OverrunError,
    StoredRows,
    StoreState,
    adopt_pages,
    adopt_rows,
    adopt_set,
    begin_adopting,
    export_rows,
    export_state,
    finish_adopting,
    reopen_streams,
)

VERSIONS = [1, VERSION]  # of the format, that are read
PART_BYTES = 1 << 20
PART_ROWS = 1 << 14
CHANGED = "expected no add while the buffer is being saved, got one from another thread; save again"


class FirstStream:
    """A stream as pickles of the first version hold it, by its attributes."""

    stack: np.ndarray[Any, Any]
    reference: np.ndarray[Any, Any] | None = None
    row: int = NO_ROW
    reference_row: int = NO_ROW
    group_size: int = 0
    is_open: bool = False
    needed: tuple[int, ...] = ()


# Under this name they look for it.
_frames: Any = ModuleType("diffreplay.frames")
_frames.Stream = FirstStream
sys.modules.setdefault("diffreplay.frames", _frames)


class Unchanged:
    """Comes last in a buffer's pickled state, and refuses when the buffer changed since that was begun.

    Args:
        buffer: counts its changes in `changes`.
    """

    def __init__(self, buffer: Any) -> None:
        self.buffer, self.changes = buffer, buffer.changes

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if self.buffer.changes != self.changes:
            raise InputError(CHANGED)
        return bool, (True,)


class Beginning:
    """All of a store but its reference sets and rows; unpickling readies the owner's store for them."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        store: FrameStore = self.owner.frames
        return _begin, (self.owner, VERSION, dataclasses.asdict(store.layout), tuple(export_state(store)))


class SetPart:
    """A reference set; unpickling puts it into the owner's store."""

    def __init__(self, owner: Any, image: int, number: int) -> None:
        self.owner, self.image, self.number = owner, image, number

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        sets = self.owner.frames.sets[self.image]
        frames, first_row = sets.frames(self.number), sets.first_row(self.number)
        return _adopt_set, (self.owner, first_row, _buffer(frames, protocol), zlib.crc32(frames), self.image)


class RowsPart:
    """Rows [first, end); unpickling puts them into the owner's store."""

    def __init__(self, owner: Any, first: int, end: int) -> None:
        self.owner, self.first, self.end = owner, first, end

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        try:
            rows = export_rows(self.owner.frames, self.first, self.end)
        except OverrunError:
            raise InputError(CHANGED) from None
        columns = {name: (values.dtype.str, values.tobytes()) for name, values in rows.columns.items()}
        arguments = rows.first, columns, rows.lengths.astype("<u4").tobytes()
        coded = [_buffer(part, protocol) for part in rows.coded]
        sets = b"" if rows.sets is None else rows.sets.astype("<i8").tobytes()
        checksum = zlib.crc32(sets, _checksum(*arguments, rows.coded))
        return _adopt_rows, (self.owner, *arguments, coded, checksum, zlib.compress(sets, 1))


def store_state(owner: Any) -> dict[str, Any]:
    """What `restore_store` needs to make a store of the same arguments into a copy of `owner.frames`.

    Args:
        owner: what holds the store as its `frames`; pickled before its state.
    """
    sets = [SetPart(owner, image, number) for image, its in enumerate(owner.frames.sets) for number in its.numbers()]
    return {"parts": [Beginning(owner), *sets, *(RowsPart(owner, a, b) for a, b in _runs(owner.frames))]}


def restore_store(store: FrameStore, state: dict[str, Any]) -> None:
    """Take over the state of a saved store; its parts are in place already.

    Raises:
        CorruptDataError: it was saved in another format.
    """
    if "pieces" in state:  # of an earlier version, whose pieces are pages of memory
        _check_format(store, state["version"] if store.counter(Counter.MAGIC) == MAGIC else None, state["layout"], [1])
        adopt_pages(store, state["rings"], state["log_tail"], state["streams"], state["next_check"])
        return
    saved = state["parts"][0]
    finish_adopting(store, saved.head)
    reopen_streams(store, saved.next_checks, saved.streams)


def _runs(store: FrameStore) -> Iterator[tuple[int, int]]:
    """All rows in runs [first, end) of about PART_BYTES coded bytes at most."""
    first = store.tail
    while first < store.head:
        sizes = np.cumsum(store.lengths(np.arange(first, min(first + PART_ROWS, store.head))))
        end = first + max(1, int(np.searchsorted(sizes, PART_BYTES, side="right")))
        yield first, end
        first = end


def _buffer(part: Buffer, protocol: Any) -> Any:
    return pickle.PickleBuffer(part) if protocol >= 5 else bytearray(part)


def _checksum(first: int, columns: dict[str, tuple[str, bytes]], lengths: bytes, coded: list[Buffer]) -> int:
    value = zlib.crc32(f"{first} {sorted(columns)}".encode())
    for part in (*(columns[name][1] for name in sorted(columns)), lengths, *coded):
        value = zlib.crc32(part, value)
    return value


# What unpickling calls. Their names stand in the pickles.


def _begin(owner: Any, version: int, layout: dict[str, Any], state: tuple[Any, ...]) -> StoreState:
    _check_format(owner.frames, version, layout, VERSIONS)
    if version == 1:
        tail, head, log_tail, first_set, next_check, streams = state
        state = tail, head, log_tail, [first_set], [next_check], streams
    begin_adopting(owner.frames, saved := StoreState(*state))
    return saved


def _adopt_set(owner: Any, first_row: int, frames: bytearray, checksum: int, image: int = 0) -> None:
    _check(f"a reference set for the rows from {first_row} on", zlib.crc32(frames), checksum)
    adopt_set(owner.frames, frames, first_row, image)
    _free([frames])


def _adopt_rows(
    owner: Any,
    first: int,
    columns: dict[str, tuple[str, bytes]],
    lengths: bytes,
    coded: list[Any],
    checksum: int,
    packed_sets: bytes | None = None,
) -> None:
    found, sets = _checksum(first, columns, lengths, coded), None
    if packed_sets is not None:  # else of format version 1
        sets = zlib.decompress(packed_sets)
        found = zlib.crc32(sets, found)
    _check(f"rows from row {first} on", found, checksum)
    layout = owner.frames.layout
    shapes = {column.name: column.shape for column in layout.columns}
    values = {name: np.frombuffer(data, dtype).reshape(-1, *shapes[name]) for name, (dtype, data) in columns.items()}
    images = len(layout.images)
    sizes = np.frombuffer(lengths, "<u4").reshape(-1, images)
    numbers = None if sets is None else np.frombuffer(sets, "<i8").reshape(-1, images)
    adopt_rows(owner.frames, StoredRows(first, values, sizes, coded, numbers))
    _free(coded)


def _write_piece(owner: Any, begin: int, data: bytearray) -> None:
    """Of pickles of an earlier version: bytes of the store's memory from `begin` on."""
    owner.frames.arena.bytes[begin : begin + len(data)] = data
    _free([data])


def _free(parts: list[Any]) -> None:
    """Free what was read: the unpickler holds on to all of it."""
    for part in parts:
        if isinstance(part, bytearray):
            part.clear()


def _check(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise CorruptDataError(f"expected {what} with checksum {expected}, got {found}: the pickle is damaged")


def _check_format(store: FrameStore, version: int | None, layout: dict[str, Any], versions: Sequence[int]) -> None:
    ours = dataclasses.asdict(store.layout)
    if version == 1:
        (image,) = ours.pop("images")
        del ours["stacked"]
        ours |= image
    if version not in versions or {"log_limit": None} | layout != ours:
        raise CorruptDataError(
            f"expected frames saved in format {versions[-1]} and layout {ours}, got {version} and {layout}; load them "
            "with the version of diffreplay that saved them"
        )

"""The whole state of a FrameStore for pickle, without a second copy of it in memory.

Coded frames are pickled as they lie in the arena, as buffers (PEP 574): nothing is copied or decoded. On loading,
each piece goes to its place in a fresh arena as soon as it is read, and its memory is freed.
"""

from __future__ import annotations

import dataclasses
import pickle
import sys
from collections.abc import Iterator
from typing import Any

from diffreplay.errors import CorruptDataError, InputError
from diffreplay.store import HEADER_BYTES, LOG_SEGMENT_BYTES, MAGIC, SET_SLOTS, VERSION, Counter, FrameStore, Ring

PIECE_BYTES = 1 << 20

# Under this name, pickles of the first version look for `Stream`.
sys.modules.setdefault("diffreplay.frames", sys.modules[FrameStore.__module__])


class Piece:
    """Bytes [begin, end) of a store's arena; unpickling writes them there and gives None.

    Args:
        owner: what holds the store as its `frames`; pickled before its pieces.
    """

    def __init__(self, owner: Any, begin: int, end: int) -> None:
        self.owner, self.begin, self.end = owner, begin, end

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        view = self.owner.frames.arena.bytes[self.begin : self.end]
        return _write_piece, (self.owner, self.begin, pickle.PickleBuffer(view) if protocol >= 5 else bytearray(view))


def _write_piece(owner: Any, begin: int, data: bytearray) -> None:
    owner.frames.arena.bytes[begin : begin + len(data)] = data
    if isinstance(data, bytearray):
        data.clear()  # the unpickler holds on to everything it has read


class Unchanged:
    """Comes last in a buffer's pickled state, and refuses when the buffer changed since that was begun.

    Args:
        buffer: counts its changes in `changes`.
    """

    def __init__(self, buffer: Any) -> None:
        self.buffer, self.changes = buffer, buffer.changes

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if self.buffer.changes != self.changes:
            raise InputError("expected no add while the buffer is being saved, got one from another thread; save again")
        return bool, (True,)


def store_state(owner: Any) -> dict[str, Any]:
    """What `restore_store` needs to make a store of the same arguments into a copy of `owner.frames`."""
    store: FrameStore = owner.frames
    return {
        "version": VERSION,
        "layout": dataclasses.asdict(store.layout),
        "pieces": [Piece(owner, begin, end) for begin, end in _pieces(store)],
        "rings": [(ring.first, ring.end) for ring in (store._sets, store._blocks, store._log)],
        "log_tail": store._log_tail,
        "streams": store.streams,
        "next_check": store.planner.next_check,
    }


def restore_store(store: FrameStore, state: dict[str, Any]) -> None:
    """Take over the state of a saved store; its pieces are in place already.

    Raises:
        CorruptDataError: it was saved in another format.
    """
    layout, saved = dataclasses.asdict(store.layout), {"log_limit": None} | state["layout"]
    if state["version"] != VERSION or saved != layout or store.counter(Counter.MAGIC) != MAGIC:
        raise CorruptDataError(
            f"expected frames saved in format {VERSION} and layout {layout}, got {state['version']} and "
            f"{state['layout']}; load them with the version of diffreplay that saved them"
        )
    for ring, (first, end) in zip((store._sets, store._blocks, store._log), state["rings"], strict=True):
        ring.first, ring.end = first, end
    store._log_tail, store.streams = state["log_tail"], state["streams"]
    store._next = store.head
    store.planner.next_check = state["next_check"]
    number = store.counter(Counter.SET_HEAD) - 1
    if number >= 0:
        begin, nbytes = _set_place(store, number)
        store.code_against(bytes(store.arena.bytes[begin : begin + nbytes]))


def _pieces(store: FrameStore) -> Iterator[tuple[int, int]]:
    """Everything in use in the arena, in short pieces (begin, end)."""
    yield 0, HEADER_BYTES
    for number in range(store._sets.first, store._sets.end):
        begin, nbytes = _set_place(store, number)
        yield from _cut(begin, begin + nbytes)
    blocks, log = store._blocks, store._log
    yield from _ring_pieces(blocks, blocks.first * blocks.segment_bytes, blocks.end * blocks.segment_bytes)
    yield from _ring_pieces(log, log.first * LOG_SEGMENT_BYTES, store.counter(Counter.LOG_HEAD))


def _set_place(store: FrameStore, number: int) -> tuple[int, int]:
    """Where in the arena a reference set begins, and its bytes."""
    slot = number % SET_SLOTS
    return HEADER_BYTES + slot * store.layout.set_slot, int(store.memory.set_table["nbytes"][slot])


def _ring_pieces(ring: Ring, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Bytes [begin, end) of a ring, numbered for ever, as pieces of the arena."""
    while begin < end:
        place = begin % ring.nbytes
        size = min(end - begin, ring.nbytes - place)
        yield from _cut(ring.offset + place, ring.offset + place + size)
        begin += size


def _cut(begin: int, end: int) -> Iterator[tuple[int, int]]:
    for piece in range(begin, end, PIECE_BYTES):
        yield piece, min(piece + PIECE_BYTES, end)

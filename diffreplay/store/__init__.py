"""Frames in shared memory: one writer puts them in, any number of readers take them out.

`layout` is the stored format, `arena` the memory under it. `reader` finds and decodes frames in any process; `writer`
adds and evicts them in one, a thread at a time (`turns`); `episodes` says what follows what, with `recent` where that
is not plain. `recount` and `invariants` say what must hold.

Imports `codecs`, and nothing above. What others use stands here.
"""

from diffreplay.store.arena import PAGE, Arena, Ring, fence, refuse_copy, round_up
from diffreplay.store.episodes import EpisodeWriter
from diffreplay.store.invariants import check_invariants
from diffreplay.store.layout import (
    BLOCK_ROWS,
    END,
    HEADER_BYTES,
    LOG_SEGMENT_BYTES,
    MAGIC,
    SET_SLOTS,
    VERSION,
    Column,
    Counter,
    Flag,
    Layout,
)
from diffreplay.store.reader import NO_ROW, FrameReader, OverrunError, Rows
from diffreplay.store.recount import count_transitions, set_flags
from diffreplay.store.writer import FrameStore

__all__ = [
    "BLOCK_ROWS",
    "END",
    "HEADER_BYTES",
    "LOG_SEGMENT_BYTES",
    "MAGIC",
    "NO_ROW",
    "PAGE",
    "SET_SLOTS",
    "VERSION",
    "Arena",
    "Column",
    "Counter",
    "EpisodeWriter",
    "Flag",
    "FrameReader",
    "FrameStore",
    "Layout",
    "OverrunError",
    "Ring",
    "Rows",
    "check_invariants",
    "count_transitions",
    "fence",
    "refuse_copy",
    "round_up",
    "set_flags",
]

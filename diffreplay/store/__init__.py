"""Frames in shared memory: one writer puts them in, any number of readers take them out.

`layout` is the stored format, `arena` the memory under it. Of the parts, `index` and `log` hold rows, `sets` reference
frames; `coding` turns frames into their bytes and back, `against` says what they are coded against. `reader` puts all
of it together in any process; `writer` in the one that adds, a thread at a time (`turns`), with `rows`, `streams`,
`budget`, `eviction` and `source`, what a planner of reference sets sees. `observations` and `episodes` say what is
stored of a step, with `recent` where that is not plain, and `runs` where it is so for many streams at once. `state` is
a store on its way into another; `taking` takes rows of others in as they are coded, or nearly (`recoding`), and
`cutting` cuts out what is missing. `recount` and `invariants` say what must hold.

Imports `codecs`, and nothing above. What others use stands here.
"""

from diffreplay.store.against import frames_before, layout_of
from diffreplay.store.arena import PAGE, Arena, fence, refuse_copy, round_up
from diffreplay.store.cutting import cut_out
from diffreplay.store.episodes import EpisodeWriter, Transition
from diffreplay.store.index import NO_ROW, Index, OverrunError, Rows
from diffreplay.store.invariants import check_invariants
from diffreplay.store.layout import (
    BLOCK_ROWS,
    END,
    LOG_EXTENT_BYTES,
    MAGIC,
    MAX_IMAGES,
    NO_SET,
    RANGES,
    SET_SLOTS,
    VERSION,
    Column,
    Counter,
    Flag,
    Image,
    Layout,
    Memory,
)
from diffreplay.store.lookup import follow
from diffreplay.store.observations import append
from diffreplay.store.reader import FrameReader
from diffreplay.store.recoding import recode
from diffreplay.store.recount import count_transitions, mark_ends
from diffreplay.store.state import (
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
from diffreplay.store.streams import Stack, Stream, continues, same, steps
from diffreplay.store.taking import Origin, StreamEnd, check_origin, close_streams, stream_ends, take_in
from diffreplay.store.turns import Turns
from diffreplay.store.writer import FrameStore

__all__ = [
    "BLOCK_ROWS",
    "END",
    "LOG_EXTENT_BYTES",
    "MAGIC",
    "MAX_IMAGES",
    "NO_ROW",
    "NO_SET",
    "PAGE",
    "RANGES",
    "SET_SLOTS",
    "VERSION",
    "Arena",
    "Column",
    "Counter",
    "EpisodeWriter",
    "Flag",
    "FrameReader",
    "FrameStore",
    "Image",
    "Index",
    "Layout",
    "Memory",
    "Origin",
    "OverrunError",
    "Rows",
    "Stack",
    "StoreState",
    "StoredRows",
    "Stream",
    "StreamEnd",
    "Transition",
    "Turns",
    "adopt_pages",
    "adopt_rows",
    "adopt_set",
    "append",
    "begin_adopting",
    "check_invariants",
    "check_origin",
    "close_streams",
    "continues",
    "count_transitions",
    "cut_out",
    "export_rows",
    "export_state",
    "fence",
    "finish_adopting",
    "follow",
    "frames_before",
    "layout_of",
    "mark_ends",
    "recode",
    "refuse_copy",
    "reopen_streams",
    "round_up",
    "same",
    "steps",
    "stream_ends",
    "take_in",
]

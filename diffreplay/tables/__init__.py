"""Observations of images at entries of a table, written in any order, over a FrameStore.

What bridges to other frameworks share, whose arrays of observations are written and read at their own indices. A row
of an `ImageStore` (`store`) is an observation; an `ImageTable` (`table`) knows each entry's row. `frames` says which
frames an image is made of, and `watch` tells it from observations; `indexing` has NumPy's indices, and `pickling` puts
all of it into a pickle.

Imports `errors`, `parts`, `codecs` and `store`.
"""

from diffreplay.tables.frames import channels_of, image_of, with_channels
from diffreplay.tables.indexing import is_basic, table_key
from diffreplay.tables.pickling import Unchanged
from diffreplay.tables.store import ImageStore
from diffreplay.tables.table import ImageTable, indexed
from diffreplay.tables.watch import FrameWatch

__all__ = [
    "FrameWatch",
    "ImageStore",
    "ImageTable",
    "Unchanged",
    "channels_of",
    "image_of",
    "indexed",
    "is_basic",
    "table_key",
    "with_channels",
]

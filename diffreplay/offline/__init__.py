"""A snapshot as a dataset: sampled where it lies on disk, by any number of processes, and never written to.

`open` gives a `SavedReplay`. `mapping` maps the files, `frames` reads rows from them, through an `index` that is filled
as rows are asked for; `rest` leaves out what is damaged. `saved` makes them of what a commit says.

Imports `snapshots`, `loading` and what these do. What others use stands here.
"""

from diffreplay.offline.frames import MappedFrames
from diffreplay.offline.opening import SavedReplay, open

__all__ = ["MappedFrames", "SavedReplay", "open"]

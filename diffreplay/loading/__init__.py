"""What a sample is, which one is drawn, and who draws it.

`sampling` reads a batch, from the windows that `windows` finds, into a place that `slots` gives. `loader` hands batches
out in their order: drawn in this process, or ahead of time (`prefetch`) by workers (`workers`), which are threads or
processes (`processes`) that do the same (`serving`). `notices` speaks up while they wait; `ahead` copies to a GPU.

Imports `store`, and nothing above. What others use stands here.
"""

from diffreplay.loading.ahead import batches_on
from diffreplay.loading.loader import ReplayDataset, ReplayLoader, make_replay_loader
from diffreplay.loading.sampling import ReplayReader

__all__ = ["ReplayDataset", "ReplayLoader", "ReplayReader", "batches_on", "make_replay_loader"]

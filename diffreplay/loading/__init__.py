"""What a sample is, which one is drawn, and who draws it.

To draw is to choose windows at random (`windows`); to sample, to draw and to read what was drawn as a batch
(`sampling`), into a place that `slots` gives. `priorities` choose in the trainer's process where windows begin, by a
`sum_tree`; `priorities_over` a buffer are saved with it. `loader` hands batches out in their order: sampled in this
process, or ahead of time (`prefetch`) by workers. `supervision` starts these, notices when one dies and replaces it.
They are threads or processes (`worker_process`), and do what `serving` says. `warn` speaks up while they wait;
`to_device` copies to a GPU.

Imports `store`, and nothing above. What others use stands here.
"""

from diffreplay.loading.columns import columns_of
from diffreplay.loading.dataset import ReplayDataset
from diffreplay.loading.loader import ReplayLoader, make_replay_loader
from diffreplay.loading.priorities import Priorities
from diffreplay.loading.priorities_over import keep_priorities, priorities_over
from diffreplay.loading.readable import Readable
from diffreplay.loading.sampling import ReplayReader, spec_of
from diffreplay.loading.slots import BatchPlace
from diffreplay.loading.to_device import batches_on
from diffreplay.loading.windows import WindowFinder

__all__ = [
    "BatchPlace",
    "Priorities",
    "Readable",
    "ReplayDataset",
    "ReplayLoader",
    "ReplayReader",
    "WindowFinder",
    "batches_on",
    "columns_of",
    "keep_priorities",
    "make_replay_loader",
    "priorities_over",
    "spec_of",
]

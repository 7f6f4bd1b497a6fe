"""Lossless, compressed replay buffers in shared memory for reinforcement learning from images."""

import os
import sys

if sys.platform != "linux":
    raise ImportError(
        f"diffreplay works on Linux only, as its memory is shared in a way that {sys.platform} does not have"
    )
if not hasattr(os, "memfd_create"):
    raise ImportError(
        "diffreplay needs os.memfd_create, which this Python was built without; use one for glibc 2.27 or newer"
    )

from diffreplay import codecs, errors
from diffreplay.batch import ReplayBatch, SequenceBatch
from diffreplay.estimate import estimate
from diffreplay.loading import Priorities, ReplayDataset, ReplayReader, batches_on, make_replay_loader
from diffreplay.offline import SavedReplay, open
from diffreplay.parts import ArraySpec
from diffreplay.replay import ReplayBuffer
from diffreplay.sharing import ReplayHandle
from diffreplay.stats import ReplayStats

__version__ = "0.1.0"

__all__ = [
    "ArraySpec",
    "Priorities",
    "ReplayBatch",
    "ReplayBuffer",
    "ReplayDataset",
    "ReplayHandle",
    "ReplayReader",
    "ReplayStats",
    "SavedReplay",
    "SequenceBatch",
    "batches_on",
    "codecs",
    "errors",
    "estimate",
    "make_replay_loader",
    "open",
]

"""Lossless, compressed replay buffers in shared memory for reinforcement learning from images."""

from diffreplay import codecs, errors
from diffreplay.batch import ReplayBatch
from diffreplay.dataset import ReplayDataset, make_replay_loader
from diffreplay.device import batches_on
from diffreplay.estimate import estimate
from diffreplay.replay import ReplayBuffer
from diffreplay.stats import ReplayStats

__all__ = [
    "ReplayBatch",
    "ReplayBuffer",
    "ReplayDataset",
    "ReplayStats",
    "batches_on",
    "codecs",
    "errors",
    "estimate",
    "make_replay_loader",
]

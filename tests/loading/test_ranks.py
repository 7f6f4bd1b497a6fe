"""Several processes share the batches of one loader: each gets its own ones."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from loading.test_sampling import Forgetful, add_episode, buffer
from says import says

from diffreplay import ReplayDataset, make_replay_loader
from diffreplay.errors import InputError


def filled():
    oracle = Forgetful(buffer(400, nstep=2))
    for _ in range(15):
        add_episode(oracle, 30, np.random.default_rng(0))
    return oracle.replay


@pytest.mark.parametrize("options", [{}, {"sequence_length": 3}, {"indices": lambda n, rng: rng.integers(100, 110, n)}])
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_share_out_the_batches_of_one_loader(options, workers):
    replay = filled()

    def drawn(count, **ranks):
        loader = make_replay_loader(replay, 8, workers, seed=3, threads=True, **options, **ranks)
        return [batch.index.tolist() for batch in islice(loader, count)]

    every = drawn(12)
    for rank in range(3):
        assert drawn(4, rank=rank, world_size=3) == every[rank::3]


def test_a_dataset_does_likewise():
    replay = filled()
    every = [ReplayDataset(replay, 8, 3).batch(k).index.tolist() for k in range(6)]
    for rank in range(2):
        batches = ReplayDataset(replay, 8, 3, rank=rank, world_size=2)
        assert [batch.index.tolist() for batch in islice(batches, 3)] == every[rank::2]


@pytest.mark.parametrize(
    ("rank", "world_size", "said"),
    [
        (2, 2, "rank: expected a number below world_size, which is 2, got 2"),
        (-1, 2, "rank"),
        (0, 0, "world_size: expected a positive integer"),
        (0.5, 2, "rank"),
    ],
)
def test_wrong_ranks_are_told(rank, world_size, said):
    with pytest.raises(InputError) as error:
        make_replay_loader(filled(), rank=rank, world_size=world_size)
    says(error, said)

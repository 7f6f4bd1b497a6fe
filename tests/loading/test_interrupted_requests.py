"""An interrupt while batches are decided, drawn or handed out: the batches that follow are those of a calm run."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
import torch
from interrupts import interrupted
from loading.test_indices import filled

from diffreplay import Priorities, make_replay_loader

WORKERS = [{"num_workers": 0}, {"num_workers": 1, "threads": True}]
KINDS = ["priorities", "mixture", "indices"]
STEP = {"priorities": 3, "mixture": 5, "indices": 3}  # lines; not all are tried, as that would take long


def made(kind, oracles, options):
    """A loader, and the priorities of its buffers."""
    replays = [oracle.replay for oracle in oracles]
    if kind == "mixture":
        priorities = [Priorities(replays[0]), None]
        given = {"priorities": priorities, "fractions": [0.25, 0.75], "sequence_length": 3}
        return make_replay_loader(replays, 8, seed=2, **given, **options), priorities
    if kind == "indices":
        steps = replays[0].indices()
        chosen = {"indices": lambda n, rng: np.append(rng.choice(steps, n - 1), 10**6)}
        return make_replay_loader(replays[0], 8, seed=2, **chosen, **options), [None]
    priorities = Priorities(replays[0])
    return make_replay_loader(replays[0], 8, seed=2, priorities=priorities, **options), [priorities]


def told(batch):
    return [values.tolist() for values in (batch.index, batch.source, batch.weight, batch.action, batch.obs)]


def learn(batch, priorities):
    for k, its in enumerate(priorities):
        if its is not None:
            index = batch.index[batch.source == k]
            its.update(index, torch.sin(index.double()))


@pytest.mark.parametrize("options", WORKERS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_at_any_line_changes_no_batch(kind, options):
    oracles = [filled(nstep=2), filled(nstep=2)]
    calm, known = made(kind, oracles, {"num_workers": 0})
    loader, priorities = made(kind, oracles, options)
    batches, stopped = iter(loader), 0
    for place, expected in zip(count(0, STEP[kind]), calm, strict=False):
        found = []
        reached = interrupted(lambda: found.append(next(batches)), place)  # noqa: B023
        stopped += reached
        if not found:
            found.append(next(batches))
        assert told(found[0]) == told(expected), f"interrupted at line {place}"
        learn(expected, known)
        learn(found[0], priorities)
        if not reached and place > 300:
            break
    assert stopped > 60

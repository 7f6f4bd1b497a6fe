"""Batches from several buffers: exact counts, every value from the buffer that `source` names."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from loading.loaders import WORKERS
from loading.test_sampling import Forgetful, add_episode, buffer
from says import says

from diffreplay import ReplayBuffer, ReplayDataset, make_replay_loader
from diffreplay.errors import InputError
from diffreplay.loading.requests import DECIDED_AHEAD, counts_of


def filled(count, seed, **options):
    """`count` buffers and what they hold."""
    oracles, rng = [], np.random.default_rng(seed)
    for _ in range(count):
        oracle = Forgetful(buffer(400, **options))
        for _ in range(20):
            add_episode(oracle, int(rng.integers(4, 40)), rng)
        oracles.append(oracle)
    return [oracle.replay for oracle in oracles], oracles


def part_of(batch, places):
    """The samples at places of a batch, as one."""
    moved = batch._map(lambda tensor: tensor[places])
    return moved


@pytest.mark.parametrize("sequence_length", [None, 7])
@pytest.mark.parametrize("options", WORKERS)
def test_each_sample_is_of_the_buffer_that_it_names(sequence_length, options):
    replays, oracles = filled(3, 0, nstep=3)
    fractions, batch_size = [0.5, 0.2, 0.3], 33
    loader = make_replay_loader(replays, batch_size, fractions=fractions, sequence_length=sequence_length, **options)
    for batch in islice(loader, 12):
        assert torch.bincount(batch.source).tolist() == [16, 7, 10]
        assert batch.weight.tolist() == [1] * 33
        for k, oracle in enumerate(oracles):
            its = part_of(batch, batch.source == k)
            (oracle.check_sequences if sequence_length else oracle.check_batch)(its)


def test_counts_are_the_nearest_whole_ones():
    assert counts_of([0.5, 0.5], 256) == (128, 128)
    assert counts_of([0.5, 0.5], 5) == (3, 2)
    assert counts_of([1 / 3] * 3, 10) == (4, 3, 3)
    assert counts_of([0.1] * 10, 10) == (1,) * 10
    assert counts_of([1.0, 0.0], 7) == (7, 0)
    rng = np.random.default_rng(0)
    for _ in range(1000):
        shares, size = rng.dirichlet(np.ones(rng.integers(1, 6))), int(rng.integers(1, 300))
        counts = np.array(counts_of(shares, size))
        assert counts.sum() == size and np.all(np.abs(counts - shares * size) < 1)


def taken(loader, count):
    return [(batch.index.tolist(), batch.source.tolist(), batch.action.tolist()) for batch in islice(loader, count)]


def test_shares_change_while_it_runs_alike_for_any_number_of_workers():
    replays, _ = filled(2, 1)
    found = []
    for options in WORKERS:
        loader = make_replay_loader(replays, 20, seed=3, fractions=[0.5, 0.5], **options)
        batches = iter(loader)
        first = taken(batches, 5)
        loader.fractions = [0.1, 0.9]
        assert loader.fractions == (0.1, 0.9)
        later = taken(batches, 20)
        shares = [sum(source) for _, source, _ in first + later]
        assert shares == [10] * (5 + DECIDED_AHEAD) + [18] * (20 - DECIDED_AHEAD)
        found.append(first + later)
    assert all(one == found[0] for one in found)


def test_a_loader_goes_on_where_its_state_was_taken():
    replays, _ = filled(2, 2)
    loader = make_replay_loader(replays, 20, fractions=[0.5, 0.5], num_workers=1, threads=True)
    batches = iter(loader)
    taken(batches, 3)
    loader.fractions = [0.25, 0.75]
    state = loader.state_dict()
    expected = taken(batches, 15)
    other = make_replay_loader(replays, 20, fractions=[0.9, 0.1], num_workers=0)
    other.load_state_dict(state)
    assert taken(other, 15) == expected
    assert other.fractions == (0.25, 0.75)


def test_a_buffer_without_a_share_may_be_empty_and_others_are_waited_for():
    replays, _ = filled(1, 3)
    empty = buffer(400)
    batch = next(iter(make_replay_loader([*replays, empty], 8, fractions=[1, 0], num_workers=0)))
    assert batch.source.tolist() == [0] * 8
    loader = make_replay_loader([*replays, empty], 8, num_workers=1, threads=True)
    add_episode(Forgetful(empty), 5, np.random.default_rng(0))
    assert next(iter(loader)).source.tolist() == [0] * 4 + [1] * 4


def test_windows_of_different_lengths_lie_in_one_batch():
    """Of one buffer stacks share frames, of the other they do not."""
    rng, oracles = np.random.default_rng(0), []
    for overlap in (True, False):
        oracles.append(Forgetful(buffer(400, frame_stack=3)))
        for _ in range(5):
            add_episode(oracles[-1], 30, rng, overlap=overlap)
    for length in (None, 4):
        batches = make_replay_loader([o.replay for o in oracles], 10, num_workers=0, sequence_length=length)
        batch = next(iter(batches))
        for k, oracle in enumerate(oracles):
            its = part_of(batch, batch.source == k)
            (oracle.check_sequences if length else oracle.check_batch)(its)


def test_a_dataset_mixes_too():
    replays, oracles = filled(2, 4)
    batch = ReplayDataset(replays, 10, fractions=[0.3, 0.7]).batch(5)
    assert batch.source.tolist() == [0] * 3 + [1] * 7
    for k, oracle in enumerate(oracles):
        oracle.check_batch(part_of(batch, batch.source == k))


def test_wrong_uses_are_told():
    replays, _ = filled(2, 5)
    for fractions in ([0.5], [0.5, 0.6], [-0.5, 1.5], [float("nan"), 1], ["a", "b"], 3, [0.2, 0.3, 0.5]):
        with pytest.raises(InputError) as error:
            make_replay_loader(replays, fractions=fractions)
        says(error, "fractions: expected a share from 0 to 1 for each of 2 buffers, 1 in all", fractions)
    loader = make_replay_loader(replays, num_workers=0)
    with pytest.raises(InputError):
        loader.fractions = [1, 1]
    assert loader.fractions == (0.5, 0.5)
    for other, what in (
        (ReplayBuffer(100, (2, 8, 8), (1,), frame_stack=2, action_dtype="int64"), "observations"),
        (ReplayBuffer(100, (2, 4, 4), (2,), frame_stack=2, action_dtype="int64"), "values"),
    ):
        with pytest.raises(InputError) as error:
            make_replay_loader([replays[0], other])
        says(error, f"replay[1]: expected the same {what} as in replay[0]")

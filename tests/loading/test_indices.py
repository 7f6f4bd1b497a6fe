"""Steps that one's own function chooses, by their numbers."""

from __future__ import annotations

import threading
from itertools import islice

import numpy as np
import pytest
import torch
from loading.loaders import WORKERS, filled
from loading.test_sampling import Forgetful, add_episode, buffer
from says import says

from diffreplay import make_replay_loader
from diffreplay.errors import InputError, ReplayError


@pytest.mark.parametrize("kind", [{"nstep": 1}, {"nstep": 3}, {"nstep": 5, "shorter_at_end": True}, {"length": 6}])
@pytest.mark.parametrize("options", WORKERS)
def test_a_batch_has_the_steps_that_were_chosen(kind, options):
    kind = dict(kind)
    length = kind.pop("length", None)
    oracle = filled(**kind)
    steps, asked = oracle.replay.indices(), []
    if length is None:
        assert sorted(steps.tolist()) == sorted(steps[0].row for steps in oracle.windows().values())

    def choose(count, rng):
        asked.append(rng.choice(steps, count))
        return asked[-1], np.arange(1, count + 1)

    loader = make_replay_loader(oracle.replay, 30, indices=choose, sequence_length=length, **options)
    for k, batch in enumerate(islice(loader, 15)):
        assert batch.index.tolist() == asked[k].tolist()
        np.testing.assert_allclose(batch.weight, np.arange(1, 31) / 30, rtol=1e-6)
        (oracle.check_sequences if length else oracle.check_batch)(batch)


def test_the_newest_steps():
    oracle = filled(nstep=2)
    replay = oracle.replay
    every = replay.indices().tolist()
    for newest in (1, 10, 100, 10_000):
        rows = [steps[-1].row for steps in oracle.windows().values()]
        expected = [row for row in rows if row >= replay.store.head - newest]
        assert len(replay.indices(newest)) == len(expected)
        assert replay.indices(newest).tolist() == every[len(every) - len(expected) :]
    with pytest.raises(InputError):
        replay.indices(0)


@pytest.mark.parametrize("options", WORKERS)
def test_steps_that_have_left_are_replaced_by_others_of_the_batch(options):
    """Half of what is chosen has left for long; weights stay with their steps."""
    oracle = filled()
    steps = oracle.replay.indices()
    add_episode(oracle, 150, np.random.default_rng(1))
    there = set(oracle.replay.indices().tolist())
    gone = [step for step in steps.tolist() if step not in there]
    known = [step for step in steps.tolist() if step in there]
    assert gone and known

    def choose(count, rng):
        chosen = np.concatenate([rng.choice(gone, count // 2), rng.choice(known, count - count // 2)])
        return chosen, 1.0 + chosen

    loader = make_replay_loader(oracle.replay, 30, indices=choose, **options)
    for batch in islice(loader, 5):
        oracle.check_batch(batch)
        assert set(batch.index.tolist()) <= there
        weight = 1.0 + batch.index.double()
        np.testing.assert_allclose(batch.weight, weight / weight.max(), rtol=1e-6)


@pytest.mark.parametrize("options", WORKERS)
def test_where_all_have_left_others_are_asked_for(options):
    """A function that keeps its list is asked again, and it is told where it never learns."""
    oracle = filled()
    answers = [np.full(8, oracle.replay.store.tail - 1)] * 3

    def learns(count, rng):
        return answers.pop() if answers else oracle.replay.indices()[:count]

    batch = next(iter(make_replay_loader(oracle.replay, 8, indices=learns, **options)))
    oracle.check_batch(batch)
    loader = make_replay_loader(oracle.replay, 8, indices=lambda count, rng: np.zeros(count, int), **options)
    with pytest.raises(ReplayError) as error:
        next(iter(loader))
    says(error, "none of the steps that were chosen", "replay.indices()")


def test_batches_depend_on_what_was_chosen_alone():
    """What a function knows counts from the same batch on, however many workers draw."""
    oracle, found = filled(nstep=3), []
    steps = oracle.replay.indices()
    for options in WORKERS:
        known = 10

        def choose(count, rng):
            return rng.choice(steps[:known], count)  # noqa: B023

        batches = iter(make_replay_loader(oracle.replay, 16, indices=choose, seed=4, **options))
        taken = []
        for _ in range(30):
            taken.append(next(batches).index.tolist())
            known += 5
        found.append(taken)
    assert all(one == found[0] for one in found)


def test_state_has_what_was_decided():
    oracle, count = filled(), 0
    steps = oracle.replay.indices()

    def choose(size, rng):
        nonlocal count
        count += 1
        return np.roll(steps, count)[:size]

    loader = make_replay_loader(oracle.replay, 8, indices=choose, num_workers=1, threads=True)
    batches = iter(loader)
    list(islice(batches, 4))
    state = loader.state_dict()
    expected = [batch.index.tolist() for batch in islice(batches, 8)]
    other = make_replay_loader(oracle.replay, 8, indices=choose, num_workers=0)
    other.load_state_dict(state)
    assert [batch.index.tolist() for batch in islice(other, 8)] == expected


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (lambda count, rng: np.zeros(3), "integers of shape (8,) | float64 of shape (3,)"),
        (lambda count, rng: np.zeros(7, int), "integers of shape (8,) | int64 of shape (7,)"),
        (lambda count, rng: np.full(8, -1), "-1"),
        (lambda count, rng: (np.zeros(8, int), np.zeros(8)), "weights above 0"),
        (lambda count, rng: (np.zeros(8, int), np.ones(7)), "weights above 0 of shape (8,)"),
        (lambda count, rng: (np.zeros(8, int), np.full(8, np.nan)), "weights above 0"),
        (lambda count, rng: "abc", "integers of shape (8,)"),
        (lambda count, rng: None, "integers of shape (8,)"),
        (lambda count, rng: (1, 2, 3), "integers of shape (8,)"),
        (lambda count, rng: [[1], [2, 3]], "integers of shape (8,)"),
        (lambda count, rng: (np.zeros(8, int), "abcdefgh"), "weights above 0 of shape (8,)"),
        (lambda count, rng: (np.zeros(8, int), [[1], [2, 3]]), "weights above 0 of shape (8,)"),
        (lambda count, rng: np.full(8, 2**63 + 1, np.uint64), "numbers of steps, got -"),
    ],
)
def test_a_wrong_choice_is_told(chosen, said):
    for options in WORKERS[:2]:
        batches = iter(make_replay_loader(filled().replay, 8, indices=chosen, **options))
        with pytest.raises(InputError) as error:
            next(batches)
        says(error, "indices: ", said)


@pytest.mark.parametrize("options", WORKERS[:2])
def test_an_empty_buffer_makes_the_loader_wait_before_it_asks(options):
    """Of nothing, nothing can be chosen: NumPy's own `choice` would raise."""
    oracle = Forgetful(buffer(100))
    replay, rng = oracle.replay, np.random.default_rng(0)
    assert replay.indices().tolist() == []
    loader = make_replay_loader(replay, 4, indices=lambda n, rng: rng.choice(replay.indices(), n), **options)
    adding = threading.Timer(0.3, add_episode, (oracle, 9, rng))
    adding.start()
    batch = next(iter(loader))
    adding.join()
    oracle.check_batch(batch)


def test_weights_are_the_same_whoever_draws():
    """The heaviest steps have left: what is left is divided by what is the largest now, to the last bit."""
    oracle = filled()
    gone = oracle.replay.indices()
    add_episode(oracle, 150, np.random.default_rng(1))
    there, found, scale = oracle.replay.indices(), [], [0.0]
    gone = gone[~np.isin(gone, there)]

    def choose(count, rng):
        few = rng.choice(there, count - 4)
        return np.concatenate([rng.choice(gone, 4), few]), np.concatenate(
            [np.ones(4), scale[0] * rng.random(count - 4)]
        )

    for scale[0] in (0.9, 1e-60):
        for options in WORKERS:
            batches = islice(make_replay_loader(oracle.replay, 30, indices=choose, **options), 5)
            found.append(torch.stack([batch.weight for batch in batches]))
            assert torch.equal(found[-1], found[0]) and found[-1].isfinite().all() and (found[-1] > 0).all()
        found.clear()


def test_wrong_arguments_are_told():
    replay = filled().replay
    with pytest.raises(InputError) as error:
        make_replay_loader(replay, indices=5)
    says(error, "indices: expected a function (count, rng), got 5")
    with pytest.raises(InputError) as error:
        make_replay_loader([replay, replay], indices=len)
    says(error, "indices: expected a list of 2, one for each buffer")


def test_of_several_buffers_one_may_be_drawn_from_uniformly():
    oracles = [filled(), filled()]
    steps = oracles[0].replay.indices()[:5]
    loader = make_replay_loader(
        [oracle.replay for oracle in oracles], 20, indices=[lambda n, rng: rng.choice(steps, n), None], num_workers=0
    )
    for batch in islice(loader, 5):
        assert set(batch.index[:10].tolist()) <= set(steps.tolist())
        assert batch.weight.tolist() == [1.0] * 20
        assert len(set(batch.index[10:].tolist())) > 5

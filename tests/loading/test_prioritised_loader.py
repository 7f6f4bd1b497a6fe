"""A loader that draws by priorities: the same batches for any number of workers, and after a resume."""

from __future__ import annotations

import multiprocessing
import os
import signal
from itertools import islice

import numpy as np
import pytest
import torch
from loading.loaders import WORKERS, filled
from loading.test_sampling import add_episode
from says import says

from diffreplay import Priorities, ReplayBuffer, make_replay_loader
from diffreplay.errors import InputError


def learned(batches, priorities, count):
    """Batches whose steps get a priority each time."""
    for batch in islice(batches, count):
        priorities.update(batch.index, torch.sin(batch.index.double())[:, None])
        yield batch


@pytest.mark.parametrize("kind", [{"nstep": 1}, {"nstep": 4, "shorter_at_end": True}, {"length": 6}])
def test_batches_depend_on_the_updates_alone(kind):
    kind = dict(kind)
    length = kind.pop("length", None)
    oracle, found = filled(**kind), []
    for options in WORKERS:
        priorities = Priorities(oracle.replay)
        loader = make_replay_loader(oracle.replay, 24, priorities=priorities, sequence_length=length, seed=6, **options)
        taken = []
        for batch in learned(loader, priorities, 30):
            (oracle.check_sequences if length else oracle.check_batch)(batch)
            assert batch.weight.max() == 1 and batch.weight.min() > 0
            taken.append((batch.index.tolist(), batch.weight.tolist()))
        found.append(taken)
    assert all(one == found[0] for one in found)


def test_weights_make_up_for_what_is_drawn_more_often():
    """(p_i / p_min) ** -beta, relative to the batch's largest; the largest is that of the least likely step."""
    oracle = filled()
    priorities = Priorities(oracle.replay, alpha=0.7, beta=0.5)
    steps = oracle.replay.indices()
    error = 0.1 + np.random.default_rng(0).random(len(steps))
    priorities.update(steps, error)
    batch = next(iter(make_replay_loader(oracle.replay, 50, priorities=priorities, num_workers=0)))
    given = dict(zip(steps.tolist(), (error + 1e-6) ** 0.7, strict=True))
    drawn = np.array([given[step] for step in batch.index.tolist()])
    np.testing.assert_allclose(batch.weight, (drawn / drawn.min()) ** -0.5, rtol=1e-4)


def test_a_resumed_run_goes_on_as_an_undisturbed_one(tmp_path):
    """Buffer, priorities and loader: nothing of what was decided is lost."""
    oracle = filled(nstep=2)
    priorities = Priorities(oracle.replay)
    loader = make_replay_loader(oracle.replay, 24, num_workers=2, threads=True, priorities=priorities)
    batches = iter(loader)
    list(learned(batches, priorities, 15))
    oracle.replay.save(tmp_path / "saved")
    torch.save([loader.state_dict(), priorities.state_dict()], tmp_path / "state.pt")
    expected = [(batch.index.tolist(), batch.weight.tolist()) for batch in learned(batches, priorities, 20)]

    replay = ReplayBuffer.load(tmp_path / "saved")
    states = torch.load(tmp_path / "state.pt")
    priorities = Priorities(replay)
    priorities.load_state_dict(states[1])
    loader = make_replay_loader(replay, 24, num_workers=0, priorities=priorities)
    loader.load_state_dict(states[0])
    assert [(batch.index.tolist(), batch.weight.tolist()) for batch in learned(loader, priorities, 20)] == expected


def test_steps_leave_and_workers_are_killed_meanwhile():
    """No step that has left is given, no update hits another one, and what is drawn is what the priorities say."""
    oracle, rng = filled(nstep=2), np.random.default_rng(1)
    priorities, given = Priorities(oracle.replay), {}
    loader = make_replay_loader(oracle.replay, 16, 2, priorities=priorities, multiprocessing_context="fork")
    with pytest.warns(RuntimeWarning, match="died"):
        for turn, batch in enumerate(islice(loader, 60)):
            oracle_windows = {steps[1].number: steps for steps in oracle.windows().values()}
            numbers = batch.action[:, 0].tolist()
            for number, index in zip(numbers, batch.index.tolist(), strict=True):
                assert number not in oracle_windows or oracle_windows[number][0].row == index
                assert given.setdefault(index, number) == number  # a number stays that step's
            if turn % 20 == 10:
                workers = [each for each in multiprocessing.active_children() if each.name == "diffreplay-worker"]
                os.kill(workers[0].pid, signal.SIGKILL)
            priorities.update(batch.index, np.ones(16))
            add_episode(oracle, 12, rng)


def test_wrong_uses_are_told():
    replay, other = filled().replay, filled().replay
    for wrong in (5, Priorities(other), "p"):
        with pytest.raises(InputError) as error:
            make_replay_loader(replay, priorities=wrong)
        says(error, "priorities: expected Priorities of the very buffer or reader")
    with pytest.raises(InputError) as error:
        make_replay_loader(replay, priorities=Priorities(replay), indices=len)
    says(error, "priorities, indices: expected one of them, got both")
    with pytest.raises(InputError) as error:
        make_replay_loader([replay, other], priorities=[Priorities(replay)])
    says(error, "priorities: expected a list of 2")
    priorities = Priorities(replay)
    next(iter(make_replay_loader(replay, 4, num_workers=0, priorities=priorities)))
    with pytest.raises(InputError) as error:
        make_replay_loader(filled(nstep=3).replay, priorities=priorities)
    says(error, "priorities: expected")


def test_loaders_of_two_kinds_cannot_share_priorities():
    """Not even where both were made before either drew: one of them would have steps at which nothing of its begins."""
    oracle = filled(nstep=3)
    priorities = Priorities(oracle.replay)
    loaders = [
        make_replay_loader(oracle.replay, 8, num_workers=0, priorities=priorities, sequence_length=length)
        for length in (None, 4)
    ]
    oracle.check_batch(next(iter(loaders[0])))
    drawn, _ = priorities.draw(500, np.random.default_rng(0))
    assert set(drawn.tolist()) <= set(oracle.replay.indices().tolist())
    with pytest.raises(InputError) as error:
        next(iter(loaders[1]))
    says(error, "priorities: expected", "make Priorities for each")


def test_of_several_buffers_each_has_its_own():
    oracles = [filled(), filled()]
    priorities = [Priorities(oracle.replay) for oracle in oracles]
    replays = [oracle.replay for oracle in oracles]
    for given in (priorities, [priorities[0], None]):
        loader = make_replay_loader(replays, 20, num_workers=1, threads=True, priorities=given)
        for batch in islice(loader, 20):
            for k in range(2):
                oracles[k].check_batch(batch._map(lambda tensor, its=batch.source == k: tensor[its]))
            priorities[0].update(batch.index[batch.source == 0], batch.index[batch.source == 0] % 5)
        assert (batch.weight[batch.source == 1] == 1).all()
        assert batch.weight[batch.source == 0].max() == 1

"""Where a loader is: into any file and back, and what is told of a state that is none of it."""

from __future__ import annotations

import io
import json
from itertools import islice

import numpy as np
import pytest
import torch
from loading.test_indices import filled
from says import says

from diffreplay import Priorities, make_replay_loader
from diffreplay.errors import InputError

KINDS = ["plain", "priorities", "indices", "mixture", "sequences"]


def made(kind, oracle, batch_size=6, **options):
    replay = oracle.replay
    given = {
        "plain": {},
        "priorities": {"priorities": Priorities(replay)},
        "indices": {"indices": lambda count, rng: rng.choice(replay.indices(), count)},
        "mixture": {"fractions": [0.2, 0.3, 0.5], "priorities": [None, Priorities(replay), None]},
        "sequences": {"fractions": [0.2, 0.3, 0.5], "sequence_length": 4},
    }[kind]
    replays = [replay] * 3 if "fractions" in given else replay
    return make_replay_loader(replays, batch_size, seed=3, **{"num_workers": 0, **given, **options})


def through_torch(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)


@pytest.mark.parametrize("through", [through_torch, lambda state: json.loads(json.dumps(state))], ids=["torch", "json"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_state_goes_through_files(kind, through):
    """As PyTorch loads by default, which takes no arrays of NumPy, and as text."""
    oracle = filled(nstep=2)
    loader = made(kind, oracle)
    list(islice(loader, 5))
    state = through(loader.state_dict())
    expected = [(batch.index.tolist(), batch.source.tolist()) for batch in islice(loader, 12)]
    other = made(kind, oracle, num_workers=2, threads=True)
    other.load_state_dict(state)
    assert [(batch.index.tolist(), batch.source.tolist()) for batch in islice(other, 12)] == expected


def hostile(state):
    """States that are none."""
    yield from (None, 5, [], {}, {**state, "more": 1}, {**state, "delivered": -1})
    yield from ({**state, "delivered": wrong} for wrong in ("5", 5.5, None, True))
    if "requests" not in state:
        return
    yield {"delivered": 5}
    yield from ({**state, "fractions": wrong} for wrong in ([1 / 2] * 2, 5, "abc", [np.nan] * 3))
    yield from ({**state, "requests": wrong} for wrong in (None, 5, [1], {"a": {}}, {5: None}, {5: {}}))
    number, request = next(iter(state["requests"].items()))
    wrong = [("counts", None), ("counts", [9]), ("counts", [7, -1, 0])]
    wrong += [("starts", [0.5] * 6), ("starts", [-2] * 6), ("starts", [1]), ("starts", "abcdef")]
    wrong += [("weight", None), ("weight", [0.0] * 6), ("weight", [np.inf] * 6), ("weight", [1.0]), ("weight", "a")]
    for name, value in wrong:
        given = {"counts": request["counts"], "starts": [1] * 6, "weight": [1.0] * 6, name: value}
        yield {**state, "requests": {number: given}}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_state_is_told_and_changes_nothing(kind):
    oracle = filled(nstep=2)
    loader, same = made(kind, oracle), made(kind, oracle)
    batches, others = iter(loader), iter(same)
    list(islice(batches, 3)), list(islice(others, 3))
    for wrong in hostile(loader.state_dict()):
        with pytest.raises(InputError) as error:
            loader.load_state_dict(wrong)
        says(error, "expected", "got")
    for batch, other in zip(islice(batches, 12), others, strict=False):
        assert batch.index.tolist() == other.index.tolist()


def test_a_state_of_another_kind_of_loader_is_told():
    oracle = filled(nstep=2)
    states = {kind: made(kind, oracle).state_dict() for kind in KINDS}
    for kind, other in (("plain", "priorities"), ("priorities", "plain"), ("mixture", "indices"), ("plain", "mixture")):
        with pytest.raises(InputError) as error:
            made(other, oracle).load_state_dict(states[kind])
        says(error, "expected", "got")
    loader = made("priorities", oracle)
    next(iter(loader))
    with pytest.raises(InputError) as error:
        made("priorities", oracle, batch_size=8).load_state_dict(loader.state_dict())
    says(error, "expected requests of 8 samples from 1 buffers")

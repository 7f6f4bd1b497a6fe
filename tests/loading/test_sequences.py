"""Sequences of steps against a naive slice of episodes; tests/test_machine.py does it for any observation."""

from __future__ import annotations

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from loading.test_sampling import Forgetful, add_episode, anew, buffer
from oracle import Oracle
from says import says

from diffreplay import ArraySpec, ReplayBuffer, SequenceBatch, make_replay_loader
from diffreplay.errors import EmptyBufferError, InputError
from diffreplay.testing import TimeStep


def some_episodes(target, count, longest, rng, **options):
    for _ in range(count):
        add_episode(target, int(rng.integers(1, longest)), rng, **options)


@pytest.mark.parametrize("codec", ["raw", "sparse", "delta"])
@pytest.mark.parametrize("frame_stack", [1, 3])
@pytest.mark.parametrize("overlap", [True, False])
def test_sequences_are_slices_of_episodes(codec, frame_stack, overlap):
    """Steps leave meanwhile; streams take turns; another reader, which began just now, draws the same."""
    replay, rng = buffer(150, frame_stack, codec, nstep=3), np.random.default_rng(1)
    oracle = Oracle(replay)
    for turn in range(12):
        some_episodes(oracle, 1, 40, rng, overlap=overlap or turn % 3 > 0, stream=turn % 2, ends=turn % 4 > 0)
        for length in (1, 2, 9, 60):
            batch = replay.sample(20, np.random.default_rng(turn), sequence_length=length)
            starts = oracle.check_sequences(batch)
            other = anew(replay).sample(20, np.random.default_rng(turn), sequence_length=length)
            assert other.index.tolist() == starts
            assert torch.equal(other.obs, batch.obs)


def test_interleaved_streams_are_followed():
    replay, rng = buffer(400, 2, nstep=1), np.random.default_rng(2)
    oracle = Forgetful(replay)
    frames = rng.integers(0, 256, (7, 90, 4, 4), np.uint8)
    for t in range(88):
        for stream in range(7):
            if (t + stream) % 5:  # pauses
                known = oracle.newest.get(stream)
                stack = frames[stream, t : t + 2] if known is None else np.stack([known.stack[1], frames[stream, t]])
                oracle.add(stack, float(t), first=known is None, stream=stream)
    oracle.check_sequences(replay.sample(200, sequence_length=30))


def test_every_start_is_drawn_equally_often():
    """Pearson's chi-squared over all steps that have a successor, those of an unfinished episode included."""
    replay, rng = buffer(1000, nstep=6), np.random.default_rng(2)
    oracle = Forgetful(replay)
    some_episodes(oracle, 30, 30, rng)
    add_episode(oracle, 8, rng, ends=False)
    sequences = oracle.sequences(5)
    starts = oracle.check_sequences(replay.sample(500, sequence_length=5))
    starts = np.concatenate([starts, *(replay.sample(500, sequence_length=5).index for _ in range(40))])
    found, counts = np.unique(starts, return_counts=True)
    assert set(found.tolist()) == set(sequences)
    expected = len(starts) / len(sequences)
    assert ((counts - expected) ** 2 / expected).sum() < len(sequences) + 5 * np.sqrt(2 * len(sequences))


@pytest.mark.parametrize(("overlap", "frames"), [(True, 12 + 3 - 1), (False, 12 * 3)])
def test_each_frame_stands_once_where_stacks_share_it(overlap, frames):
    replay, rng = buffer(300, 3), np.random.default_rng(0)
    oracle = Oracle(replay)
    for _ in range(4):
        add_episode(oracle, 30, rng, overlap=overlap)
    batch = replay.sample(8, sequence_length=12)
    oracle.check_sequences(batch)
    assert batch.windows[""].shape[:2] == (8, frames)
    # views of it, of which nothing was copied
    assert batch.obs.untyped_storage().data_ptr() == batch.windows[""].untyped_storage().data_ptr()


def test_what_ends_an_episode_is_told():
    """Terminated, truncated, going on: `terminated` and `mask` tell them apart; the last observation is there."""
    replay = ReplayBuffer(100, (1, 4, 4), (1,), frame_stack=1)
    ob = [np.full((1, 4, 4), k, np.uint8) for k in range(20)]
    for first, (terminated, truncated) in ((0, (True, False)), (5, (False, True)), (10, (False, False))):
        for t in range(3):
            ends = {"terminated": terminated and t == 2, "truncated": truncated and t == 2}
            replay.add_transition(ob[first + t], [t], t + 1.0, ob[first + t + 1], **ends)
    batch = replay.sample(200, np.random.default_rng(0), sequence_length=5)
    assert isinstance(batch, SequenceBatch)
    assert set(batch.index.tolist()) == {0, 1, 2, 4, 5, 6, 8, 9, 10}
    for b, first in enumerate(batch.obs[:, 0, 0, 0, 0].tolist()):
        k, left = first // 5, 3 - first % 5
        assert batch.mask[b].tolist() == [True] * left + [False] * (5 - left)
        assert batch.obs[b, : left + 1, 0, 0, 0].tolist() == list(range(first, 5 * k + 4))
        assert batch.reward[b].tolist() == [*range(4 - left, 4)] + [0] * (5 - left)
        assert batch.terminated[b].tolist() == [k == 0 and t == left - 1 for t in range(5)]
        assert batch.is_first[b].tolist() == [t == 0 and first % 5 == 0 for t in range(5)]


LAYOUTS = {"CHW": (3, 4, 5), "HWC": (4, 5, 3), "FCHW": (3, 4, 5), "FHWC": (4, 5, 3), "FHW": (4, 5)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_layouts_lie_as_they_were_added(layout, dtype):
    """The observation of each step is what a transition's is."""
    replay = ReplayBuffer(100, {"camera": ArraySpec(LAYOUTS[layout], dtype, layout=layout)}, (1,), frame_stack=2)
    rng = np.random.default_rng(0)
    shape = replay.parts[0].spec.shape
    frames = rng.integers(0, np.iinfo(dtype).max, (41, *shape)).astype(dtype)
    at = {"CHW": 0, "HWC": 2}.get(layout)

    def observation(t):
        pair = [frames[max(t - 1, 0)], frames[t]]
        return {"camera": np.stack(pair) if at is None else np.concatenate(pair, at)}

    for t in range(40):
        replay.add_transition(observation(t), [0], 0.0, observation(t + 1), False, t == 39)
    batch = replay.sample(9, sequence_length=6)
    for b, start in enumerate(batch.index.tolist()):
        for t in range(min(6, 40 - start)):
            assert np.array_equal(batch.obs["camera"][b, t].numpy(), observation(start + t)["camera"])


OPTIONS = [
    {"num_workers": 0},
    {"num_workers": 1, "threads": True},
    {"num_workers": 2, "multiprocessing_context": "fork"},
    {"num_workers": 4, "threads": True},
]


def test_batches_do_not_depend_on_the_workers():
    replay, rng = buffer(500, 3, "delta", nstep=2), np.random.default_rng(3)
    oracle = Forgetful(replay)
    some_episodes(oracle, 30, 40, rng)
    found = []
    for options in OPTIONS:
        batches = iter(make_replay_loader(replay, 16, sequence_length=12, seed=5, **options))
        taken = [next(batches) for _ in range(12)]
        for batch in taken:
            oracle.check_sequences(batch)
        found.append([(batch.index.tolist(), batch.action.tolist()) for batch in taken])
    assert all(one == found[0] for one in found)


def test_sequences_are_right_while_the_writer_laps_and_workers_are_killed():
    """Each frame tells its own number, and each action that of the step before."""
    replay = ReplayBuffer(300, (2, 4, 4), (1,), action_dtype="int64", frame_stack=2, codec="zstd")
    number = 0

    def add(count):
        nonlocal number
        for _ in range(count):
            stack = np.stack([np.full((4, 4), max(number - 1, number // 50 * 50) % 251), np.full((4, 4), number % 251)])
            first, last = number % 50 == 0, number % 50 == 49
            replay.add(TimeStep(stack.astype(np.uint8), np.array([number]), float(number), 1.0, first, last))
            number += 1

    add(300)
    loader = make_replay_loader(replay, 8, 2, sequence_length=10, multiprocessing_context="fork")
    with pytest.warns(RuntimeWarning, match="died"):
        for turn, batch in zip(range(60), loader, strict=False):
            if turn % 20 == 10:
                workers = [p for p in multiprocessing.active_children() if p.name == "diffreplay-worker"]
                os.kill(workers[0].pid, signal.SIGKILL)
            add(20)
            there = batch.mask.sum(1)
            first = batch.action[:, 0, 0] - 1
            for b in range(8):
                steps = torch.arange(int(first[b]), int(first[b]) + int(there[b]))
                assert torch.equal(batch.obs[b, : there[b], 1, 0, 0], (steps % 251).byte())
                assert torch.equal(batch.action[b, : there[b], 0], steps + 1)
                assert 1 <= int(there[b]) <= min(10, 49 - int(first[b]) % 50)  # fewer while the episode went on


def test_they_move_and_are_copied_as_a_whole():
    replay, rng = buffer(100), np.random.default_rng(0)
    add_episode(Forgetful(replay), 30, rng)
    batch = replay.sample(4, sequence_length=5)
    for other in (batch.clone(), batch.to("cpu")):
        assert all(torch.equal(a, b) for a, b in zip(batch.tensors(), other.tensors(), strict=True))
        assert torch.equal(batch.index, other.index)
    assert batch.clone().index.data_ptr() != batch.index.data_ptr()
    assert batch == batch and batch != batch.clone() and batch in {batch}  # of tensors, whether it is that very one


def test_a_loader_says_what_it_gives():
    replay = buffer(100)
    add_episode(Forgetful(replay), 30, np.random.default_rng(0))
    loader = make_replay_loader(replay, 16, 2, sequence_length=8, threads=True)
    next(iter(loader))
    assert repr(loader) == "ReplayLoader(16 sequences of 8 steps a batch, 2 threads, 1 batches so far)"
    assert repr(make_replay_loader(replay, 4)) == "ReplayLoader(4 transitions a batch, 4 workers, 0 batches so far)"


def test_wrong_uses_are_told():
    replay = buffer(100, nstep=3)
    with pytest.raises(EmptyBufferError) as error:
        replay.sample(4, sequence_length=5)
    says(error, "expected at least one complete window of 2 steps of one episode")
    for length in (0, -1, 2.5, "8"):
        with pytest.raises(InputError) as error:
            replay.sample(4, sequence_length=length)
        says(error, "sequence_length: expected a positive integer", length)
        with pytest.raises(InputError) as error:
            make_replay_loader(replay, 4, sequence_length=length)
        says(error, "sequence_length: expected a positive integer", length)

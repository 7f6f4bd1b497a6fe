"""A snapshot that is open without what is damaged holds what `ReplayBuffer.load` keeps of it."""

from __future__ import annotations

import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from says import says
from snapshot_tools import CASES, SEVERAL, Writer, buffer, by_row, decodable, make_directory, own_codec  # noqa: F401

import diffreplay
from diffreplay import Priorities, ReplayBuffer, make_replay_loader
from diffreplay.errors import CorruptDataError
from diffreplay.snapshots.manifest import read_manifest


def filled(directory, case, steps=200, **options):
    replay = buffer(160, case=case, **options)
    writer = Writer(replay)
    for _ in range(4):
        writer.add(steps // 4)
        replay.save(directory)
    return replay


def loaded(directory, case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return ReplayBuffer.load(directory, codec=own_codec(case), skip_damaged=True)


def harm(path, how):
    """Change a file, cut it, or have it be gone."""
    if how == "gone":
        path.unlink()
    elif how == "cut":
        os.truncate(path, path.stat().st_size - 1)
    else:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)


def same_rows(opened, loaded):
    """Whether all that can be read of one is in the other, too."""
    ours, theirs = opened.frames, loaded.store
    rows = decodable(ours)
    assert rows.tolist() == decodable(theirs).tolist()
    assert by_row(ours, rows) == by_row(theirs, rows)
    for name in ("flags", "link", "action", "reward", "discount"):
        held = np.arange(*ours.bounds()) if name == "flags" else rows
        assert ours.column(name, held).tolist() == theirs.column(name, held).tolist(), name


@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
@pytest.mark.parametrize("case", CASES)
def test_it_holds_what_loading_keeps(directory, case, how):
    filled(directory, case, nstep=3, shorter_at_end=True)
    manifest = read_manifest(directory)
    entries = [manifest.segments[1], *(sets[-2:][0] for sets in manifest.sets if sets)]
    for entry in entries:
        harm(directory / entry.name, how)
    opened, kept = diffreplay.open(directory, codec=own_codec(case), skip_damaged=True), loaded(directory, case)
    assert len(opened.damage) == len(entries)
    paths = sorted(str(directory / entry.name) for entry in entries)
    for problem, path in zip(sorted(opened.damage), paths, strict=True):
        says(problem, path, "cannot be read" if how == "gone" else "expected")
    same_rows(opened, kept)
    assert len(opened) == len(kept) and opened.indices().tolist() == kept.indices().tolist()
    ours, theirs = opened.stats(), kept.stats()
    for name in ("transitions", "frames", "payload_bytes", "reference_bytes", "compression_ratio"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert sorted(opened.verify()) == sorted(opened.damage)
    if kept.can_sample():
        for kind in ({}, {"sequence_length": 4}):
            one, other = (each.sample(32, np.random.default_rng(0), **kind) for each in (opened, kept))
            assert torch.equal(one.index, other.index) and torch.equal(one.reward, other.reward)


@pytest.mark.parametrize("case", ["delta", SEVERAL + "sparse"])
def test_nothing_is_left_out_of_what_is_whole(directory, case):
    replay = filled(directory, case, shorter_at_end=True, nstep=2)
    opened = diffreplay.open(directory, skip_damaged=True)
    assert opened.damage == [] and opened.verify() == []
    assert opened.indices().tolist() == replay.indices().tolist() and opened.stats().frames == replay.stats().frames


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_rest_and_no_lost_row(directory, method):
    filled(directory, "delta")
    harm(directory / read_manifest(directory).segments[1].name, "gone")
    opened = diffreplay.open(directory, skip_damaged=True)
    loader = make_replay_loader(opened, batch_size=16, num_workers=1, multiprocessing_context=method, seed=3)
    plain = make_replay_loader(loaded(directory, "delta"), batch_size=16, num_workers=0, seed=3)
    for _, ours, theirs in zip(range(3), loader, plain, strict=False):
        assert torch.equal(ours.obs, theirs.obs) and torch.equal(ours.index, theirs.index)
    again = pickle.loads(pickle.dumps(opened))
    assert again.damage == opened.damage and again.indices().tolist() == opened.indices().tolist()


def test_without_damaged_priorities_all_steps_have_the_same(directory):
    replay = buffer(160, case="delta")
    Writer(replay).add(100)
    priorities = Priorities(replay, alpha=0.7)
    priorities.update(replay.indices()[:5], np.full(5, 100.0))
    replay.save(directory)
    (entry,) = read_manifest(directory).priorities
    harm(directory / entry.name, "changed")
    with pytest.raises(CorruptDataError, match=entry.name):
        diffreplay.open(directory)
    opened = diffreplay.open(directory, skip_damaged=True)
    says(opened.damage[0], directory / entry.name, "expected checksum")
    _, weight = Priorities(opened, alpha=0.5).draw(32, np.random.default_rng(0))
    assert np.ptp(weight) == 0


def test_an_empty_one(directory):
    replay = buffer(10, case="delta")
    replay.save(directory)
    opened = diffreplay.open(directory, skip_damaged=True)
    assert len(opened) == 0 and not opened.can_sample() and opened.indices().tolist() == []

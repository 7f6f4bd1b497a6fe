"""Priorities of a buffer go with its snapshots: they come back bit for bit, or it is said what is damaged."""

from __future__ import annotations

import gc
import resource
import warnings

import numpy as np
import pytest
from interrupts import interrupted
from says import says
from snapshot_tools import (
    Writer,
    at_most,
    buffer,
    contents,
    make_directory,  # noqa: F401
    reseal,
    sizes,
)

from diffreplay import Priorities, ReplayBuffer
from diffreplay.cli.report import inspect
from diffreplay.errors import CorruptDataError, InputError
from diffreplay.snapshots.files import checksum
from diffreplay.snapshots.manifest import MANIFEST, PREVIOUS, read_manifest
from diffreplay.snapshots.priorities import HEADER
from diffreplay.testing.damage import mutate
from tests.loading.test_priorities import counts
from tests.snapshots.test_damage import MEMORY, put

MUTATIONS = 400


def learn(priorities, rng, turns=5):
    """Draw and update as a trainer does."""
    for _ in range(turns):
        index, _ = priorities.draw(16, rng)
        priorities.update(index, rng.normal(size=16))


def filled(steps=120, **options):
    replay = buffer(60, codec="raw", **options)
    writer = Writer(replay)
    writer.add(steps)
    return replay, writer


def saved(directory, **options):
    """A buffer of 60 steps, priorities over it that were updated, and both saved."""
    replay, _ = filled(**options)
    priorities = Priorities(replay)
    learn(priorities, np.random.default_rng(0))
    replay.save(directory)
    return replay, priorities


def same_draws(one, other, count=64):
    draws = [each.draw(count, np.random.default_rng(5)) for each in (one, other)]
    return all(np.array_equal(*pair) for pair in zip(*draws, strict=True))


def of_priorities(directory):
    return [name for name in sizes(directory) if name.startswith("priorities-")]


@pytest.mark.parametrize("options", [{}, {"nstep": 3, "shorter_at_end": True}, {"nstep": 2, "frame_stack": 1}], ids=str)
def test_a_run_that_is_resumed_draws_as_one_that_goes_on(directory, options):
    replay, writer = filled(**options)
    priorities, rng = Priorities(replay, alpha=0.7, beta=0.5), np.random.default_rng(1)
    for _ in range(4):
        writer.add(13)
        learn(priorities, rng)
        priorities.beta += 0.1
        replay.save(directory)
        again = ReplayBuffer.load(directory)
        resumed = Priorities(again, alpha=0.7, beta=0.5)
        assert resumed.beta == priorities.beta and counts(resumed) == counts(priorities)
        assert same_draws(resumed, priorities)
        assert replay.verify() == again.verify() == []
        later = Writer(again, writer.steps)
        for each in (writer, later):
            each.add(9)
        errors = np.random.default_rng(2).normal(size=20)
        for each in (priorities, resumed):
            index, _ = each.draw(20, np.random.default_rng(3))
            each.update(index, errors)
        assert counts(resumed) == counts(priorities) and same_draws(resumed, priorities)
    assert len(of_priorities(directory)) == 2  # of this commit and the one before


def test_the_commit_before_has_its_own(directory):
    replay, priorities = saved(directory)
    before, commit = counts(priorities), read_manifest(directory).commit
    priorities.update(list(before), np.full(len(before), 7.0))
    replay.save(directory)
    assert counts(Priorities(ReplayBuffer.load(directory, commit=commit))) == before
    assert set(counts(Priorities(ReplayBuffer.load(directory))).values()) == {float(np.float32(7 + 1e-6)) ** 0.6}


def test_which_are_saved(directory):
    """Those that were made last, as long as somebody holds them; until some are made, those of the loaded snapshot."""
    replay, first = saved(directory)
    second = Priorities(replay)
    second.update([100], [9.0])
    replay.save(directory)
    loaded = ReplayBuffer.load(directory)
    Writer(loaded, 120).add(5)  # the oldest rows leave
    loaded.save(directory)
    again = ReplayBuffer.load(directory)
    assert counts(Priorities(again)) == counts(Priorities(loaded)) != counts(Priorities(again))
    assert counts(first) == counts(first)
    del second
    gc.collect()
    replay.save(directory.parent / "other")
    assert of_priorities(directory.parent / "other") == []
    assert "priorities" not in read_manifest(directory.parent / "other").buffer


def test_another_alpha_is_refused(directory):
    _, priorities = saved(directory)
    again = ReplayBuffer.load(directory)
    with pytest.raises(InputError) as caught:
        Priorities(again, alpha=0.5)
    says(caught, "alpha: expected 0.6, as of the saved priorities, got 0.5; give the same")
    assert counts(Priorities(again)) == counts(priorities)


def test_a_lower_cap_when_it_is_loaded(directory):
    """The oldest steps leave at once; the others have their numbers, and what they were given."""
    replay = buffer(6000, codec="raw")
    Writer(replay).add(6000)
    priorities = Priorities(replay)
    learn(priorities, np.random.default_rng(0), 60)
    replay.save(directory)
    again = ReplayBuffer.load(directory, max_bytes=replay.stats().total_bytes * 2 // 3)
    assert again.store.tail > replay.store.tail
    wanted, found = counts(priorities), counts(Priorities(again))
    assert 0 < len(found) < len(wanted) and found.items() <= wanted.items() and len(set(found.values())) > 100


def test_damaged_rows_leave_the_others_their_priorities(directory):
    replay, writer = filled()
    priorities = Priorities(replay)
    for _ in range(3):
        writer.add(13)
        learn(priorities, np.random.default_rng(0))
        replay.save(directory)
    entry = read_manifest(directory).segments[-1]
    (directory / entry.name).unlink()
    with pytest.warns(RuntimeWarning, match=entry.name):
        again = ReplayBuffer.load(directory, skip_damaged=True)
    wanted, found = counts(priorities), counts(Priorities(again))
    assert 0 < len(found) < len(wanted) and found.items() <= wanted.items() and len(set(found.values())) > 5


def test_damage_is_named_and_may_be_left_out(directory):
    replay, _ = saved(directory)
    (name,) = of_priorities(directory)
    data = (directory / name).read_bytes()
    for damaged in (data[:-1], data[:-1] + bytes([data[-1] ^ 1]), b"", None):
        if damaged is None:
            (directory / name).unlink()
        else:
            (directory / name).write_bytes(damaged)
        with pytest.raises(CorruptDataError, match=f"{name}.*; load with skip_damaged=True to keep the rest"):
            ReplayBuffer.load(directory)
        (problem,) = replay.verify()
        assert name in problem
        with pytest.warns(RuntimeWarning, match=f"left out: .*{name}"):
            again = ReplayBuffer.load(directory, skip_damaged=True)
        assert contents(again) == contents(replay)
        priorities = Priorities(again, alpha=0.3)
        assert set(counts(priorities).values()) == {1.0}
    again.save(directory)
    assert counts(Priorities(ReplayBuffer.load(directory), alpha=0.3)) == counts(priorities)


def test_random_damage(directory):
    """An error that names the file or the manifest, or the priorities that were saved; nothing else."""
    _, priorities = saved(directory)
    wanted, rng = counts(priorities), np.random.default_rng(0)
    (name,) = of_priorities(directory)
    data, refused = (directory / name).read_bytes(), 0
    with at_most(resource.RLIMIT_AS, MEMORY), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for _ in range(MUTATIONS):
            damaged = mutate(data, rng)
            (directory / name).write_bytes(damaged)
            skip = bool(rng.integers(2))
            try:
                again = ReplayBuffer.load(directory, skip_damaged=skip)
            except CorruptDataError as error:
                refused += 1
                assert name in str(error) and "expected" in str(error) and damaged != data
            else:
                found = counts(Priorities(again))
                assert found == (wanted if damaged == data else dict.fromkeys(wanted, 1.0))
    assert refused > MUTATIONS // 4


def sealed(directory, data):
    """Put other bytes into the file of priorities, which the manifest tells of."""
    (name,) = of_priorities(directory)
    (directory / name).write_bytes(data)

    def change(manifest):
        return put(
            put(manifest, ("buffer", "priorities", 0, 1), len(data)), ("buffer", "priorities", 0, 2), checksum(data)
        )

    reseal(directory, change)


def changed(data, **fields):
    header = np.frombuffer(data, HEADER, 1).copy()
    for name, value in fields.items():
        header[name] = value
    return header.tobytes() + data[HEADER.itemsize :]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data[:-4], "expected priorities of"),
        (lambda data: data + bytes(4), "expected priorities of"),
        (lambda data: data[:10], "got 10 bytes"),
        (lambda data: changed(data, magic=b"dfrsegmt"), "got a file that begins with (b'dfrsegmt'"),
        (lambda data: changed(data, version=2), "got a file that begins with"),
        (lambda data: changed(data, first=0), "got a file that begins with"),
        (lambda data: changed(data, rows=2**63), "got a file that begins with"),
        (lambda data: changed(data, alpha=1.5), "alpha 1.5"),
        (lambda data: changed(data, beta=np.nan), "beta nan"),
        (lambda data: changed(data, largest=np.inf), "inf or others"),
        (lambda data: changed(data, largest=0), "0.0 or others"),
        (lambda data: data[:-4] + np.float32(np.nan).tobytes(), "numbers out of range"),
        (lambda data: data[:-4] + np.float32(-1).tobytes(), "numbers out of range"),
    ],
)
def test_a_file_that_makes_no_sense_though_its_checksum_is_right(directory, change, sentence):
    saved(directory)
    (name,) = of_priorities(directory)
    sealed(directory, change((directory / name).read_bytes()))
    with pytest.raises(CorruptDataError) as caught:
        ReplayBuffer.load(directory)
    says(caught, name, sentence)
    with pytest.warns(RuntimeWarning, match=name):
        again = ReplayBuffer.load(directory, skip_damaged=True)
    assert set(counts(Priorities(again)).values()) == {1.0}


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ((), None, "priorities: expected a list"),
        ((), [[1]], "priorities: expected | of each file"),
        ((0, 0), "rows-000000000000-0123456789abcdef.bin", "begins with priorities-"),
        ((0, 0), "priorities-000000000000-../../../../x.bin", "begins with priorities-"),
        ((0, 1), 2**40, "got 1099511627776 bytes"),
        ((0, 1), -1, "expected an integer from 0"),
        ((0, 2), "x", "expected a checksum"),
        ((0, 3), 0, "expected the number that its name begins with"),
        ((0, 4), 0, "expected at most one file of priorities"),
        ((0, 4), 2**40, "expected at most one file of priorities"),
    ],
    ids=str,
)
def test_a_manifest_that_makes_no_sense(directory, path, value, sentence):
    saved(directory)
    reseal(directory, lambda manifest: put(manifest, ("buffer", "priorities", *path), value))
    with at_most(resource.RLIMIT_AS, MEMORY), pytest.raises(CorruptDataError) as caught:
        ReplayBuffer.load(directory)
    says(caught, sentence)


@pytest.mark.filterwarnings("ignore:unclosed file", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_save_that_is_interrupted_leaves_one_state_or_the_other(directory):
    """At each line of the package; with the priorities that fit the steps."""
    replay, priorities = saved(directory)
    writer, rng, states, place, went_on = Writer(replay, 120), np.random.default_rng(0), {}, 0, True
    states[contents(replay)] = counts(priorities)
    while went_on:
        writer.add(3)
        learn(priorities, rng, 1)
        states[contents(replay)] = counts(priorities)
        went_on = interrupted(lambda: replay.save(directory), place)
        place += 7
        again = ReplayBuffer.load(directory)
        assert counts(Priorities(again)) == states[contents(again)]
    named = {entry.name for name in (MANIFEST, PREVIOUS) for entry in read_manifest(directory, name).files()}
    assert place > 300 and set(sizes(directory)) == named | {MANIFEST, PREVIOUS}


def test_inspect_counts_their_file(directory):
    saved(directory)
    assert any("1 of priorities" in line for line in inspect(directory).lines)


def test_a_snapshot_without_priorities_loads_as_ever(directory):
    replay, _ = filled()
    replay.save(directory)
    assert "priorities" not in read_manifest(directory).buffer
    assert set(counts(Priorities(ReplayBuffer.load(directory), alpha=0.2)).values()) == {1.0}

"""Damaged snapshots and damaged coded frames: a clear error, or what is left and is right. Never anything else."""

from __future__ import annotations

import copy
import hashlib
import os
import re
import resource
import shutil
import tempfile
import time
import warnings
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from driver import PLAN, Driver
from snapshot_tools import (
    CASES,
    CODECS,
    SEVERAL,
    Writer,
    at_most,
    buffer,
    by_row,
    check_samples,
    codec_of,
    contents,
    decodable,
    gone_rows,
    make_directory,  # noqa: F401
    own_codec,
    reseal,
    resumed,
    shape_of,
    sizes,
)

from diffreplay import ReplayBuffer, codecs
from diffreplay.errors import CorruptDataError, InputError, ReplayError
from diffreplay.snapshots.manifest import MANIFEST, PREVIOUS, read_manifest
from diffreplay.store.layout import Flag
from diffreplay.testing.damage import mutate
from diffreplay.testing.frames import frames_of
from tests.codecs.test_registry import decode, open_reference

MUTATIONS = int(os.environ.get("MUTATIONS", 0))
MEMORY = 600 << 20  # address space that loading a few kilobytes may take besides what the process has


# Holes: what is lost, what is kept, and that no window bridges the hole.


def several_segments(directory, codec, frame_stack, nstep, plan=PLAN, capacity=200):
    """A buffer of several interleaved streams, saved after every few steps: a driver that can go on with it."""
    replay = ReplayBuffer(
        capacity,
        shape_of(codec, frame_stack, side=12),
        (1,),
        action_dtype="int64",
        frame_stack=frame_stack,
        nstep=nstep,
        codec=codec_of(codec),
        shorter_at_end=nstep == 3,
    )
    driver = Driver(replay, seed=frame_stack + nstep)
    check, saved = driver.oracle.check, 0

    def check_and_save():
        nonlocal saved
        check()
        if replay.store.head >= saved + 9:
            replay.save(directory)
            saved = replay.store.head

    driver.oracle.check = check_and_save
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # first steps in mid-episode
        for episode in plan:
            driver.run(episode)
    replay.save(directory)
    driver.oracle.check = check
    return driver


def without(directory, names):
    """A copy of a snapshot in which files are gone."""
    damaged = Path(tempfile.mkdtemp(dir=directory.parent))
    for path in directory.iterdir():
        if path.name not in names:
            os.link(path, damaged / path.name)
    return damaged


def load_rest(directory, codec, names):
    """Load what is left; every file of `names` is reported, and no other."""
    with pytest.raises(CorruptDataError, match="load with skip_damaged=True to keep the rest"):
        ReplayBuffer.load(directory, codec=own_codec(codec))
    with pytest.warns(RuntimeWarning, match="left out") as caught:
        replay = ReplayBuffer.load(directory, codec=own_codec(codec), skip_damaged=True)
    assert {name for w in caught for name in re.findall(r"[\w-]+\.bin", str(w.message))} == set(names)
    return replay


def check_rest(driver, directory, codec, names):
    """Compare what is left of a snapshot with an oracle; it goes on, is saved whole, and loads again."""
    gone = gone_rows(driver.oracle, directory, names)
    damaged = without(directory, names)
    loaded = load_rest(damaged, codec, names)
    assert any(name in problem for name in names for problem in loaded.verify())
    other = copy.copy(driver)
    other.frames = copy.deepcopy(driver.frames)
    other.rng, other.oracle = other.frames.rng, resumed(driver.oracle, loaded, gone)
    loaded.check_invariants()
    assert len(loaded) == other.oracle._transitions(loaded.store.tail)
    check_samples(other.oracle)
    for stream in sorted(other.oracle.open):
        stack = other.oracle.newest[stream].stack
        for _ in range(4):
            stack = other.follow(stack, PLAN[1])
            other.oracle.add(stack, 1.0, stream=stream)
    check_samples(other.oracle)
    loaded.save(damaged)
    again = ReplayBuffer.load(damaged, codec=own_codec(codec))
    assert contents(again) == contents(loaded)
    again.check_invariants()
    check_samples(resumed(other.oracle, again))
    shutil.rmtree(damaged)


HOLES = [(codec, frame_stack, nstep) for codec in CODECS for frame_stack in (1, 3, 4) for nstep in (1, 3)]
HOLES += [(case, *options) for case in CASES if case.startswith(SEVERAL) for options in ((3, 1), (1, 3))]


@pytest.mark.parametrize(("codec", "frame_stack", "nstep"), HOLES)
def test_windows_never_bridge_a_hole(directory, codec, frame_stack, nstep):
    """Holes at every segment, at every reference set, and at several at once."""
    driver = several_segments(directory, codec, frame_stack, nstep)
    manifest = read_manifest(directory)
    names = [entry.name for entry in manifest.files()]
    assert len(manifest.segments) > 7 and (len(manifest.sets[0]) > 7) == codec.endswith("many sets")
    rng = np.random.default_rng(frame_stack)
    every = (
        1 if codec in ("raw", "sparse") else 3 + 3 * codec.startswith(SEVERAL)
    )  # where the rows lie that are lost does not depend on the codec
    holes = [(name,) for name in names[frame_stack % every :: every]]
    pairs = list(combinations(names, 2))
    holes += [pairs[k] for k in rng.choice(len(pairs), 2, replace=False)]
    holes.append(tuple(rng.choice(names, len(names) // 2, replace=False)))
    for hole in holes:
        check_rest(driver, directory, codec, set(hole))


@pytest.mark.parametrize("codec", CASES)
def test_a_hole_where_rows_were_evicted(directory, codec):
    driver = several_segments(directory, codec, 3, 2, PLAN * 2, capacity=60)
    manifest = read_manifest(directory)
    assert manifest.tail > 20
    for entry in manifest.segments[:3] + manifest.segments[-1:] + manifest.sets[0][:1]:
        check_rest(driver, directory, codec, {entry.name})


@pytest.mark.filterwarnings("ignore:a first step came in mid-episode")
@pytest.mark.parametrize("codec", CASES)
def test_damage_to_what_was_damaged_before(directory, codec):
    """A buffer that was loaded with a hole is saved, and its snapshot damaged in turn."""
    driver = several_segments(directory, codec, 3, 1)
    entries = read_manifest(directory).segments
    gone = gone_rows(driver.oracle, directory, {entries[3].name})
    damaged = without(directory, {entries[3].name})
    loaded = load_rest(damaged, codec, {entries[3].name})
    driver.oracle = resumed(driver.oracle, loaded, gone)
    second = directory.parent / "second"
    for _ in range(3):
        loaded.save(second)
        stack = driver.follow(driver.oracle.newest[0].stack, PLAN[1])
        driver.oracle.add(stack, 1.0, first=True, stream=0)
    loaded.save(second)
    assert len(read_manifest(second).segments) == 4
    for entry in read_manifest(second).segments:
        check_rest(driver, second, codec, {entry.name})


@pytest.mark.parametrize("codec", CASES)
def test_everything_lost(directory, codec):
    driver = several_segments(directory, codec, 3, 1)
    names = {entry.name for entry in read_manifest(directory).files()}
    check_rest(driver, directory, codec, names)


# Random damage to files.


def damage_file(path, rng, others):
    """Flip bits, cut, extend, splice, overwrite with zeros or another file, or remove."""
    data = path.read_bytes()
    how = rng.integers(8)
    if how < 5:
        place, size = int(rng.integers(len(data))), int(rng.integers(1, 200))
        part = [
            bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :],
            b"",
            data[place:] + rng.bytes(size),
            rng.bytes(size) + data[place + int(rng.integers(200)) :],
            bytes(min(size, len(data) - place)) + data[place + size :],
        ][how]
        mutated = data[:place] + part if how != 2 else data + rng.bytes(size)
    else:
        mutated = others[rng.integers(len(others))].read_bytes() if how < 7 else None
    if mutated is None:
        path.unlink()
    else:
        path.write_bytes(mutated)
    return mutated == data, data


@pytest.mark.parametrize("codec", CASES)
def test_random_damage_to_files(directory, codec):
    """2,500 mutations for each codec, 10,000 in all, and some of several parts; or MUTATIONS, for each."""
    rounds = MUTATIONS or (800 if codec.startswith(SEVERAL) else 2500)
    replay = buffer(90, case=codec)
    writer = Writer(replay)
    frames, actions, states = {}, {}, []
    for _ in range(5):
        writer.add(25)
        replay.save(directory)
        states.append(contents(replay))
        rows = decodable(replay.store)
        frames |= by_row(replay.store, rows)
        actions |= dict(zip(rows, replay.store.column("action", rows), strict=True))
    longest, refused, kept = 0.0, 0, 0
    rng = np.random.default_rng(0)
    paths = sorted(directory.iterdir())
    with at_most(resource.RLIMIT_AS, MEMORY), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for k in range(rounds):
            path = paths[rng.integers(len(paths))]
            same, data = damage_file(path, rng, paths)
            start = time.process_time()
            try:
                loaded = ReplayBuffer.load(directory, codec=own_codec(codec), skip_damaged=bool(k % 2))
            except CorruptDataError as error:
                refused += 1
                assert path.name in str(error) and ("expected" in str(error) or "cannot be read" in str(error))
            else:
                rest = decodable(loaded.store)
                action = loaded.store.column("action", rest)
                assert all(frames[row] == found for row, found in by_row(loaded.store, rest).items())
                assert all(np.array_equal(a, actions[row]) for a, row in zip(action, rest, strict=True))
                # Whole is what was committed: lately, or before where one manifest was put in the other's place.
                needed = path.name == MANIFEST or path.name in {entry.name for entry in named(directory)}
                assert (contents(loaded) in states) == (same or not needed or path.name == MANIFEST)
                kept += contents(loaded) not in states
            longest = max(longest, time.process_time() - start)
            path.write_bytes(data)
    assert refused > 0.3 * rounds and kept > 0.1 * rounds and longest < 5
    assert contents(ReplayBuffer.load(directory, codec=own_codec(codec))) == states[-1]


def named(directory):
    try:
        return read_manifest(directory).files()
    except CorruptDataError:
        return []


# Manifests that make no sense though their checksum is right.


def places(value, path=()):
    """Where in nested lists and objects there is something."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def put(value, path, new):
    """A copy of `value` with `new` at a place; None for `new` of `put` removes it."""
    if not path:
        return new
    value = copy.copy(value)
    if len(path) == 1 and new is REMOVED:
        del value[path[0]]
    else:
        value[path[0]] = put(value[path[0]], path[1:], new)
    return value


REMOVED = object()
NONSENSE = [REMOVED, None, True, -1, 0, 1, 3, 2.5, float("nan"), float("-inf"), 1e300, 2**40, 2**63, 2**64, 10**400]
NONSENSE += ["", "x", "../../etc/passwd", "/etc/passwd", "rows-000000000000-0123456789abcdef.bin/../x", "\ud800"]
NONSENSE += [[], {}, [[]], [[[[]]]], [0] * 5, ["a", 1, "b", 2, 3], {"a": {}}, [2**62] * 3, [1] * 100]


@pytest.mark.parametrize("codec", CASES)
def test_manifests_that_make_no_sense(directory, codec):
    """Every value of a manifest replaced by every kind of nonsense."""
    replay = buffer(40, case=codec, max_bytes=10_000_000)
    writer = Writer(replay)
    frames = {}
    for _ in range(3):
        writer.add(25)
        replay.save(directory)
        rows = decodable(replay.store)
        frames |= by_row(replay.store, rows)
    original = (directory / MANIFEST).read_bytes()
    refused = 0
    fields = []
    reseal(directory, lambda value: fields.append(value) or value)
    for path in places(fields[0]):
        if (path[0:1] == ("segments",) and max(path[1:2], default=0) > 1) or (
            path[0:1] == ("sets",) and max(path[1:3], default=0) > 1
        ):
            continue  # as the ones before
        for new in NONSENSE:
            if (not path and new is REMOVED) or repr(put(fields[0], path, new)) == repr(fields[0]):
                continue
            reseal(directory, lambda value, path=path, new=new: put(value, path, new))
            try:
                loaded = ReplayBuffer.load(directory, codec=own_codec(codec))
            except CorruptDataError as error:
                refused += 1
                assert str(directory) in str(error) and len(str(error)) < 600
            except InputError:
                assert path == ("buffer", "codec")
            else:  # what makes sense, too: another seed, more capacity, a row less or more
                assert path[0] in ("buffer", "commit", "log_tail", "tail") or path[0::3] == ("sets", 4), (path, new)
                if path[0] == "sets":
                    (directory / MANIFEST).write_bytes(original)
                    continue  # a later or earlier row to begin with, which nothing else tells
                rest = decodable(loaded.store)
                assert all(frames[row] == found for row, found in by_row(loaded.store, rest).items())
                loaded.check_invariants()
            (directory / MANIFEST).write_bytes(original)
    assert refused > 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {**m, "version": 3}, "expected a diffreplay snapshot of version 1 to 2"),
        (lambda m: {**m, "sets": m["sets"] * 2}, "reference sets for 1 images, got 2"),
        (lambda m: put(m, ("buffer", "ranges"), [[[9, 0], [3, 1]]]), "places in order"),
        (lambda m: {**m, "format": "zip"}, "expected a diffreplay snapshot of version 1 to 2"),
        (lambda m: {**m, "more": 1}, "expected the keys"),
        (lambda m: {**m, "head": m["head"] + 1}, "expected segments that follow one another up to row"),
        (lambda m: {**m, "tail": m["head"] + 1}, "expected tail <= head"),
        (lambda m: {**m, "segments": m["segments"][1:]}, "expected segments from row"),
        (
            lambda m: {**m, "segments": m["segments"][:1] + m["segments"][2:]},
            "expected segments that follow one another",
        ),
        (lambda m: {**m, "segments": [["../x.bin", *m["segments"][0][1:]]]}, "begins with rows-, got '../x.bin'"),
        (lambda m: {**m, "sets": [m["sets"][0][::2]]}, "reference sets that follow one another"),
        (lambda m: {**m, "sets": [m["sets"][0][2:]]}, "each reference set to serve later rows than the one before"),
        (lambda m: put(m, ("segments", 0, 1), 2**40), "rows from row .* on, .* got 1099511627776 bytes"),
        (lambda m: put(m, ("sets", 0, 0, 1), 2**40), "at most 1024 bytes in all, got 1099511627776"),
        (lambda m: put(m, ("buffer", "arguments", 0), 2**50), "capacity: expected an integer from 1 to"),
        (lambda m: put(m, ("buffer", "arguments", 2), [2**50]), "action_shape: expected at most"),
        (lambda m: put(m, ("buffer", "options", "frame_stack"), 7), "observation_shape: expected"),
        (lambda m: put(m, ("buffer", "arguments", 1), [3, 32, 32]), "expected frames of 1024 bytes"),
    ],
)
def test_what_is_wrong_is_named(directory, change, message):
    replay = buffer(40, codec=CODECS["many sets"]())
    writer = Writer(replay)
    for _ in range(4):
        writer.add(25)
        replay.save(directory)
    reseal(directory, change)
    with pytest.raises(CorruptDataError, match=message):
        ReplayBuffer.load(directory, codec=own_codec("many sets"))


def test_a_manifest_of_deeply_nested_lists(directory):
    buffer(40).save(directory)
    body = b"[" * 100_000 + b"]" * 100_000
    seal = hashlib.blake2b(body, digest_size=16).hexdigest().encode()
    (directory / MANIFEST).write_bytes(body + b"\n" + seal + b"\n")
    with pytest.raises(CorruptDataError, match="makes no sense"):
        ReplayBuffer.load(directory)


# verify.


@pytest.mark.parametrize("codec", CASES)
def test_verify_names_damaged_files_and_frames(directory, codec):
    replay = buffer(90, case=codec)
    writer = Writer(replay)
    for _ in range(3):
        writer.add(25)
        replay.save(directory)
    assert replay.verify() == []
    entries = read_manifest(directory).files()
    for name in (entries[0].name, entries[-1].name, MANIFEST, PREVIOUS):
        data = (directory / name).read_bytes()
        (directory / name).write_bytes(data[:-1] + bytes([data[-1] ^ 4]))
        (problem,) = replay.verify()
        assert name in problem and "expected" in problem
        (directory / name).write_bytes(data)
    (directory / entries[0].name).unlink()
    assert "No such file" in replay.verify()[0]
    shutil.rmtree(directory)
    assert "manifest.json" in replay.verify()[0]


def test_verify_decodes_every_frame():
    """A coded frame that was overwritten in memory is named by its row."""
    replay = buffer(90, codec="zstd")
    Writer(replay).add(60)
    store = replay.store
    rows = np.arange(*store.bounds())
    start, length = store.locate(rows)
    row = int(np.flatnonzero((length < store.layout.row_bytes) & (length > 3))[-1])
    store.memory.log[int(start[row]) : int(start[row] + length[row])] = b"\xff" * int(length[row])
    (problem,) = replay.verify()
    assert problem.startswith(f"row {row}: ")
    store.memory.columns["flags"][0, row] |= Flag.LOST | Flag.CONTEXT
    assert replay.verify() == []


# Random damage to coded frames.


def coded_frames(codec, shape):
    """Coded frames, what they were coded against, and the frames."""
    frames = frames_of("moving", shape, 12)
    references, frames = frames[:4], frames[4:]
    reference = open_reference(codec, references)
    blobs = [codec.encode(frame, reference) for frame in frames]
    return [b"any bytes" if blob is None else bytes(blob) for blob in blobs], references, frames


FUZZED = [
    (name, shape)
    for name in ("delta", "zstd", "sparse")
    for shape in [(24, 24, 1), (84, 84, 1), (20, 20, 3), (9, 300, 1)]
]
FUZZED += [("delta", (220, 220, 3)), ("zstd", (220, 220, 3)), ("sparse", (220, 220, 3)), ("raw", (24, 24, 1))]


@pytest.mark.parametrize(("name", "shape"), FUZZED, ids=str)
def test_random_damage_to_coded_frames(name, shape):
    """100,000 mutations in all: an error, or frames of the right shape; the others of the batch stay right."""
    codec = codecs.get(name)
    blobs, references, frames = coded_frames(codec, shape)
    rounds = {("raw", (24, 24, 1)): 1000, ("zstd", (220, 220, 3)): 1500, ("sparse", (220, 220, 3)): 1500}
    rng, errors, longest = np.random.default_rng(0), 0, 0.0
    count = rounds.get((name, shape), 12_000)
    with at_most(resource.RLIMIT_AS, MEMORY):
        for _ in range(count):
            which = int(rng.integers(len(blobs)))
            start = time.process_time()
            try:
                out = decode(codec, [mutate(blobs[which], rng), blobs[0]], (2, *shape), references)
            except CorruptDataError:
                errors += 1
            else:
                assert out.shape == (2, *shape)
                if name in ("sparse", "delta"):  # each frame is decoded by itself
                    assert np.array_equal(out[1], frames[0])
            longest = max(longest, time.process_time() - start)
    assert errors > count // 20 and longest < 5


def test_a_reader_of_damaged_memory_gets_an_error():
    """Frames overwritten in memory raise an error of the package when they are sampled, whatever the bytes are."""
    rng = np.random.default_rng(0)
    for codec in CODECS:
        replay = buffer(90, case=codec)
        Writer(replay).add(90)
        start, length = replay.store.locate(np.arange(*replay.store.bounds()))
        begin, end = int(start[0]), int(start[-1] + length[-1])
        for _ in range(30):
            replay.store.memory.log[begin:end] = rng.bytes(end - begin)
            try:
                assert replay.sample(64).obs.shape == (64, 3, 16, 16)
            except ReplayError as error:
                assert "expected" in str(error) or "do not decode" in str(error)


def test_sizes_are_compared_before_anything_is_read(directory):
    """A file that was replaced by one of 1 TB costs no memory."""
    replay = buffer(90)
    Writer(replay).add(60)
    replay.save(directory)
    (name,) = [name for name in sizes(directory) if name.startswith("rows-")]
    os.truncate(directory / name, 1 << 40)
    with at_most(resource.RLIMIT_AS, MEMORY), pytest.raises(CorruptDataError, match="got 1099511627776"):
        ReplayBuffer.load(directory)
    os.truncate(directory / MANIFEST, 1 << 40)
    with at_most(resource.RLIMIT_AS, MEMORY), pytest.raises(CorruptDataError, match="expected a file of at most"):
        ReplayBuffer.load(directory)

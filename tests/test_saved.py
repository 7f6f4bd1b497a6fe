"""Snapshots and pickles that earlier versions wrote load, hold what they held, and go on; `write_saved` wrote them."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from write_saved import BUFFERS, CASES, SAVED, Recipe, add_sb3, flat, held_sb3, main, make_buffer, make_sb3, windows

import diffreplay
from diffreplay import ReplayBuffer
from diffreplay.snapshots.manifest import read_manifest
from diffreplay.store.layout import VERSION

BEFORE_DELTA = ("22ecc84", "3e3af5d")  # whose default codec was zstd
BEFORE_PARTS = (*BEFORE_DELTA, "ff1399f")  # which wrote version 1 of the format
CAMERAS = {name for name in BUFFERS if "cameras" in name}
ALONE = {"5d7eedf": CAMERAS}  # versions of which these cases alone were kept
VERSIONS = sorted(path.stem for path in SAVED.glob("*.zip"))
WRITTEN = {name: json.loads(zipfile.ZipFile(SAVED / f"{name}.zip").read("contents.json")) for name in VERSIONS}
SNAPSHOTS = [(version, case) for version in VERSIONS for case in WRITTEN[version]["snapshots"]]
PICKLES = [(version, case) for version in VERSIONS for case in WRITTEN[version]["pickles"]]


def unpack(version, case, directory):
    """The snapshot of a case; what was in it."""
    with zipfile.ZipFile(SAVED / f"{version}.zip") as archive:
        archive.extractall(directory, [name for name in archive.namelist() if name.startswith(f"{case}/")])
    return directory / case, WRITTEN[version]["snapshots"][case]


def test_what_the_versions_before_wrote_is_there():
    assert {*BEFORE_PARTS, "d72050b", *ALONE} <= set(VERSIONS)
    for version in VERSIONS:
        if version in ALONE:
            assert set(WRITTEN[version]["snapshots"] | WRITTEN[version]["pickles"]) == ALONE[version]
            continue
        without = {"three steps"} if version == "22ecc84" else set()
        if version in (*BEFORE_PARTS, "d72050b"):
            without |= CAMERAS
        if version in BEFORE_DELTA:
            without |= {name for name in CASES | BUFFERS if "delta" in name}
        if version in BEFORE_PARTS:
            without |= {name for name in CASES if "parts" in name}
        assert set(WRITTEN[version]["snapshots"]) >= set(CASES) - without
        assert set(WRITTEN[version]["pickles"]) >= set(BUFFERS) - without


@pytest.mark.filterwarnings("ignore:10 transitions in a row began")
@pytest.mark.parametrize(("version", "case"), SNAPSHOTS)
def test_a_snapshot_of_a_version_before(version, case, tmp_path):
    """Every window is the one that was saved; the buffer goes on as one that was made today, and is saved again."""
    directory, written = unpack(version, case, tmp_path)
    replay = ReplayBuffer.load(directory)
    replay.check_invariants()
    assert replay.verify() == [] and windows(replay) == written["windows"]
    before_commit = read_manifest(directory, "previous.json").commit
    before = ReplayBuffer.load(directory, commit=before_commit)
    assert windows(before) == written["before"]
    for name in (None, before_commit):
        opened = windows(diffreplay.open(directory, commit=name))
        assert opened == written["windows" if name is None else "before"]
    recipe, twin = Recipe(written["case"], written["steps"]), make_buffer(written["case"])
    again = Recipe(written["case"])
    again.add(twin, recipe.steps)
    common = case == "lost" or (case, version) == ("over three steps", "22ecc84")  # which held fewer of them
    check_same(written["windows"], windows(twin), common)
    old = {entry.name for entry in read_manifest(directory).segments}
    for count in (1, 4, 30, 60):
        recipe.add(replay, count)
        again.add(twin, count)
        replay.check_invariants()
        replay.save(directory)
        if count == 1:  # files of the version before stay as they are, beside one of today's
            kept = {entry.name for entry in read_manifest(directory).segments} & old
            assert kept and (directory / min(kept)).read_bytes()[8] == (1 if version in BEFORE_PARTS else VERSION)
        replay = ReplayBuffer.load(directory)
        check_same(windows(replay), windows(twin), common)
    assert replay.verify() == [] and (common or replay.stats().transitions == twin.stats().transitions)


def check_same(one, two, common):
    """Whether windows are the same: all of them, or those that are in both."""
    both = set(one) & set(two)
    assert len(both) > 9 and all(one[number] == two[number] for number in both)
    assert common or set(one) == set(two)


@pytest.mark.parametrize(("version", "case"), PICKLES)
def test_a_pickle_of_a_version_before(version, case):
    """Every array is the one that was pickled; the buffer goes on as one that was made today, and is pickled again."""
    written = WRITTEN[version]["pickles"][case]
    with zipfile.ZipFile(SAVED / f"{version}.zip") as archive:
        buffer = pickle.loads(archive.read(f"{case}.pkl"))
    assert held_sb3(buffer) == written["held"]
    codec = written["case"].get("codec", "zstd" if version in BEFORE_DELTA else "delta")
    assert {store.frames.codec.name for store in buffer._image_stores()} == {codec}
    twin, steps = make_sb3(written["case"]), written["case"]["steps"]
    add_sb3(twin, written["case"], 0, steps)
    assert held_sb3(twin) == written["held"]
    for count in (1, 30):
        for each in (buffer, twin):
            if each.full and hasattr(each, "log_probs"):
                each.reset()
            add_sb3(each, written["case"], steps, count if not hasattr(each, "log_probs") else min(count, 19))
        steps += count
        buffer = pickle.loads(pickle.dumps(buffer))
        assert held_sb3(buffer) == held_sb3(twin)
    if not hasattr(buffer, "log_probs"):
        for seed in range(3):
            np.random.seed(seed)
            sample = buffer.sample(20)
            np.random.seed(seed)
            assert all(np.array_equal(a, b) for a, b in zip(flat(sample), flat(twin.sample(20)), strict=True))


def test_this_version_writes_them_too(tmp_path, monkeypatch):
    monkeypatch.setattr("write_saved.SAVED", tmp_path)
    main("now")
    with zipfile.ZipFile(tmp_path / "now.zip") as archive:
        contents = json.loads(archive.read("contents.json"))
        assert {Path(name).parts[0] for name in archive.namelist()} >= set(CASES)
    assert set(contents["snapshots"]) == set(CASES) and set(contents["pickles"]) == set(BUFFERS)

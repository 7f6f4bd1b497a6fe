"""A conversion that is killed goes on where it was, and ends as if it had never stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from made_datasets import drqv2_episode, drqv2_folder, same_folders, write_npz
from says import says

import diffreplay
from diffreplay import ReplayBuffer
from diffreplay.datasets import convert, from_episodes
from diffreplay.datasets.unfinished import UnfinishedPath
from diffreplay.errors import CorruptDataError, InputError, InUseError

MARK, MARK_NEW = ".diffreplay-conversion", ".diffreplay-conversion.new"
LENGTHS = [30 + k % 7 for k in range(60)]


def notes(directory: Path) -> dict:
    return json.loads((directory / "manifest.json").read_bytes().split(b"\n")[0])["buffer"]["notes"]["dataset"]


def command(*arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    line = [sys.executable, "-m", "diffreplay", "convert", "--quiet", *map(str, arguments)]
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_once(child: subprocess.Popen[str], there: Callable[[], bool], seconds: float) -> int:
    """Kill a process so long after it came so far; its status."""
    while child.poll() is None and not there():
        time.sleep(0.001)
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    return child.returncode


def test_a_snapshot_that_was_killed_goes_on(tmp_path):
    drqv2_folder(tmp_path / "episodes", LENGTHS, side=24)
    convert(tmp_path / "episodes", tmp_path / "whole", save_every=150)
    rng, done = random.Random(0), []

    def so_far() -> int:
        there = (tmp_path / "killed/manifest.json").exists()
        return notes(tmp_path / "killed")["done"] if there else 0

    for _ in range(3):
        child = command(tmp_path / "episodes", tmp_path / "killed", "--save-every", 150)
        assert kill_once(child, lambda: so_far() > max(done, default=0), rng.random() / 20) == -signal.SIGKILL
        done.append(so_far())
        with pytest.raises(InputError) as refused:
            convert(tmp_path / "killed", tmp_path / "out", target_format="drqv2")
        says(refused, tmp_path / "killed", "not completed | run it again")
    assert 0 < done[0] < done[1] < done[2] < len(LENGTHS)
    last = convert(tmp_path / "episodes", tmp_path / "killed", save_every=150)
    assert (last.resumed, last.episodes, last.steps) == (done[-1], len(LENGTHS), sum(LENGTHS[done[-1] :]))
    one, other = ReplayBuffer.load(tmp_path / "whole"), ReplayBuffer.load(tmp_path / "killed")
    for replay in (one, other):
        replay.check_invariants()
        assert replay.verify() == []
    assert one.stats() == other.stats()
    assert one.notes == other.notes
    assert (tmp_path / "whole/dataset.jsonl").read_bytes() == (tmp_path / "killed/dataset.jsonl").read_bytes()
    convert(tmp_path / "killed", tmp_path / "back", target_format="drqv2")
    same_folders(tmp_path / "episodes", tmp_path / "back")


def test_a_folder_that_was_killed_goes_on(tmp_path):
    drqv2_folder(tmp_path / "episodes", LENGTHS, side=24)
    convert(tmp_path / "episodes", tmp_path / "snapshot")
    child = command(tmp_path / "snapshot", tmp_path / "back", "--to", "drqv2")
    back = tmp_path / "back"
    assert kill_once(child, lambda: back.is_dir() and len(list(back.iterdir())) >= 20, 0.01) == -signal.SIGKILL
    done = convert(tmp_path / "snapshot", tmp_path / "back", target_format="drqv2")
    assert done.resumed >= 15 and done.episodes == len(LENGTHS)
    same_folders(tmp_path / "episodes", tmp_path / "back")
    with pytest.raises(InputError) as refused:
        convert(tmp_path / "snapshot", tmp_path / "back", target_format="drqv2")
    says(refused, tmp_path / "back", "no target")


def test_damage_in_the_middle_is_mended_and_gone_on_from(tmp_path):
    drqv2_folder(tmp_path / "episodes", [20, 20, 20, 20])
    path = sorted((tmp_path / "episodes").iterdir())[2]
    whole = path.read_bytes()
    place = len(whole) // 2
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(CorruptDataError) as refused:
        convert(tmp_path / "episodes", tmp_path / "snapshot", save_every=20)
    says(refused, path)
    path.write_bytes(whole)
    assert convert(tmp_path / "episodes", tmp_path / "snapshot").resumed == 2
    assert len(diffreplay.open(tmp_path / "snapshot", verify=True)) == 80


@pytest.mark.parametrize("change", ["options", "source", "complete", "snapshot", "files", "file"])
def test_only_the_same_conversion_goes_on(tmp_path, change):
    drqv2_folder(tmp_path / "episodes", [20, 20])
    target, options = tmp_path / "snapshot", {}
    if change == "snapshot":
        ReplayBuffer(100, (9, 16, 16), (6,)).save(target)
    elif change == "files":
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    elif change == "file":
        target.write_text("mine")
    elif change == "complete":
        convert(tmp_path / "episodes", target)
    else:
        cut_short(tmp_path / "episodes", target)
        if change == "options":
            options = {"nstep": 3}
        else:
            write_npz(tmp_path / "episodes", 2, drqv2_episode(5, np.random.default_rng(0)))
    before = {path.name: path.read_bytes() for path in (target.iterdir() if target.is_dir() else [target])}
    with pytest.raises(InputError) as refused:
        convert(tmp_path / "episodes", target, **options)
    says(refused, target, "expected")
    assert before == {path.name: path.read_bytes() for path in (target.iterdir() if target.is_dir() else [target])}


def cut_short(episodes: Path, target: Path) -> None:
    def stop(steps: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        convert(episodes, target, progress=stop, save_every=1)
    assert notes(target)["done"] == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("to", ["snapshot", "drqv2", "robomimic", "zarr", "minari"])
def test_one_conversion_at_a_time_writes_a_target(tmp_path, to):
    drqv2_folder(tmp_path / "episodes", [20, 20])
    convert(tmp_path / "episodes", tmp_path / "snapshot")
    source, target = tmp_path / ("episodes" if to == "snapshot" else "snapshot"), tmp_path / "target-v0"

    def again(steps: int) -> None:
        with pytest.raises(InUseError) as refused:
            convert(source, target, target_format=to)
        says(refused, target, "running process")

    assert convert(source, target, target_format=to, progress=again, save_every=1).episodes == 2
    assert not list(tmp_path.glob(".*"))
    convert(target, tmp_path / "back.hdf5")
    with h5py.File(tmp_path / "back.hdf5") as file:
        assert len(file["data"]) == 2


def test_a_name_is_written_by_one_at_a_time(tmp_path):
    """Also where one lets go of it in the moment in which others look for it."""
    writing, most, done = [], [], []

    def write() -> None:
        for _ in range(200):
            try:
                unfinished = UnfinishedPath(tmp_path / "target")
            except InUseError:
                continue
            writing.append(1)
            unfinished.path.write_text("some of it")
            most.append(len(writing))
            done.append(unfinished.path.read_text() == "some of it")
            writing.pop()
            unfinished.close()

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1} and all(done)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("left", ["snapshot", "new", "empty", "both"])
def test_what_a_kill_in_the_first_moments_leaves_is_gone_on_with(tmp_path, left):
    drqv2_folder(tmp_path / "episodes", [20, 20])
    convert(tmp_path / "episodes", tmp_path / "snapshot")
    target = tmp_path / "target"
    target.mkdir()
    if left == "snapshot":
        (target / "manifest.json.0123456789abcdef").write_bytes((tmp_path / "snapshot/manifest.json").read_bytes()[:99])
    else:
        for name in {"new": [MARK_NEW], "empty": [MARK], "both": [MARK, MARK_NEW]}[left]:
            (target / name).write_bytes(b'{"from' if name == MARK_NEW else b"")
    source, to = (tmp_path / "episodes", "snapshot") if left == "snapshot" else (tmp_path / "snapshot", "drqv2")
    (target / "mine").touch()
    with pytest.raises(InputError) as refused:
        convert(source, target, target_format=to)
    says(refused, target, "another target")
    (target / "mine").unlink()
    assert convert(source, target, target_format=to).episodes == 2
    if left != "snapshot":
        same_folders(tmp_path / "episodes", target)
    else:
        assert not list(target.glob("manifest.json.*"))
        assert len(diffreplay.open(target, verify=True)) == 40


def test_a_damaged_listing_is_told(tmp_path):
    drqv2_folder(tmp_path / "episodes", [20, 20])
    cut_short(tmp_path / "episodes", tmp_path / "snapshot")
    listing = tmp_path / "snapshot/dataset.jsonl"
    listing.write_bytes(listing.read_bytes().replace(b"20", b"21"))
    with pytest.raises(CorruptDataError) as refused:
        convert(tmp_path / "episodes", tmp_path / "snapshot")
    says(refused, listing, "checksum")


def test_what_was_gone_on_with_is_exported_as_it_is(tmp_path):
    """A buffer that was loaded, added to and saved again is no more what was converted."""
    drqv2_folder(tmp_path / "episodes", [20, 20])
    convert(tmp_path / "episodes", tmp_path / "snapshot", capacity=100)
    replay = ReplayBuffer.load(tmp_path / "snapshot")
    obs = np.zeros((2, 9, 16, 16), np.uint8)
    replay.add_transition(obs[0], np.zeros(6), 1.0, obs[1], terminated=True, truncated=False)
    replay.save(tmp_path / "snapshot")
    with pytest.warns(UserWarning, match="left out"):
        done = convert(tmp_path / "snapshot", tmp_path / "out", target_format="drqv2")
    assert (done.episodes, done.steps) == (3, 41)
    assert (tmp_path / "out/19700101T000000_2_1.npz").exists()


def test_memory_does_not_grow_with_what_is_converted(tmp_path):
    """Raw frames, as many as would take 280 MB."""
    program = f"""
import numpy as np
from diffreplay.datasets import convert, from_episodes

def status():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {{key: int(lines[key].split()[0]) >> 10 for key in ("VmRSS", "VmHWM")}}

def play(count):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, 10_000_000, np.uint8)
    for _ in range(count):
        begins = rng.integers(0, len(noise) - 84 * 84, 101)
        yield {{
            "observations": np.stack([noise[begin : begin + 84 * 84].reshape(84, 84, 1) for begin in begins]),
            "actions": np.zeros((100, 6), np.float32), "rewards": np.zeros(100), "terminated": False, "truncated": True,
        }}

convert(from_episodes(play(30)), {str(tmp_path / "warm")!r}, capacity=100_000, codec="raw")  # what is allocated once
open("/proc/self/clear_refs", "w").write("5")
before = status()["VmRSS"]
convert(from_episodes(play(400)), {str(tmp_path / "snapshot")!r}, capacity=100_000, codec="raw")
print(status()["VmHWM"] - before)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    line = [sys.executable, "-c", program]
    growth = int(subprocess.run(line, env=environment, check=True, capture_output=True, text=True).stdout)
    size = sum(path.stat().st_size for path in (tmp_path / "snapshot").iterdir()) >> 20
    assert size > 250 and growth < 130
    assert len(diffreplay.open(tmp_path / "snapshot")) == 40_000


def test_memory_does_not_grow_with_an_episode(tmp_path):
    """One whose observations take 50 MB, as a folder of DrQ-v2 has them."""
    program = """
import numpy as np
from diffreplay import datasets
from diffreplay.datasets import convert, from_episodes, from_snapshot, npz_growing

def peak():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines["VmHWM"].split()[0]) >> 10

def play(steps):
    frames = np.zeros((steps + 1, 64, 64, 1), np.uint8)
    frames[:, 0, 0, 0], frames[:, 1] = np.arange(steps + 1), np.arange(64)[:, None]
    yield {
        "observations": frames, "actions": np.zeros((steps, 6)), "rewards": np.zeros(steps),
        "terminated": False, "truncated": True,
    }

from_snapshot.PIECE_BYTES = npz_growing.HELD = 1 << 20
for name, steps in (("short", 400), ("long", 4000)):
    convert(from_episodes(play(steps), frame_stack=3), name, capacity=steps)
convert("short", "warm", target_format="drqv2")
open("/proc/self/clear_refs", "w").write("5")
before = peak()
convert("long", "episodes", target_format="drqv2")
print(peak() - before)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    line = [sys.executable, "-c", program]
    ran = subprocess.run(line, env=environment, check=True, capture_output=True, text=True, cwd=tmp_path)
    with np.load(next((tmp_path / "episodes").iterdir())) as found:
        shown = found["observation"]
    assert shown.shape == (4001, 64, 64, 3)
    assert (shown[:, 0, 0, 2] == np.arange(4001) % 256).all() and (shown[:, 1, :, 0] == np.arange(64)).all()
    assert int(ran.stdout) < 15


def test_an_iterator_goes_on_behind_what_is_there(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (6, 11, 16, 16, 3), np.uint8)

    def play(until):
        for k, observations in enumerate(frames):
            if k == until:
                raise InterruptedError
            yield {
                "observations": observations,
                "actions": np.full(10, k),
                "rewards": np.zeros(10),
                "terminated": False,
                "truncated": True,
            }

    with pytest.raises(InterruptedError):
        convert(from_episodes(play(3)), tmp_path / "snapshot", capacity=100, save_every=10)
    done = convert(from_episodes(play(-1)), tmp_path / "snapshot", capacity=100, save_every=10)
    assert (done.resumed, done.steps) == (3, 30)
    assert set(diffreplay.open(tmp_path / "snapshot").sample(300).action.tolist()) == set(range(6))

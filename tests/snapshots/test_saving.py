"""Saves that fail, files that vanish, many small saves, several savers. Real full disks, signals and processes."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from says import says
from snapshot_tools import (
    RestlessZstd,
    Writer,
    at_most,
    buffer,
    contents,
    make_directory,  # noqa: F401
    sizes,
)

from diffreplay import ReplayBuffer
from diffreplay.errors import InputError, InUseError, ReplayError
from diffreplay.snapshots.manifest import MANIFEST, PREVIOUS, read_manifest
from diffreplay.testing import TimeStep

ROOT = Path(__file__).resolve().parents[2]
LEFTOVER = "rows-000000000000-0123456789abcdef.bin"


def named(directory):
    """The names that a snapshot's directory holds as long as nothing is left over."""
    kept = [name for name in (MANIFEST, PREVIOUS) if (directory / name).exists()]
    return {entry.name for name in kept for entry in read_manifest(directory, name).files()} | set(kept)


# Saves that fail.


@pytest.fixture(name="small_disk")
def make_small_disk(tmp_path):
    """A file system of 1 MB and 100 files."""
    options = "size=1m,nr_inodes=100"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def fill(path):
    """Take all the room that is left."""
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_save_that_failed_on_a_full_disk_succeeds_once_there_is_room(small_disk):
    directory, filler = small_disk / "snapshot", small_disk / "filler"
    replay = buffer(4000, codec="raw")
    writer = Writer(replay)
    writer.add(700)
    replay.save(directory)
    before, listing = contents(replay), sizes(directory)
    writer.add(1300)
    fill(filler)
    for _ in range(3):
        with pytest.raises(OSError, match="No space left on device"):
            replay.save(directory)
        assert sizes(directory) == listing
        assert contents(ReplayBuffer.load(directory)) == before
    os.truncate(filler, 1000)
    replay.save(directory)
    assert contents(ReplayBuffer.load(directory)) == contents(replay) and set(sizes(directory)) == named(directory)


def test_a_save_that_ran_out_of_files_leaves_none(small_disk):
    """Rows and some sets are written before that."""
    directory, fillers = small_disk / "snapshot", [small_disk / f"{k}" for k in range(100)]
    replay = buffer(400, codec=RestlessZstd())
    Writer(replay).add(40)
    with contextlib.suppress(OSError):
        for path in fillers:
            path.touch()
    for path in fillers[:4]:
        path.unlink()
    with pytest.raises(OSError, match=r"No space left on device.*set-"):
        replay.save(directory)
    assert not sizes(directory)
    for path in fillers[4:24]:
        path.unlink()
    replay.save(directory)
    assert contents(ReplayBuffer.load(directory, codec=RestlessZstd())) == contents(replay)


def test_what_a_killed_save_left_is_deleted_before_its_room_is_needed(small_disk):
    directory = small_disk / "snapshot"
    replay = buffer(4000, codec="raw")
    writer = Writer(replay)
    writer.add(700)
    replay.save(directory)
    writer.add(1300)
    fill(directory / LEFTOVER)
    replay.save(directory)
    assert contents(ReplayBuffer.load(directory)) == contents(replay) and set(sizes(directory)) == named(directory)


@pytest.mark.parametrize("saves", [0, 1, 3])
def test_a_failed_save_leaves_nothing(directory, saves):
    """A limit on the sizes of files makes the file of rows fail."""
    replay = buffer(400, codec="raw")
    writer = Writer(replay)
    for _ in range(saves):
        writer.add(20)
        replay.save(directory)
    directory.mkdir(exist_ok=True)
    before = sizes(directory)
    writer.add(100)
    with at_most(resource.RLIMIT_FSIZE, 10_000), pytest.raises(OSError, match="File too large"):
        replay.save(directory)
    assert sizes(directory) == before
    replay.save(directory)
    assert contents(ReplayBuffer.load(directory)) == contents(replay)


def test_the_files_of_a_damaged_manifest_stay_until_a_new_one_is_there(directory):
    """So that `previous.json`, or a copy of the manifest, can be put in its place."""
    replay = buffer(400, codec="raw")
    writer = Writer(replay)
    writer.add(20)
    replay.save(directory)
    before, whole = sizes(directory), (directory / MANIFEST).read_bytes()
    (directory / MANIFEST).write_bytes(whole[:-1])
    writer.add(100)
    with at_most(resource.RLIMIT_FSIZE, 10_000), pytest.raises(OSError, match="File too large"):
        replay.save(directory)
    (directory / MANIFEST).write_bytes(whole)
    assert sizes(directory) == before
    ReplayBuffer.load(directory)
    (directory / MANIFEST).write_bytes(whole[:-1])
    replay.save(directory)
    assert set(sizes(directory)) == named(directory)


@pytest.mark.filterwarnings("ignore:unclosed file", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_save_that_is_interrupted_leaves_one_state_or_the_other(directory):
    """At random moments, as Ctrl-C does: nothing that was written is left over, and the next save succeeds."""
    replay = buffer(150, codec=RestlessZstd())
    writer, rng = Writer(replay), random.Random(0)
    states, saved, interrupted, took = [], set(), 0, 0.01

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(150):
            writer.add(rng.randint(1, 9))
            states.append(contents(replay))
            start = time.monotonic()
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0001, 1.1 * took))
                replay.save(directory)
                signal.setitimer(signal.ITIMER_REAL, 0)
                took = time.monotonic() - start
            except KeyboardInterrupt:
                interrupted += 1
                took *= 1.1  # later at each, so that on a machine however slow a save comes through
            if not (directory / MANIFEST).exists():
                assert not directory.exists() or not sizes(directory)
                continue
            # Older files may wait for the next save where the interrupt came after the commit.
            assert set(sizes(directory)) - saved <= named(directory)
            saved |= set(sizes(directory))
            found = contents(ReplayBuffer.load(directory, codec=RestlessZstd()))
            assert found in states
            del states[: states.index(found)]  # it never goes back
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    replay.save(directory)
    assert interrupted > 50 and set(sizes(directory)) == named(directory)
    assert contents(ReplayBuffer.load(directory, codec=RestlessZstd())) == contents(replay)


# Files that vanish.


def remove(path):
    path.unlink()


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


def replace_by_directory(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("lose", [remove, cut, replace_by_directory])
@pytest.mark.parametrize("resumed", [False, True], ids=["same buffer", "loaded"])
def test_the_next_save_writes_anew_what_has_vanished(directory, lose, resumed):
    """Each file by itself, then several at once."""
    replay = buffer(100, codec=RestlessZstd())
    writer = Writer(replay)
    for _ in range(9):
        writer.add(17)
        replay.save(directory)
    if resumed:
        replay = ReplayBuffer.load(directory, codec=RestlessZstd())
        writer = Writer(replay, writer.steps)
    manifest = read_manifest(directory)
    assert len(manifest.segments) > 3 and len(manifest.sets[0]) > 3
    for k in range(-4, 4):
        manifest = read_manifest(directory)
        lost = manifest.files()[k : k + 1] if k < 3 else manifest.files()[::2]
        for entry in lost:
            lose(directory / entry.name)
        writer.add(k % 2)
        replay.save(directory)
        assert not {entry.name for entry in lost} & {entry.name for entry in read_manifest(directory).files()}
        again = ReplayBuffer.load(directory, codec=RestlessZstd())
        assert contents(again) == contents(replay)


# Many small saves.


def test_many_small_saves_leave_few_files(directory):
    """1,500 saves of 5 steps; both commits that are kept can be loaded all along, and little is written twice."""
    replay = buffer(10_000)
    writer, states, written, seen = Writer(replay), [], 0, {}
    for k in range(1500):
        writer.add(5)
        name = replay.save(directory)
        if k % 100 >= 98 or k in (30, 31, 32):
            states = [*states[-1:], (name, contents(replay))]
        if k % 100 == 99 or k == 32:
            for commit, digest in states:
                assert contents(ReplayBuffer.load(directory, commit=commit)) == digest
        files = {name: size for name, size in sizes(directory).items() if name.startswith("rows-")}
        written += sum(size for name, size in files.items() if name not in seen)
        seen |= files
        assert len(files) < 100
    entries = read_manifest(directory).segments
    assert written < 4 * sum(entry.nbytes for entry in entries)
    assert set(sizes(directory)) == named(directory)


def test_files_are_merged_while_rows_are_evicted(directory):
    replay = buffer(500, codec=RestlessZstd())
    writer = Writer(replay)
    for _ in range(300):
        writer.add(7)
        replay.save(directory)
        assert set(sizes(directory)) == named(directory)
    assert len(read_manifest(directory).segments) < 70
    loaded = ReplayBuffer.load(directory, codec=RestlessZstd())
    assert contents(loaded) == contents(replay)
    loaded.check_invariants()


# Several savers.


SAVER = """
import sys, time
from pathlib import Path
sys.path.insert(0, "tests")
from snapshot_tools import Writer, buffer
from diffreplay import ReplayBuffer
from diffreplay.errors import ReplayError
directory, how, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
replay = buffer(100) if how == "new" else ReplayBuffer.load(directory)
writer = Writer(replay, replay.store.head)
print("begun", flush=True)
sys.stdin.readline()
saved = 0
end = time.monotonic() + seconds
try:
    while time.monotonic() < end or not saved:
        writer.add(7)
        replay.save(directory)
        saved += 1
        if saved == 1:
            print("saved", flush=True)
except ReplayError as error:
    print(saved, error)
else:
    print(saved, "saves")
sys.stdin.readline()
"""


@contextlib.contextmanager
def saver(directory, how, seconds=0.0):
    """A process with a buffer of its own, which saves when it is told to, and lives until its input ends."""
    command = [sys.executable, "-c", SAVER, directory, how, str(seconds)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "begun\n"
        try:
            yield process
        finally:
            process.kill()


def test_of_two_processes_one_is_refused_as_long_as_the_other_lives(directory):
    replay = buffer(100)
    writer = Writer(replay)
    writer.add(20)
    with saver(directory, "new") as first:
        first.stdin.write("save\n")
        assert first.stdout.readline() == "saved\n"
        state = sizes(directory)
        for _ in range(2):
            with pytest.raises(InUseError) as caught:
                replay.save(directory)
            says(caught, f"{directory}:", "alone")
            assert isinstance(caught.value, OSError) and isinstance(caught.value, ReplayError)
            assert sizes(directory) == state
        assert len(ReplayBuffer.load(directory)) > 0
        replay.save(directory.parent / "another")
        first.kill()
        first.wait()
    replay.save(directory)
    assert contents(ReplayBuffer.load(directory)) == contents(replay)


@pytest.mark.parametrize("how", ["new", "loaded"])
def test_two_processes_that_save_at_once_destroy_nothing(directory, how):
    """For a second, both without pause: the one that commits first goes on, the other gets one sentence."""
    replay = buffer(100)
    Writer(replay).add(20)
    replay.save(directory)
    del replay
    with saver(directory, how, 1) as one, saver(directory, how, 1) as other:
        for process in (one, other):
            process.stdin.write("save\n")
        said = []
        for process in (one, other):
            line = process.stdout.readline()
            said.append(process.stdout.readline() if line == "saved\n" else line)
        refused = [line for line in said if "alone" in line and str(directory) in line]
        assert len(refused) == 1 and refused[0].startswith("0 ") and any(line.endswith(" saves\n") for line in said)
        assert ReplayBuffer.load(directory).verify() == []
    assert set(sizes(directory)) == named(directory)


def test_a_process_may_go_on_with_the_newest_commit_of_another(directory):
    """Which is refused from then on, so that neither loses what it saved unawares."""
    replay = buffer(100)
    Writer(replay).add(20)
    replay.save(directory)
    with saver(directory, "loaded") as other:
        other.stdin.write("save\n")
        assert other.stdout.readline() == "saved\n"
        state = sizes(directory)
        with pytest.raises(InUseError) as caught:
            replay.save(directory)
        says(caught, f"{directory}:", "alone")
        assert sizes(directory) == state
    replay.save(directory)
    assert contents(ReplayBuffer.load(directory)) == contents(replay)


def test_a_buffer_that_is_gone_keeps_nobody_out(directory):
    replay = buffer(100)
    Writer(replay).add(20)
    replay.save(directory)
    del replay
    with saver(directory, "new") as other:
        other.stdin.write("save\n")
        assert other.stdout.readline() == "saved\n"


def test_a_killed_process_whose_children_live_on_keeps_nobody_out(directory):
    """As a killed training process whose loader workers were forked."""
    reader, told = os.pipe()
    child = os.fork()
    if not child:
        try:
            replay = buffer(100)
            Writer(replay).add(20)
            replay.save(directory)
            if not os.fork():  # who has dropped the lock by then
                os.write(told, b"%d\n" % os.getpid())
            time.sleep(300)
        finally:
            os._exit(1)
    grandchild = int(os.read(reader, 20))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    replay = buffer(100)
    Writer(replay).add(9)
    try:
        os.kill(grandchild, 0)
        replay.save(directory)
    finally:
        os.kill(grandchild, signal.SIGKILL)
    assert contents(ReplayBuffer.load(directory)) == contents(replay)


# What could not be loaded again.


def test_what_could_not_be_loaded_is_not_saved(directory):
    replay = buffer(60)
    step = TimeStep(np.zeros((3, 16, 16), np.uint8), None, 0.0, 1.0, True, False)
    for number in range(3):
        replay.add(step, f"{number}" * 800_000)
    with pytest.raises(InputError) as info:
        replay.save(directory)
    says(info, "stream: | fewer | shorter | got 3 | 24")
    replay = ReplayBuffer(3000, (2000, 1, 1), (1,), frame_stack=2000, codec="raw")
    with pytest.raises(InputError) as info:
        replay.save(directory)
    says(info, "snapshot | frame_stack: | from 1 to | 2000")
    assert not directory.exists()

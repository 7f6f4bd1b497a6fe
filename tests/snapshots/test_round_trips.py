"""Snapshots of the replay buffer: round trips, what is written, resuming, crashes. Real files, processes, signals."""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from processes import kill, runs
from says import says
from snapshot_tools import (
    CODECS,
    SEVERAL,
    RestlessZstd,
    Writer,
    at_most,
    buffer,
    contents,
    make_directory,  # noqa: F401
    sizes,
)

from diffreplay import ReplayBuffer, codecs
from diffreplay.errors import CorruptDataError, InputError, ReadOnlyError, UnknownCodecError
from diffreplay.snapshots.manifest import MANIFEST, PREVIOUS, read_manifest
from diffreplay.testing import TimeStep

ROOT = Path(__file__).resolve().parents[2]


def test_options_come_back(directory):
    codec = codecs.ZstdCodec(level=2, set_frames=5, refresh_interval=99)
    options = {"action_dtype": "int16", "nstep": np.int64(4), "discount": np.float32(0.5), "max_bytes": 10_000_000}
    options["shorter_at_end"] = np.True_
    replay = ReplayBuffer(np.int32(77), (8, 9, 10), (2, 3), frame_stack=4, codec=codec, **options)
    replay.add(TimeStep(np.zeros((8, 9, 10), np.uint8), None, 0.0, 1.0, True, False), np.int64(12))
    replay.save(str(directory))
    loaded = ReplayBuffer.load(str(directory))
    assert (loaded.capacity, loaded.observation_shape, loaded.action_shape) == (77, (8, 9, 10), (2, 3))
    assert (loaded.action_dtype, loaded.nstep, loaded.discount) == (np.dtype("int16"), 4, 0.5)
    assert loaded.shorter_at_end is True
    assert (loaded.store.layout, loaded.store.max_bytes) == (replay.store.layout, 10_000_000)
    assert loaded.store.codec.options() == codec.options() and list(loaded.store.streams) == [12]


@pytest.mark.parametrize("codec", CODECS)
def test_the_log_wraps_around_its_ring(directory, codec):
    """Frames of noise fill the log to the last byte again and again; a row lands where it was."""
    replay = buffer(12, codec=CODECS[codec](), frame_stack=1)
    writer, ring, crossed = Writer(replay), replay.store.layout.log_bytes, 0
    rng = np.random.default_rng(0)
    while crossed < 20:
        before = replay.store.rows.log.tail // ring
        stack = rng.integers(0, 256, (1, 16, 16), np.uint8)
        replay.add(TimeStep(stack, np.array([writer.steps]), 0.0, 1.0, writer.steps == 0, False))
        writer.steps += 1
        if replay.store.rows.log.tail // ring == before == replay.store.counter(7) // ring:
            continue
        crossed += 1
        replay.save(directory)
        loaded = ReplayBuffer.load(directory, codec=CODECS[codec]() if codec == "many sets" else None)
        loaded.check_invariants()
        assert contents(loaded) == contents(replay)
        rows = np.arange(*replay.store.bounds())
        assert np.array_equal(loaded.store.locate(rows)[0], replay.store.locate(rows)[0])


def noise_steps(replay, count, seed, side=84):
    """Steps of noise, which no codec makes smaller."""
    rng = np.random.default_rng(seed)
    for t in range(count):
        frame = rng.integers(0, 256, (1, side, side), np.uint8)
        replay.add(TimeStep(frame, np.array([t]), 0.0, 1.0, t == 0, t == count - 1))


def test_saving_writes_what_is_new_and_no_more(tmp_path):
    """After 1 % new data, saving 42 MB again writes at most 2 % of them; nothing new writes next to nothing."""
    replay = ReplayBuffer(6000, (1, 84, 84), (1,), action_dtype="int64", frame_stack=1, codec="raw")
    noise_steps(replay, 6000, 0)
    replay.save(tmp_path)
    before = sizes(tmp_path)
    size = replay.stats().total_bytes
    assert sum(before.values()) >= size * 0.95
    noise_steps(replay, 60, 1)
    replay.save(tmp_path)
    after = sizes(tmp_path)
    written = sum(size for name, size in after.items() if name not in before or name in (MANIFEST, PREVIOUS))
    assert 60 * 84 * 84 < written <= 0.02 * size
    replay.save(tmp_path)
    assert set(sizes(tmp_path)) <= set(after) and (tmp_path / MANIFEST).stat().st_size < 10_000
    assert contents(ReplayBuffer.load(tmp_path)) == contents(replay)


def test_files_of_evicted_rows_and_sets_vanish(directory):
    """The directory holds what the last two commits need, however long it is saved to."""
    replay = buffer(100, codec=RestlessZstd())
    writer, seen = Writer(replay), set()
    for _ in range(40):
        writer.add(10)
        replay.save(directory)
        seen |= set(sizes(directory))
        kept = [read_manifest(directory, n) for n in (MANIFEST, PREVIOUS) if (directory / n).exists()]
        expected = {entry.name for manifest in kept for entry in manifest.files()}
        assert set(sizes(directory)) == expected | {MANIFEST} | ({PREVIOUS} if len(kept) > 1 else set())
    assert len(seen) > 50 and len(sizes(directory)) < 40  # 14 of them of sets: more do not begin in a block of rows
    rows = [(entry.first, entry.end) for entry in kept[0].segments]
    assert rows[0][0] <= replay.store.tail < rows[0][1]


def test_another_buffer_in_the_same_directory_takes_it_over(directory):
    first, second = buffer(60), buffer(40, channels=3, frame_stack=2, codec="sparse")
    Writer(first).add(50)
    Writer(second).add(30)
    first.save(directory)
    commit = second.save(directory)
    assert contents(ReplayBuffer.load(directory)) == contents(second)
    second.save(directory)
    assert not any("rows-000000000000" in name and commit not in name for name in sizes(directory))
    first.save(directory)
    loaded = ReplayBuffer.load(directory)
    assert contents(loaded) == contents(first) and loaded.verify() == []


def test_two_buffers_of_one_snapshot_save_different_things(directory):
    replay = buffer(60)
    writer = Writer(replay)
    writer.add(50)
    replay.save(directory)
    one, two = ReplayBuffer.load(directory), ReplayBuffer.load(directory)
    Writer(one, 50).add(9)
    Writer(two, 1000).add(23)
    for saved in (one, two, one, replay, two, two, one):
        Writer(saved, 5000).add(3)
        saved.save(directory)
        loaded = ReplayBuffer.load(directory)
        assert contents(loaded) == contents(saved)
        assert loaded.verify() == []


def test_the_commit_before_can_be_gone_back_to(directory):
    replay = buffer(60)
    writer, commits = Writer(replay), []
    for _ in range(3):
        writer.add(20)
        commits.append((replay.save(directory), contents(replay)))
    for name, digest in commits[1:]:
        assert contents(ReplayBuffer.load(directory, commit=name)) == digest
    with pytest.raises(CorruptDataError) as info:
        ReplayBuffer.load(directory, commit=commits[0][0])
    says(info, f"expected commit {commits[0][0]}", f"got {commits[2][0]}", commits[1][0])
    gone_back = ReplayBuffer.load(directory, commit=commits[1][0])
    Writer(gone_back, 40).add(5)
    name = gone_back.save(directory)
    # What it added to stays: a program killed right now would go back to it once more.
    assert contents(ReplayBuffer.load(directory, commit=commits[1][0])) == commits[1][1]
    assert contents(ReplayBuffer.load(directory, commit=name)) == contents(gone_back)
    assert not any(commits[2][0] in file for file in sizes(directory))


def test_leftovers_of_a_crash_are_removed_and_other_files_are_not(directory):
    replay = buffer(60)
    writer = Writer(replay)
    writer.add(20)
    replay.save(directory)
    leftovers = ["rows-000000000020-0123456789abcdef.bin", "set-000003-0123456789abcdef.bin"]
    leftovers += ["manifest.json.0123456789abcdef", "previous.json.0123456789abcdef"]
    others = ["notes.txt", "rows-mine.bin", "set-of-photos.bin", "manifest.json.bak"]
    for name in leftovers + others:
        (directory / name).write_bytes(b"x")
    assert contents(ReplayBuffer.load(directory)) == contents(replay)
    writer.add(1)
    replay.save(directory)
    assert set(others) <= set(sizes(directory)) and not set(leftovers) & set(sizes(directory))


def test_a_full_disk_leaves_the_snapshot_as_it_was(directory):
    replay = buffer(200, codec="raw")
    writer = Writer(replay)
    writer.add(20)
    replay.save(directory)
    before = contents(replay)
    writer.add(100)
    with at_most(resource.RLIMIT_FSIZE, 10_000), pytest.raises(OSError, match="File too large"):
        replay.save(directory)
    assert contents(ReplayBuffer.load(directory)) == before
    replay.save(directory)
    loaded = ReplayBuffer.load(directory)
    assert contents(loaded) == contents(replay) and loaded.verify() == []


def test_sampling_goes_on_while_saving(directory):
    replay = buffer(3000)
    writer, drawn, stop = Writer(replay), [], threading.Event()
    writer.add(2000)

    def sample():
        while not stop.is_set():
            drawn.append(replay.sample(32, np.random.default_rng(len(drawn))))

    thread = threading.Thread(target=sample)
    thread.start()
    for saves in itertools.count():
        replay.save(directory)
        writer.add(5)
        if saves >= 15 and (len(drawn) > 5 or not thread.is_alive()):
            break
    stop.set()
    thread.join()
    assert len(drawn) > 5
    replay.save(directory)
    assert contents(ReplayBuffer.load(directory)) == contents(replay)


def test_another_process_saves_while_this_one_loads(directory):
    replay = buffer(100, codec=RestlessZstd())
    writer = Writer(replay)
    writer.add(100)
    replay.save(directory)
    child = os.fork()
    if not child:
        try:
            own = ReplayBuffer.load(directory, codec=RestlessZstd())
            writer = Writer(own, 100)
            while True:
                writer.add(20)
                own.save(directory)
        finally:
            os._exit(1)
    heads, loads = set(), 0
    try:
        while loads < 100 or len(heads) < 6:
            loaded = ReplayBuffer.load(directory, codec=RestlessZstd())
            loaded.check_invariants()
            heads.add(loaded.store.head)
            loads += 1
            assert runs(child)
    finally:
        kill(child)
        os.waitpid(child, 0)
    assert all(head % 20 == 0 for head in heads)


@pytest.mark.parametrize(
    ("where", "rounds", "case"),
    [("disk", 50, "many sets"), ("memory", 150, "many sets"), ("memory", 50, f"{SEVERAL}many sets")],
)
def test_a_killed_save_leaves_a_committed_state(where, rounds, case, directory, tmp_path):
    """250 times in all."""
    target = directory if where == "memory" else tmp_path
    command = [sys.executable, ROOT / "tests/kill_saver.py", target, str(rounds), "1", case]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=800)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["kept"] + seen["committed under way"] >= rounds
    assert seen["saves cut short"] > rounds // 4 and seen["committed under way"] > 0 and seen["rows"] > rounds


PEAK = """
import sys
from diffreplay import ReplayBuffer
def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
replay = ReplayBuffer.load(sys.argv[1])
print(status("VmHWM") - before, replay.stats().total_bytes)
"""


def test_loading_takes_no_second_copy(tmp_path):
    """Loading 200 MB peaks at no more than 1.15 times the buffer's size."""
    replay = ReplayBuffer(28_000, (1, 84, 84), (1,), action_dtype="int64", frame_stack=1, codec="raw")
    noise_steps(replay, 28_000, 0)
    replay.save(tmp_path)
    command = [sys.executable, "-c", PEAK, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=800, check=True)
    peak, size = map(int, done.stdout.split())
    assert size > 195e6 and size * 0.95 < peak < size * 1.15


def test_saving_takes_no_second_copy(tmp_path):
    replay = ReplayBuffer(14_000, (1, 84, 84), (1,), action_dtype="int64", frame_stack=1, codec="raw")
    noise_steps(replay, 14_000, 0)
    peak = -peak_bytes()
    replay.save(tmp_path)
    assert peak + peak_bytes() < 0.15 * replay.stats().total_bytes


def peak_bytes():
    """The largest size of this process since the last call, or now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    Path("/proc/self/clear_refs").write_text("5")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_a_codec_of_ones_own(directory):
    class Own(RestlessZstd):
        name = "own"

    replay = buffer(50, codec=Own())
    Writer(replay).add(40)
    replay.save(directory)
    with pytest.raises(UnknownCodecError) as info:
        ReplayBuffer.load(directory)
    says(info, "codec: | instance | 'own' | got none", directory)
    with pytest.raises(InputError) as info:
        ReplayBuffer.load(directory, codec="raw")
    says(info, "codec: | expected 'own' | got 'raw'", directory)
    assert contents(ReplayBuffer.load(directory, codec=Own())) == contents(replay)


def test_where_there_is_no_snapshot(directory, tmp_path):
    for path, expected in {
        directory / "nowhere": "manifest.json, and there is no such folder",
        tmp_path: "manifest.json",
        Path(__file__): "manifest.json",
    }.items():
        with pytest.raises(CorruptDataError) as info:
            ReplayBuffer.load(path)
        says(info, f"{path}:", expected)
    with pytest.raises(OSError):
        buffer(50).save(__file__)
    assert buffer(50).verify() == []


def test_a_process_that_did_not_make_the_buffer_may_not_save_it(directory):
    replay = buffer(50)
    child = os.fork()
    if not child:
        try:
            replay.save(directory)
        except ReadOnlyError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

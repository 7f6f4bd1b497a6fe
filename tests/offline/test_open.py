"""A snapshot that is open holds what was saved, whatever becomes of its files, and says which of them is damaged."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from says import says
from snapshot_tools import (
    CASES,
    SEVERAL,
    Writer,
    buffer,
    make_directory,  # noqa: F401
    own_codec,
    reseal,
    sizes,
)
from together import run_together

import diffreplay
from diffreplay import Priorities, ReplayBuffer, make_replay_loader
from diffreplay.errors import CorruptDataError, EmptyBufferError, InputError, ReadOnlyError, ReplayError
from diffreplay.snapshots.manifest import read_manifest
from diffreplay.store import Index

KINDS = [{}, {"sequence_length": 5}]


def flat(batch):
    """All tensors of a batch, by name; what is there for several parts of an observation, of each."""
    found = {}
    for name, value in vars(batch).items():
        if isinstance(value, torch.Tensor | dict):
            parts = value if isinstance(value, dict) else {"": value}
            found |= {f"{name}/{part}": tensor.numpy().tobytes() for part, tensor in parts.items()}
    return found


def batches(replay, count=4, **kind):
    """Some batches, by seed alone."""
    return [flat(replay.sample(16, np.random.default_rng(seed), **kind)) for seed in range(count)]


def filled(directory, case="", saves=3, steps=70, capacity=120, **options):
    """A buffer from which rows have left, saved several times; small files are merged."""
    replay = buffer(capacity, case=case, **options)
    writer = Writer(replay)
    for _ in range(saves):
        writer.add(steps)
        replay.save(directory)
    return replay, writer


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("nstep", [1, 3])
def test_it_gives_what_the_buffer_does(directory, case, nstep):
    replay, _ = filled(directory, case, nstep=nstep)
    offline = diffreplay.open(directory, codec=own_codec(case))
    assert len(offline) == len(replay) and offline.can_sample()
    for kind in KINDS:
        assert batches(offline, **kind) == batches(replay, **kind)
    assert offline.indices().tolist() == replay.indices().tolist()
    ours, theirs = offline.stats(), replay.stats()
    for name in ("transitions", "frames", "payload_bytes", "reference_bytes", "scalar_bytes", "stacked_bytes"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.total_bytes == sum(size for name, size in sizes(directory).items() if name in named(directory))
    assert offline.verify() == []
    loaded = ReplayBuffer.load(directory, codec=own_codec(case))
    assert len(loaded) == len(offline) and loaded.indices().tolist() == offline.indices().tolist()


def named(directory):
    return {entry.name for entry in read_manifest(directory).files()}


def test_windows_that_are_shorter_at_the_end_of_an_episode_that_ended_after_a_save(directory):
    """The flag of that row was saved before it was known; nor does an episode that goes on end."""
    replay = buffer(200, nstep=4, shorter_at_end=True, codec="delta")
    for episode in range(12):
        for step in range(9):
            frame = np.full((9, 16, 16), episode * 9 + step, np.uint8)[:3]
            replay.add(diffreplay.testing.TimeStep(frame, np.array([step]), 1.0, 1.0, step == 0, False), 0)
        replay.save(directory)  # that the episode ends here is known only when the next one begins
    offline = diffreplay.open(directory)
    assert offline.indices().tolist() == replay.indices().tolist()
    assert batches(offline, 8) == batches(replay, 8)


def test_many_small_saves(directory):
    replay, _ = filled(directory, "delta", saves=150, steps=3, capacity=1000)
    assert len(read_manifest(directory).segments) > 4
    offline = diffreplay.open(directory)
    assert batches(offline, 20) == batches(replay, 20)


def test_a_row_whose_number_is_far_beyond_a_block(directory):
    """Blocks hold rows of several files, and files rows of several blocks; most rows have left."""
    replay, _ = filled(directory, "delta", saves=9, steps=700, capacity=2500)
    offline = diffreplay.open(directory)
    for kind in KINDS:
        assert batches(offline, 10, **kind) == batches(replay, 10, **kind)
    assert offline.indices().tolist() == replay.indices().tolist()


def test_what_was_saved_before_counts_were_told(directory):
    """Counting takes reading all of it, and sampling does not."""
    replay, _ = filled(directory, "delta")
    reseal(directory, lambda fields: fields | {"buffer": {k: v for k, v in fields["buffer"].items() if k != "held"}})
    offline = diffreplay.open(directory)
    assert batches(offline, 1) == batches(replay, 1)
    assert len(diffreplay.open(directory)) == len(replay)
    assert offline.stats().frames == replay.stats().frames and offline.stats().payload_bytes > 0


@pytest.mark.parametrize("held", [7, {"transitions": -1, "payload_bytes": 0, "frames": 0}, {"transitions": 1}])
def test_counts_that_make_no_sense(directory, held):
    filled(directory)
    reseal(directory, lambda fields: fields | {"buffer": fields["buffer"] | {"held": held}})
    with pytest.raises(CorruptDataError, match="makes no sense"):
        diffreplay.open(directory)


def damage(path):
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("case", ["delta", "zstd", "sparse", SEVERAL + "delta"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_damaged_file_is_named_when_it_is_touched_and_no_wrong_frame_comes(directory, monkeypatch, case, when):
    monkeypatch.setattr("diffreplay.snapshots.segments.SEGMENT_ROWS", 200)
    replay, _ = filled(directory, case, saves=1, steps=2400, capacity=4000)
    offline = diffreplay.open(directory) if when == "after" else None
    segments = read_manifest(directory).segments
    segment = segments[0].name
    assert len(segments) > 5
    damage(directory / segment)
    offline = offline or diffreplay.open(directory)
    raised = 0
    for seed in range(40):
        try:
            found = flat(offline.sample(1, np.random.default_rng(seed)))
        except CorruptDataError as error:
            says(error, directory / segment, "expected checksum")
            raised += 1
        else:
            assert found == flat(replay.sample(1, np.random.default_rng(seed)))
    assert 0 < raised < 40
    (problem,) = offline.verify()
    says(problem, directory / segment, "expected checksum")
    with pytest.raises(CorruptDataError, match=segment):
        diffreplay.open(directory, verify=True)


def test_damaged_reference_frames_are_named_when_a_frame_needs_them(directory):
    filled(directory, "delta", saves=1, steps=3000, capacity=4000)
    last = read_manifest(directory).sets[0][-1].name
    damage(directory / last)
    offline = diffreplay.open(directory)
    with pytest.raises(CorruptDataError, match=last):
        offline.sample(64)


@pytest.mark.parametrize("how", ["missing", "shorter", "longer"])
def test_a_file_that_is_not_whole_is_refused_at_once(directory, how):
    filled(directory, "delta")
    path = directory / read_manifest(directory).segments[-1].name
    if how == "missing":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size + (1 if how == "longer" else -1))
    with pytest.raises(CorruptDataError, match=path.name):
        diffreplay.open(directory)


def test_a_file_that_is_cut_after_it_was_opened_kills_nobody(directory):
    filled(directory, "raw", saves=1, steps=2000, capacity=3000)
    program = f"""
import os, diffreplay
from pathlib import Path
offline = diffreplay.open({str(directory)!r})
for path in Path({str(directory)!r}).glob("rows-*"):
    os.truncate(path, 100)
try:
    offline.sample(16)
except diffreplay.errors.CorruptDataError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, (run.returncode, run.stderr)
    says(run.stdout, "rows-0", "expected ", "got 100")


@pytest.mark.parametrize("touched", [True, False])
def test_it_stays_as_it_was_when_its_writer_saves_over_it(directory, touched):
    replay, writer = filled(directory, "delta", steps=300)
    before, opened = batches(replay), diffreplay.open(directory)
    if touched:
        assert batches(opened, 2) == before[:2]
    files = named(directory)
    for _ in range(3):
        writer.add(300)
        replay.save(directory)
    assert not files & set(sizes(directory)), "all of its files are gone"
    assert batches(opened) == before
    assert opened.verify() == []
    assert batches(diffreplay.open(directory)) == batches(replay) != before
    with pytest.raises(CorruptDataError, match=f"expected commit {opened.commit}"):
        pickle.loads(pickle.dumps(opened)).sample(1)


def test_the_commit_before(directory):
    replay, writer = filled(directory, saves=1)
    first, before = read_manifest(directory).commit, batches(replay)
    writer.add(50)
    replay.save(directory)
    offline = diffreplay.open(directory, commit=first)
    assert offline.commit == first and batches(offline) == before


WAYS = [
    {"num_workers": 0},
    {"num_workers": 2, "threads": True},
    *({"num_workers": 2, "multiprocessing_context": method} for method in ("fork", "spawn", "forkserver")),
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.get("multiprocessing_context", way["num_workers"])))
@pytest.mark.parametrize("kind", KINDS)
def test_loaders(directory, way, kind):
    """They give what loaders over the buffer do; workers check each file once among them."""
    replay, _ = filled(directory, "delta", steps=300, capacity=700)
    offline = diffreplay.open(directory)
    plain = iter(make_replay_loader(replay, batch_size=8, num_workers=0, seed=5, **kind))
    loader = iter(make_replay_loader(offline, batch_size=8, seed=5, **way, **kind))
    for _ in range(6):
        assert flat(next(loader)) == flat(next(plain))
    assert offline.reader.frames._ready.any(), "what workers found out is known here, too"


def test_a_mixture_of_what_is_added_and_what_was_saved(directory):
    replay, _ = filled(directory, "delta")
    offline = diffreplay.open(directory)
    loader = iter(make_replay_loader([replay, offline], batch_size=8, num_workers=0, fractions=[0.5, 0.5]))
    for batch in (next(loader) for _ in range(4)):
        assert batch.source.tolist() == [0] * 4 + [1] * 4
        assert all(int(index) in replay.indices() for index in batch.index)


def test_a_worker_that_finds_damage_says_which(directory):
    filled(directory, "raw", saves=1, steps=300, capacity=400)
    segment = read_manifest(directory).segments[0].name
    damage(directory / segment)
    loader = make_replay_loader(
        diffreplay.open(directory), batch_size=4, num_workers=1, multiprocessing_context="forkserver"
    )
    with pytest.raises(ReplayError, match=segment):
        next(iter(loader))


def test_workers_that_come_too_late_for_its_files_say_so(directory):
    """One that is spawned maps the files by their names; one that is forked has them."""
    replay, writer = filled(directory, "delta", steps=300)
    before, opened = batches(replay, 1), diffreplay.open(directory)
    for _ in range(3):
        writer.add(300)
        replay.save(directory)
    loader = make_replay_loader(opened, batch_size=16, num_workers=1, multiprocessing_context="spawn")
    with pytest.raises(ReplayError) as error:
        next(iter(loader))
    forked = make_replay_loader(opened, batch_size=16, num_workers=1, multiprocessing_context="fork")
    batch = next(iter(forked))
    assert set(batch.index.tolist()) <= set(opened.indices().tolist()) and before == batches(opened, 1)
    says(error, "worker")


def sample_there(replay, queue):
    queue.put(flat(replay.sample(16, np.random.default_rng(3))))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_any_process_opens_it_by_its_pickle(directory, method):
    replay, _ = filled(directory, "delta")
    offline = diffreplay.open(directory)
    assert batches(pickle.loads(pickle.dumps(offline))) == batches(replay)
    assert len(pickle.dumps(offline)) < 1000
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    other = context.Process(target=sample_there, args=(offline, queue))
    other.start()
    assert queue.get(timeout=100) == flat(replay.sample(16, np.random.default_rng(3)))
    other.join()


def fill_and_wait(reader, at, pipe):
    """Take some files, and be killed in the middle of the next one."""
    frames = reader.frames
    take, taken = frames._take, []

    def slow(number):
        taken.append(number)
        if len(taken) == at:
            pipe.send(number)
            time.sleep(100)
        take(number)

    frames._take = slow
    frames.fill_all()


def test_a_process_that_is_killed_while_it_checks_a_file_keeps_nobody_from_it(directory):
    replay, _ = filled(directory, "raw", saves=1, steps=9000, capacity=10_000)
    offline = diffreplay.open(directory)
    context = multiprocessing.get_context("spawn")
    for at in (1, 2):
        ours, theirs = context.Pipe()
        other = context.Process(target=fill_and_wait, args=(offline.reader, at, theirs))
        other.start()
        assert ours.poll(100)
        assert offline.reader.frames._ready.sum() == at - 1
        os.kill(other.pid, signal.SIGKILL)
        other.join()
    assert batches(offline) == batches(replay)


def save_and_save(directory, pipe):
    replay, writer = filled(Path(directory), "delta", saves=1, steps=100)
    pipe.send("saved")
    while not pipe.poll():
        writer.add(40)
        replay.save(directory)


def test_a_snapshot_that_is_saved_over_all_the_time_is_opened_whole(directory):
    """Each step's action tells its number, and its frames what they are to show."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    other = context.Process(target=save_and_save, args=(str(directory), theirs))
    other.start()
    assert ours.poll(100) and ours.recv() == "saved"
    commits = set()
    oracle = Writer(buffer(2000, case="delta"))
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        offline = diffreplay.open(directory)
        commits.add(offline.commit)
        batch = offline.sample(8)
        last = int(batch.action.max())
        if last >= oracle.steps and last < 1900:
            oracle.add(last + 1 - oracle.steps)
        for k in range(8):
            if last < 1900:
                assert torch.equal(batch.obs[k], expected(oracle, int(batch.index[k]))), "rows are steps here"
    ours.send("stop")
    other.join(100)
    assert other.exitcode == 0 and len(commits) > 3


def expected(oracle, row):
    """The observation of the step in a row: the writer's steps take one row each."""
    replay = oracle.replay
    rows = replay.store.stacks(np.array([row]))[0]
    return torch.from_numpy(np.concatenate(replay.store.read(rows).transpose(0, 3, 1, 2)))


def test_it_takes_no_memory_of_its_own_for_frames(directory):
    filled(directory, "raw", saves=1, steps=12_000, capacity=20_000, channels=3)
    program = f"""
import diffreplay
def own():
    lines = open("/proc/self/status").read().splitlines()
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))]
    return sum(kilobytes) * 1024
offline = diffreplay.open({str(directory)!r})
offline.sample(16)
before = own()
offline.reader.frames.fill_all()
offline.sample(256)
print(own() - before, offline.stats().total_bytes)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    more, total = map(int, run.stdout.split())
    assert total > 9e6 and more < total / 3


def test_it_refuses_to_be_written_to(directory):
    filled(directory)
    offline = diffreplay.open(directory)
    for call in (offline.add, offline.add_transition, offline.add_batch, offline.save):
        with pytest.raises(ReadOnlyError) as error:
            call(1)
        says(error, "ReplayBuffer.load", directory)


def test_saved_priorities_go_on(directory):
    replay, _ = filled(directory, "delta", saves=1)
    priorities = Priorities(replay, alpha=0.7)
    index, _ = priorities.draw(16, np.random.default_rng(0))
    priorities.update(index, np.arange(16.0))
    replay.save(directory)
    offline = diffreplay.open(directory)
    others = Priorities(offline, alpha=0.7)
    for seed in range(3):
        ours, theirs = (each.draw(16, np.random.default_rng(seed)) for each in (priorities, others))
        assert ours[0].tolist() == theirs[0].tolist() and ours[1].tolist() == theirs[1].tolist()
    with pytest.raises(InputError, match="alpha"):
        Priorities(diffreplay.open(directory), alpha=0.5)
    damage(directory / read_manifest(directory).priorities[0].name)
    with pytest.raises(CorruptDataError, match="priorities-"):
        Priorities(diffreplay.open(directory), alpha=0.7)


def test_priorities_stay_when_they_are_saved_over(directory):
    replay, writer = filled(directory, "delta", saves=1)
    priorities = Priorities(replay)
    replay.save(directory)
    offline = diffreplay.open(directory)
    for _ in range(2):
        writer.add(10)
        replay.save(directory)
    others, rng = Priorities(offline), np.random.default_rng(0)
    assert set(others.draw(64, rng)[0].tolist()) <= set(offline.indices().tolist()) and priorities is not None


def test_stacks_are_right_where_another_process_fills_the_index_meanwhile(directory, monkeypatch):
    replay, writer = filled(directory, "raw", saves=1, steps=80, frame_stack=3)  # which cuts episodes in two
    writer.add(30)
    replay.save(directory)
    offline, truth = diffreplay.open(directory), diffreplay.open(directory)
    mine = offline.reader.frames
    _, last = mine.files.manifest.segments[-2:]
    rows = np.arange(last.first, last.first + 3)
    other = pickle_by_multiprocessing(mine)
    look, looked = Index.stacks, []

    def stacks(self, rows, frame_stack):
        found = look(self, rows, frame_stack)
        if self is mine.index and not looked:
            looked.append(True)
            other.fill_all()  # between what is found and whether it is ready
        return found

    monkeypatch.setattr(Index, "stacks", stacks)
    assert mine.stacks(rows).tolist() == truth.reader.frames.stacks(rows).tolist()
    assert looked


def pickle_by_multiprocessing(value):
    """What another process gets of it, in this one."""
    return pickle.loads(ForkingPickler.dumps(value))


def test_threads_of_several_processes_fill_the_index_at_once(directory):
    filled(directory, "delta", saves=6, steps=300, capacity=5000)
    offline = diffreplay.open(directory)
    frames = offline.reader.frames
    read = frames.files.checked
    frames.files.checked = lambda entry: (time.sleep(0.02), read(entry))[1]
    expected = diffreplay.open(directory).indices().tolist()
    processes = [multiprocessing.get_context("fork").Process(target=fill_in_threads, args=(frames,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert offline.indices().tolist() == expected


def fill_in_threads(frames):
    """Ask for rows of all files, in different order in each of four threads."""
    firsts = np.array([entry.first for entry in frames.files.manifest.segments])

    def ask(seed):
        for first in np.random.default_rng([os.getpid(), seed]).permutation(firsts).tolist():
            frames.column("flags", np.array([first]))

    run_together(*(partial(ask, seed) for seed in range(4)))


def test_a_file_that_was_replaced_since_is_not_believed(directory):
    filled(directory, "raw", saves=2)
    offline = diffreplay.open(directory, verify=True)
    entry = read_manifest(directory).segments[0]
    data = bytearray((directory / entry.name).read_bytes())
    data[-5] ^= 1
    (directory / "new").write_bytes(data)
    (directory / "new").rename(directory / entry.name)
    with pytest.raises(CorruptDataError, match="expected the file that was opened, got another one"):
        pickle_by_multiprocessing(offline.reader.frames)


def test_nothing_to_open_and_nothing_in_it(directory):
    with pytest.raises(CorruptDataError, match="expected a snapshot"):
        diffreplay.open(directory)
    buffer(50).save(directory)
    offline = diffreplay.open(directory)
    assert len(offline) == 0 and not offline.can_sample() and offline.indices().tolist() == []
    with pytest.raises(EmptyBufferError):
        offline.sample(4)
    assert "0 transitions" in repr(offline)

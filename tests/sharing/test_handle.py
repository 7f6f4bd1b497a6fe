"""A buffer's handle: small, good in any process of this user, and clear about why it is not anywhere else."""

from __future__ import annotations

import copy
import gc
import io
import multiprocessing
import os
import pickle
import signal
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import Foreign
from interrupts import interrupted
from processes import left_of, open_files, runs
from says import says

import diffreplay
from diffreplay import ArraySpec, ReplayBuffer, ReplayDataset, ReplayHandle, make_replay_loader
from diffreplay.codecs import RawCodec
from diffreplay.errors import InputError, ReadOnlyError, SharedMemoryError

SHAPE = (3, 16, 16)


def add(replay, steps, first=0):
    """Steps of one episode: the pixels of an observation are the number of the action that follows."""
    for t in range(first, first + steps):
        obs, next_obs = (np.full(SHAPE, (t + k) % 256, np.uint8) for k in range(2))
        replay.add_transition(obs, [t], float(t), next_obs, False, False)


def filled(steps=40, **options):
    replay = ReplayBuffer(1000, SHAPE, (1,), action_dtype="int64", **options)
    add(replay, steps)
    return replay


RIGHT = """
def right(batch):
    assert all((obs == int(t) % 256).all() for obs, t in zip(batch.obs, batch.action[:, 0]))
    return batch.action[:, 0].tolist()
"""
exec(RIGHT)


@pytest.fixture(scope="module")
def foreign():
    """One for all tests that leave it as it was, as starting one takes seconds."""
    with Foreign() as process:
        process.run("import os, pickle\nimport diffreplay, numpy as np" + RIGHT)
        yield process


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, for this test alone."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def sockets(folder):
    return [path for path in folder.rglob("*") if path.is_socket()]


# What it is.

MANY = {
    "plain": lambda: filled(),
    "full size": lambda: ReplayBuffer(1_000_000, (9, 84, 84), (6,), nstep=3),
    "cameras": lambda: ReplayBuffer(
        1000,
        {name: ArraySpec((3, 64, 64)) for name in ("front", "left", "right", "wrist")}
        | {"depth": ArraySpec((1, 64, 64), "uint16"), "state": ArraySpec((24,), "float32")},
        (6,),
        extras={"log_prob": ArraySpec((), "float32")},
    ),
}


@pytest.mark.parametrize("kind", MANY)
def test_it_is_small_whatever_the_pickle(kind):
    handle = MANY[kind]().handle()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert len(pickle.dumps(handle, protocol)) < 5000
    file = io.BytesIO()
    torch.save(handle, file)
    file.seek(0)
    for again in (copy.copy(handle), copy.deepcopy(handle), torch.load(file, weights_only=False)):
        assert isinstance(again, ReplayHandle) and len(again) == len(handle)


@pytest.mark.parametrize("codec", diffreplay.codecs.REGISTRY)
def test_a_foreign_process_reads_what_is_written_before_and_after(foreign, codec):
    replay = filled(codec=codec, nstep=2, discount=0.5)
    draw = "answer = right(handle.sample(64, np.random.default_rng(3)))"
    handle = replay.handle()
    assert foreign.run(draw, handle=handle) == right(replay.sample(64, np.random.default_rng(3)))  # noqa: F821
    add(replay, 60, 40)
    assert foreign.run(draw) == right(handle.sample(64, np.random.default_rng(3)))  # noqa: F821
    assert foreign.run("answer = len(handle), handle.can_sample(), handle.stats()") == (100, True, replay.stats())
    assert foreign.run("answer = handle.indices(9).tolist()") == replay.indices(9).tolist()
    longer = foreign.run("answer = handle.sample(4, np.random.default_rng(3), sequence_length=5)")
    assert torch.equal(longer.obs, replay.sample(4, np.random.default_rng(3), sequence_length=5).obs)
    batch = foreign.run("answer = handle.sample(64, np.random.default_rng(3))")
    assert all(torch.equal(*pair) for pair in zip(batch, replay.sample(64, np.random.default_rng(3)), strict=True))


def test_observations_of_several_parts(foreign):
    spec = {"eye": ArraySpec((8, 8, 3), layout="HWC"), "depth": ArraySpec((1, 8, 8), "uint16")}
    spec["state"] = ArraySpec((2,))
    options = {"channels_first": True, "shorter_at_end": True, "extras": {"weight": ArraySpec((), "float64")}}
    replay = ReplayBuffer(50, spec, (), frame_stack=1, nstep=3, **options)
    for t in range(20):
        obs, after = ({k: np.full(s.shape, t + n, s.dtype) for k, s in spec.items()} for n in range(2))
        replay.add_transition(obs, t, t, after, t == 19, False, extras={"weight": t})
    foreign.run("batch = handle.sample(32, np.random.default_rng(1))", handle=replay.handle())
    found = foreign.run("answer = [tensor.numpy() for tensor in batch.tensors()]")  # PyTorch pickles no uint16
    expected = replay.sample(32, np.random.default_rng(1)).tensors()
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(found, expected, strict=True))
    assert foreign.run("answer = {name: tuple(part.shape) for name, part in batch.obs.items()}") == {
        "eye": (32, 3, 8, 8),
        "depth": (32, 1, 8, 8),
        "state": (32, 2),
    }


def test_it_goes_from_hand_to_hand(foreign):
    """Before it was used there and after; what it came by may have ended."""
    replay = filled()
    with Foreign() as other:
        for use in ("", "handle.sample(3)"):
            data = other.run(f"{use}\nimport pickle\nanswer = pickle.dumps(handle)", handle=replay.handle())
            assert foreign.run("handle = pickle.loads(data)\nanswer = len(handle)", data=data) == 40
    assert foreign.run("answer = right(handle.sample(4)) and len(pickle.loads(data))") == 40


def test_each_process_draws_for_itself(foreign):
    replay = filled()
    source = "answer = [right(h.sample(16)) for h in (handle, pickle.loads(pickle.dumps(handle)))]"
    draws = [*foreign.run(source, handle=replay.handle()), *foreign.run(source)]
    assert len({tuple(draw) for draw in draws}) == 4
    ours = [replay.handle().sample(16).action.tolist() for _ in range(2)]
    assert ours == [filled().handle().sample(16).action.tolist(), ours[1]], "where it was made, it is the buffer's own"


def test_it_never_writes(foreign):
    handle = filled().handle()
    for name in ("add", "add_transition", "add_batch", "save"):
        with pytest.raises(ReadOnlyError) as told:
            foreign.run(f"handle.{name}(1, 2, 3)", handle=handle)
        says(told, "ReplayBuffer | ReplayHandle | process")
    assert handle.handle() is handle
    with pytest.raises(InputError, match=r"^batch_size"):
        handle.sample(0)


def test_loaders_and_datasets_take_it(foreign):
    replay = filled()
    loader = make_replay_loader(replay, 8, num_workers=0, seed=2)
    expected = [right(batch) for batch, _ in zip(loader, range(6))]  # noqa: B905, F821
    for options in ("num_workers=0", "num_workers=2", "num_workers=2, threads=True"):
        source = f"""
        loader = diffreplay.make_replay_loader(handle, 8, {options}, seed=2)
        answer = [right(batch) for batch, _ in zip(loader, range(6))]
        del loader
        """
        assert foreign.run(textwrap.dedent(source), handle=replay.handle()) == expected
    source = """
    from torch.utils.data import DataLoader
    plain = DataLoader(diffreplay.ReplayDataset(handle, 8, 2), None, num_workers=2, multiprocessing_context="spawn")
    answer = [right(batch) for batch, _ in zip(plain, range(6))]
    del plain
    """
    assert foreign.run(textwrap.dedent(source)) == expected
    (ours,) = (batch for batch, _ in zip(ReplayDataset(replay.handle(), 8, 2), range(1)))  # noqa: B905
    assert right(ours) == expected[0]  # noqa: F821


def test_killed_workers_of_a_loader_over_it_are_replaced():
    replay = filled()
    expected = [b.action.tolist() for b, _ in zip(make_replay_loader(replay, 8, 0, seed=2), range(30))]  # noqa: B905
    with Foreign() as foreign:
        source = """
        import diffreplay, multiprocessing
        batches = iter(diffreplay.make_replay_loader(handle, 8, num_workers=2, seed=2))
        found = [next(batches).action.tolist()]
        answer = [worker.pid for worker in multiprocessing.active_children()]
        """
        workers = foreign.run(textwrap.dedent(source), handle=replay.handle())
        assert workers
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        source = "found += [next(batches).action.tolist() for _ in range(29)]\nanswer = found"
        assert foreign.run(source) == expected
        workers = foreign.run("answer = [worker.pid for worker in multiprocessing.active_children()]")
    assert not left_of(workers), "nor does one outlive whom it works for"


# What it is not.


def write(foreign, ending=""):
    """Have a foreign process make a buffer; its handle."""
    source = f"""
    import numpy as np, diffreplay
    replay = diffreplay.ReplayBuffer(1000, {SHAPE}, (1,), action_dtype="int64")
    for t in range(100):
        obs, after = (np.full({SHAPE}, t + k, np.uint8) for k in range(2))
        replay.add_transition(obs, [t], t, after, False, False)
    answer = replay.handle()
    """
    return foreign.run(textwrap.dedent(source) + ending)


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "ended"])
def test_readers_outlive_the_writer_and_newcomers_are_told(foreign, temporary, killed):
    with Foreign({"TMPDIR": str(temporary)}) as writer:
        handle = write(writer)
        data = pickle.dumps(handle)
        assert len(sockets(temporary)) == 1
        assert foreign.run("answer = len(handle)", handle=handle) == 100
        foreign.send("seen = [right(handle.sample(64)) for _ in range(200)]\nanswer = len(handle), handle.sample(4)")
        assert len(handle) == 100
        if killed:
            writer.kill()
        else:
            assert writer.end() == 0 and not list(temporary.iterdir())
    assert foreign.answer()[0] == 100
    assert right(handle.sample(64)) and foreign.run("answer = right(handle.sample(64))")  # noqa: F821
    loader = make_replay_loader(handle, 16, num_workers=1)
    assert right(next(iter(loader)))  # noqa: F821
    for use in (len, lambda late: late.sample(8), make_replay_loader, ReplayDataset):
        with pytest.raises(SharedMemoryError) as told:
            use(pickle.loads(data))
        says(told, f"process {writer.pid} | has ended | another machine | container")
        assert "\n" not in str(told.value)


def test_a_writer_that_let_go_of_its_buffer(temporary):
    before = open_files()
    replay = filled()
    handle, data = replay.handle(), pickle.dumps(replay.handle())
    del replay
    gc.collect()
    assert len(pickle.loads(data)) == 40, "a handle has the memory, as a reader has"
    del handle
    assert open_files(before) == before and not list(temporary.iterdir())
    with pytest.raises(SharedMemoryError, match="has let go of the buffer"):
        len(pickle.loads(data))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_socket_goes_with_a_writer_of_multiprocessing(temporary, method):
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=write_and_end, args=(theirs, str(temporary)))
    process.start()
    assert ours.poll(200)
    handle = pickle.loads(ours.recv())
    assert len(handle) == 40 and len(sockets(temporary)) == 1
    ours.send("end")
    process.join(200)
    assert process.exitcode == 0 and not list(temporary.iterdir())
    assert len(handle) == 40


def write_and_end(pipe, folder):
    import tempfile

    tempfile.tempdir = folder
    replay = filled()
    pipe.send(pickle.dumps(replay.handle()))
    pipe.recv()


def test_a_child_may_use_it_first_when_its_writer_has_come_to_its_end(tmp_path):
    """The program's last line is behind, and multiprocessing waits for the child."""
    (tmp_path / "program.py").write_text(
        textwrap.dedent(f"""
        import multiprocessing, sys, time
        sys.path.append({str(Path(__file__).parent)!r})
        import diffreplay

        def late(handle):
            time.sleep(0.5)
            print(len(handle), flush=True)

        if __name__ == "__main__":
            replay = diffreplay.ReplayBuffer(100, (3, 8, 8), (1,))
            multiprocessing.get_context("spawn").Process(target=late, args=(replay.handle(),)).start()
        """)
    )
    with Foreign() as foreign:
        command = [foreign.run("import sys\nanswer = sys.executable"), "program.py"]
        source = "import subprocess\nanswer = subprocess.run(command, cwd=folder, capture_output=True, text=True)"
        done = foreign.run(source, command=command, folder=str(tmp_path))
    assert done.stdout == "0\n" and done.returncode == 0, done.stderr


root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@root
def test_another_user_is_told_so(foreign):
    with Foreign() as other:
        other.run("import os, pickle, diffreplay\nos.setuid(65534)")
        replay = filled()
        with pytest.raises(SharedMemoryError) as told:
            other.run("answer = len(pickle.loads(data))", data=pickle.dumps(replay.handle()))
        says(told, "user 0 | user 65534")
        with pytest.raises(SharedMemoryError) as told:
            len(write(other))
        says(told, "user 0 | user 65534")


class Own(RawCodec):
    """A codec of one's own, which another process finds by its module's name."""


def test_a_codec_of_one_s_own(foreign, tmp_path):
    (tmp_path / "own_codec.py").write_text("import diffreplay\nclass Own(diffreplay.codecs.RawCodec): name = 'own'")
    with Foreign({"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}) as other:
        other.run("import diffreplay, own_codec, pickle")
        other.run("replay = diffreplay.ReplayBuffer(9, (3, 8, 8), (), codec=own_codec.Own())")
        data = other.run("answer = pickle.dumps(replay.handle())")
        assert other.run("answer = len(pickle.loads(data))", data=data) == 0
        with pytest.raises(SharedMemoryError) as told:
            foreign.run("answer = len(pickle.loads(data))", data=data)
    says(told, "codec | own_codec | import")


def test_a_codec_that_cannot_be_pickled():
    class Local(RawCodec):
        name = "local"

    with pytest.raises(InputError) as told:
        filled(codec=Local()).handle()
    says(told, "codec | pickle | Local | top of a module")


# How the system is used.


def test_all_handles_of_a_buffer_share_a_socket(temporary):
    replay, other = filled(), filled()
    with ThreadPoolExecutor(8) as threads:
        handles = list(threads.map(lambda _: replay.handle(), range(16)))
    (socket,) = sockets(temporary)
    assert socket.stat().st_mode & 0o777 == 0o600 and socket.parent.stat().st_mode & 0o777 == 0o700
    assert {len(pickle.loads(pickle.dumps(handle))) for handle in handles} == {40}
    other.handle()
    assert len(sockets(temporary)) == 2


def test_threads_may_use_one_handle_for_the_first_time():
    replay = filled()
    handle = pickle.loads(pickle.dumps(replay.handle()))
    with ThreadPoolExecutor(8) as threads:
        draws = list(threads.map(lambda _: tuple(right(handle.sample(32))), range(32)))  # noqa: F821
    assert len(set(draws)) == 32


@pytest.mark.parametrize("length", [50, 107, 300, 3000])
def test_temporary_files_may_lie_deep(monkeypatch, foreign, tmp_path, length):
    folder = tmp_path
    while len(str(folder)) < length:
        folder /= "x" * min(100, length - len(str(folder)))
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    replay = filled()
    assert foreign.run("answer = right(handle.sample(8))", handle=replay.handle())
    assert len(list(folder.iterdir())) == 1
    del replay
    gc.collect()
    assert not list(folder.iterdir())


def test_no_folder_for_temporary_files(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    before = open_files()
    replay = filled()
    with pytest.raises(SharedMemoryError) as told:
        replay.handle()
    says(told, "TMPDIR | /proc/nowhere")
    monkeypatch.undo()
    assert len(pickle.loads(pickle.dumps(replay.handle()))) == 40
    del replay, told
    assert open_files(before) == before


def test_an_interrupt_anywhere_leaves_nothing_open(temporary):
    before, place, cut = open_files(), 0, True
    while cut:
        replay = filled(2)
        cut = interrupted(replay.handle, place)
        assert len(pickle.loads(pickle.dumps(replay.handle()))) == 2
        place += 1
    assert place > 20
    del replay
    assert open_files(before) == before and not list(temporary.iterdir())


# In processes that are forked.

FORKING = """
import os, pickle
import diffreplay
from tests.sharing.test_handle import filled, right

def in_child(call, soon=True):
    "What a call gives in a forked child, which then ends: as a program does, where that may take its time."
    read, write = os.pipe()
    if not (child := os.fork()):
        os.write(write, pickle.dumps(call()))
        if soon:
            os._exit(0)
        raise SystemExit
    os.close(write)
    with open(read, "rb") as file:
        answer = pickle.load(file)
    assert os.waitpid(child, 0)[1] == 0
    return answer

def handed():
    try:
        return len(pickle.loads(pickle.dumps(replay.handle())))
    except diffreplay.errors.ReadOnlyError as error:
        return str(error)

def sockets():
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return sum(os.path.exists(link) and os.readlink(link).startswith("socket:") for link in links)

replay = filled()
answer = in_child(handed), handed(), in_child(handed)
handle = replay.handle()
data = pickle.dumps(handle)
"""


@pytest.fixture
def forking(temporary):
    """A process that has a buffer, and is told to fork; and what it found at first."""
    with Foreign({"TMPDIR": str(temporary)}) as process:
        yield process, process.run(FORKING)


def test_a_forked_child_has_no_part_in_it(forking, temporary):
    process, (before, own, after) = forking
    says(before, "handle | forked | process that made the buffer")
    assert own == after == 40, "what its parent serves goes on from a child"
    assert process.run("answer = sockets(), in_child(sockets), in_child(lambda: in_child(sockets))") == (1, 0, 0)
    assert process.run("answer = in_child(lambda: (len(pickle.loads(data)), len(right(handle.sample(9)))))") == (40, 9)
    assert process.run("answer = in_child(sockets, soon=False), handed()") == (0, 40)
    assert len(sockets(temporary)) == 1
    assert process.end() == 0 and not list(temporary.iterdir())


def test_a_child_that_outlives_its_parent_keeps_nobody_waiting(forking):
    process, _ = forking
    source = "child = os.fork()\nif not child:\n    import time; time.sleep(600)\nanswer = child, data"
    child, data = process.run(source)
    process.kill()
    try:
        assert runs(child)
        with pytest.raises(SharedMemoryError, match="has ended"):
            len(pickle.loads(data))
    finally:
        os.kill(child, signal.SIGKILL)


def test_forks_while_others_connect(forking):
    """No child gets a descriptor that was open for a moment only, nor hangs."""
    process, _ = forking
    data = process.run("answer = data")
    process.send("answer = {in_child(lambda: (sockets(), len(handle))) for _ in range(100)}")
    for _ in range(3000):
        assert len(pickle.loads(data)) == 40
    assert process.answer() == {(0, 40)}

"""What a buffer is in another process: a `ReplayReader`, which samples, counts and never writes."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest

from diffreplay import ReplayBuffer, ReplayDataset, ReplayReader, make_replay_loader
from diffreplay.errors import EmptyBufferError, InputError, ReadOnlyError

METHODS = ["fork", "spawn"]


def filled(steps=40, **options):
    replay = ReplayBuffer(100, (3, 8, 8), (1,), action_dtype="int64", **options)
    for t in range(steps):
        obs, next_obs = (np.full((3, 8, 8), t + k, np.uint8) for k in range(2))
        replay.add_transition(obs, [t], float(t), next_obs, False, t == steps - 1)
    return replay


def tell(replay, connection):
    """What a child finds: two batches of its own, one with a given generator, counts, and how adding fails."""
    batch = replay.sample(16, np.random.default_rng(3))
    assert all(np.array_equal(obs, np.full_like(obs, t)) for obs, t in zip(batch.obs, batch.action[:, 0], strict=True))
    refused = []
    writes = [lambda: replay.add(None), lambda: replay.save("nowhere")]
    writes += [lambda: replay.add_transition(*[None] * 6), lambda: replay.add_batch(*[None] * 6)]
    for write in writes:
        try:
            write()
        except ReadOnlyError as error:
            refused.append(str(error))
        except InputError:  # the buffer itself, in a forked child, looks at the step first
            pass
    connection.send(
        {
            "type": type(replay).__name__,
            "own": [replay.sample(16).action[:, 0].tolist() for _ in range(2)],
            "given": batch.action[:, 0].tolist(),
            "counts": (len(replay), replay.can_sample(), replay.stats()),
            "refused": refused,
        }
    )


def tell_what_comes(pipe, connection):
    tell(pipe.recv(), connection)


def ask(method, replay, count=1, target=tell):
    """What so many children, which run at the same time, tell of `replay`."""
    context, children = multiprocessing.get_context(method), []
    for _ in range(count):
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(replay, theirs), daemon=True)
        process.start()
        theirs.close()
        children.append((process, ours))
    for process, ours in children:
        assert ours.poll(200)
        process.join(100)
        assert process.exitcode == 0
    return [ours.recv() for _, ours in children]


@pytest.mark.parametrize("method", METHODS)
def test_a_child_samples_with_a_generator_of_its_own(method):
    """As an argument; a forked child holds the buffer itself."""
    replay = filled()
    ours = [replay.sample(16).action[:, 0].tolist() for _ in range(2)]
    again = filled()
    children = ask(method, again, 2)
    for child in children:
        assert child["type"] == ("ReplayBuffer" if method == "fork" else "ReplayReader")
        assert child["given"] == replay.sample(16, np.random.default_rng(3)).action[:, 0].tolist()
        assert child["counts"] == (40, True, replay.stats())
        assert len(child["refused"]) == (1 if method == "fork" else 4), "save, and where it is a reader adding, too"
        assert all("\n" not in sentence and "process" in sentence for sentence in child["refused"])
    draws = [ours[0], ours[1], *(draw for child in children for draw in child["own"])]
    assert len({tuple(draw) for draw in draws}) == 6, "no two generators give the same batches"
    assert [again.sample(16).action[:, 0].tolist() for _ in range(2)] == ours, "ours does not depend on children"


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_what_a_pipe_passes_on_is_a_reader(method):
    """In a chain, too: a reader is passed on as the buffer is."""
    ours, theirs = multiprocessing.get_context(method).Pipe()
    ours.send(filled())
    ours.send(filled())
    reader = theirs.recv()
    assert isinstance(reader, ReplayReader) and not isinstance(reader, ReplayBuffer)
    children = ask(method, theirs, target=tell_what_comes) + ask(method, reader)
    assert [child["type"] for child in children] == ["ReplayReader"] * 2
    assert children[0]["own"] != children[1]["own"]
    assert len(children[1]["refused"]) == 4


def test_forked_readers_draw_differently():
    """A copy of a generator would give every child the batches of its parent."""
    reader = filled().reader
    children = ask("fork", reader, 2)
    assert children[0]["own"] != children[1]["own"]
    assert reader.sample(16).action[:, 0].tolist() not in [draw for child in children for draw in child["own"]]


def test_a_buffer_has_a_reader():
    replay = filled(seed=5)
    assert not isinstance(replay, ReplayReader) and isinstance(replay.reader, ReplayReader)
    assert len(replay.reader) == len(replay) and replay.reader.stats() == replay.stats()
    assert replay.reader.can_sample() and replay.can_sample()
    ours = filled(seed=5)
    batches = [replay.sample(8), replay.reader.sample(8)]  # of the buffer's one generator
    for batch in batches:
        assert batch.action.tolist() == ours.sample(8).action.tolist()


@pytest.mark.parametrize("of", [lambda replay: replay, lambda replay: replay.reader], ids=["buffer", "reader"])
def test_loaders_take_both(of):
    replay = filled()
    expected = next(iter(make_replay_loader(replay, 8, num_workers=0, seed=2))).action.tolist()
    for threads in (True, False):
        loader = make_replay_loader(of(replay), 8, num_workers=1, threads=threads, seed=2)
        assert next(iter(loader)).action.tolist() == expected
    assert next(iter(ReplayDataset(of(replay), 8, seed=2))).action.tolist() == expected


@pytest.mark.parametrize("make", [make_replay_loader, ReplayDataset])
@pytest.mark.parametrize(
    ("replay", "said"),
    [
        (None, "replay: expected a ReplayBuffer.* got NoneType"),
        (5, "replay: expected a ReplayBuffer.* got int"),
        ([1], r"replay\[0\]: expected a ReplayBuffer.* got int"),
        ((), "replay: expected at least one buffer, got an empty list"),
    ],
)
def test_loaders_take_nothing_else(make, replay, said):
    with pytest.raises(InputError, match=f"^{said}$"):
        make(replay)


@pytest.mark.parametrize("of", [lambda replay: replay, lambda replay: replay.reader], ids=["buffer", "reader"])
def test_arguments_are_checked(of):
    with pytest.raises(InputError, match=r"^rng: expected a numpy\.random\.Generator.*, got 5"):
        of(filled()).sample(8, 5)
    with pytest.raises(InputError, match=r"^batch_size: "):
        of(filled()).sample(0)
    with pytest.raises(EmptyBufferError):
        of(ReplayBuffer(100, (3, 8, 8), (1,))).sample(8)

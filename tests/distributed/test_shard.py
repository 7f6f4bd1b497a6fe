"""Writers and a shard without a network between: chunks lost, sent twice, out of order, damaged; shards begun anew."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import zstandard
from numbered_actor import OPTIONS, SHAPE, Actor, check, check_batch

import diffreplay
from diffreplay.distributed.coded_windows import WindowDecoder, coded_windows
from diffreplay.distributed.mixed import RemoteSource
from diffreplay.distributed.shard import Shard
from diffreplay.distributed.writer import ReplayWriter, ShardGoneError
from diffreplay.errors import CorruptDataError, InputError, ReplayError


class Network:
    """Between writers and a shard that may be replaced: answers and chunks get lost."""

    def __init__(self, shard: Shard, seed: int = 0, loss: float = 0.0) -> None:
        self.shard, self.loss, self.rng = shard, loss, np.random.default_rng(seed)
        self.gone = 0  # so many calls find no shard
        self.done = 0.7  # how often an answer is there as soon as it is looked for

    def send(self, data: bytes) -> Any:
        return Ticket(self, data)


class Ticket:
    def __init__(self, network: Network, data: bytes) -> None:
        self.network, self.result = network, None
        if network.gone:
            network.gone -= 1
            return
        if network.rng.random() < network.loss:
            return
        answer = network.shard.take(data)
        if network.rng.random() >= network.loss:
            self.result = answer

    def is_done(self) -> bool:
        return self.network.rng.random() < self.network.done

    def answer(self) -> Any:
        if self.result is None:
            raise ShardGoneError("lost")
        return self.result


def make_actor(number: int, network: Network, begin: int = 0, patience: float = 120.0) -> Actor:
    replay = diffreplay.ReplayBuffer(4000, SHAPE, (2,), **OPTIONS)
    return Actor(
        number, ReplayWriter(f"actor-{number}", replay, network.send, chunk_steps=20, patience=patience), begin
    )


def make_shard(capacity: int = 20_000, **options: Any) -> Shard:
    return Shard(capacity, SHAPE, (2,), **OPTIONS, **options)


def test_chunks_and_answers_that_get_lost_change_nothing() -> None:
    network = Network(make_shard(), loss=0.2)
    actors = [make_actor(k, network) for k in range(3)]
    added = 0
    for _ in range(25):
        for actor in actors:
            actor.run(10, streams=2)
            added += 20
    for actor in actors:
        actor.writer.flush()
    found = check(network.shard.replay)
    assert len(found) == added
    assert network.shard.stats()["lost_rows"] == 0
    assert len(network.shard.replay.store.sets[0].numbers()) > 0
    assert network.shard.stats()["recoded_rows"] == 0


def test_a_shard_that_begins_anew_loses_what_came_after_its_snapshot_and_says_so(tmp_path: Any) -> None:
    network = Network(make_shard(directory=str(tmp_path)))
    actors = [make_actor(k, network) for k in range(2)]
    for actor in actors:
        actor.run(400)
        actor.writer.flush()
    saved = check(network.shard.replay)
    network.shard.save()
    for actor in actors:
        actor.run(200)
        actor.writer.flush()
    first_lost = actors[0].steps
    network.shard = make_shard(directory=str(tmp_path))
    assert check(network.shard.replay) == saved
    with pytest.warns(RuntimeWarning, match="its shard began anew and lost"):
        for actor in actors:
            actor.run(300)
            actor.writer.flush()
    found = check(network.shard.replay)
    assert saved <= found
    later = {(writer, number) for writer, number in found if writer == 0 and number > first_lost}
    assert len(later) >= 300 - 30 * 2, "after that, only what was under way may miss"
    assert network.shard.stats()["lost_rows"] >= 400


def test_a_shard_that_began_anew_with_other_sets_gives_no_wrong_frame() -> None:
    network = Network(make_shard())
    actor = make_actor(0, network)
    actor.run(1500)
    actor.writer.flush()
    assert actor.writer._newest[0] != ""
    network.shard = make_shard()  # as without a snapshot: its sets begin at 0 again
    with pytest.warns(RuntimeWarning, match="lost"):
        actor.run(500)
        actor.writer.flush()
    found = check(network.shard.replay)
    assert len(found) > 400
    assert network.shard.stats()["recoded_rows"] > 0
    before = network.shard.stats()["recoded_rows"]
    actor.run(200)
    actor.writer.flush()
    assert network.shard.stats()["recoded_rows"] == before, "it codes against the shard's new set"


def test_an_actor_that_dies_loses_what_was_not_sent_and_its_episode_ends() -> None:
    network = Network(make_shard())
    actor = make_actor(0, network)
    actor.run(95)
    sent = check(network.shard.replay)
    assert 95 - 20 * 2 <= len(sent) <= 95
    again = make_actor(0, network, 1000)
    again.run(50)
    again.writer.flush()
    assert not [name for name, stream in network.shard.replay.store.streams.items() if stream.row < 0]
    found = check(network.shard.replay)
    assert len(found) == len(sent) + 50
    with pytest.raises(InputError, match="give every actor a name of its own"):
        actor.run(50)
        actor.writer.flush()


def test_a_shard_that_is_away_is_waited_for() -> None:
    network = Network(make_shard())
    actor = make_actor(0, network)
    actor.run(100)
    network.gone = 2
    actor.run(100)
    actor.writer.flush()
    assert len(check(network.shard.replay)) == 200
    hopeless = make_actor(1, network, patience=0.3)
    network.gone = 1 << 30
    with pytest.raises(ReplayError, match="what was added is kept"):
        hopeless.run(200)
    network.gone = 0
    hopeless.writer.flush()
    mine = {found for found in check(network.shard.replay) if found[0] == 1}
    assert len(mine) == hopeless.steps - -(-hopeless.steps // 30), "all but the first step of each episode"


def test_damage_on_the_way_is_noticed() -> None:
    network = Network(make_shard())
    chunks: list[bytes] = []
    actor = make_actor(0, network)
    send = network.send
    network.send = lambda data: (chunks.append(data), send(data))[1]  # type: ignore[method-assign]
    actor.writer._send = network.send
    actor.run(60)
    actor.writer.flush()
    held = check(network.shard.replay)
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(chunks[int(rng.integers(len(chunks)))])
        damaged[int(rng.integers(len(damaged)))] ^= 1 << int(rng.integers(8))
        with pytest.raises(CorruptDataError):
            network.shard.take(bytes(damaged))
    for data in (b"", chunks[0][:50], chunks[0][:-1]):
        with pytest.raises(CorruptDataError):
            network.shard.take(data)
    for data in chunks:
        network.shard.take(data)  # all of them once more
    assert check(network.shard.replay) == held


def test_windows_come_coded_and_decode_to_what_was_added() -> None:
    network = Network(make_shard(capacity=900))
    actor = make_actor(0, network)
    for _ in range(20):
        actor.run(100)
    actor.writer.flush()
    shard = network.shard
    empty = diffreplay.ReplayBuffer(100, SHAPE, (2,), **OPTIONS)
    decoder = WindowDecoder(empty.reader)
    seen: set[tuple[int, int]] = set()
    for _ in range(30):
        windows = shard.windows(128)
        assert windows is not None
        for image, number in decoder.missing(windows):
            decoder.add_set(image, number, bytes(shard.replay.store.sets[image].frames(number)))
        batch = decoder.batch(windows, 3)
        assert (batch.source == 3).all()
        seen |= check_batch(batch, may_repeat=True)
    assert len(seen) > 850, "drawn from all of them"


def test_windows_of_mappings_with_vectors_and_depth() -> None:
    spec = {
        "camera": diffreplay.ArraySpec((3, 16, 16)),
        "depth": diffreplay.ArraySpec((1, 16, 16), "uint16"),
        "state": diffreplay.ArraySpec((5,), "float32"),
    }
    shard = Shard(500, spec, (1,), frame_stack=2)
    writer = ReplayWriter("a", diffreplay.ReplayBuffer(500, spec, (1,), frame_stack=2), Network(shard).send)
    rng, before = np.random.default_rng(0), None
    for k in range(250):
        new = {
            "camera": rng.integers(0, 255, (3, 16, 16), np.uint8),
            "depth": rng.integers(0, 65_535, (1, 16, 16), np.uint16),
            "state": rng.normal(size=5).astype(np.float32),
        }
        if before is None:
            before = {name: np.concatenate([part, part]) for name, part in new.items()}
        after = {name: np.concatenate([before[name][len(part) :], part]) for name, part in new.items()}
        writer.add_transition(before, [0.5], float(k), after, False, False)
        before = after
    writer.flush()
    reader = shard.replay.reader
    windows = coded_windows(reader, 64, np.random.default_rng(5), "life")
    decoder = WindowDecoder(reader)
    for image, number in decoder.missing(windows):
        decoder.add_set(image, number, bytes(shard.replay.store.sets[image].frames(number)))
    batch, expected = decoder.batch(windows, 0), reader.sample(64, np.random.default_rng(5))
    for name in spec:
        assert np.array_equal(batch.obs[name].numpy(), expected.obs[name].numpy())
        assert np.array_equal(batch.next_obs[name].numpy(), expected.next_obs[name].numpy())
    assert np.array_equal(batch.reward.numpy(), expected.reward.numpy())


def test_a_snapshot_of_another_buffer_is_refused(tmp_path: Any) -> None:
    shard = make_shard(directory=str(tmp_path))
    make_actor(0, Network(shard)).run(50)
    shard.save()
    with pytest.raises(InputError, match=r"nstep: expected 1, with which .* was saved, got 3"):
        make_shard(directory=str(tmp_path), nstep=3)
    with pytest.raises(InputError, match="capacity: expected 20000"):
        make_shard(capacity=100, directory=str(tmp_path))


def test_an_interrupt_while_sending_loses_nothing() -> None:
    network = Network(make_shard())
    actor, rng, send = make_actor(0, network), np.random.default_rng(0), network.send

    def interrupted(data: bytes) -> Any:
        chance = rng.random()
        if chance < 0.2:
            raise KeyboardInterrupt
        ticket = send(data)
        if chance < 0.4:
            raise KeyboardInterrupt
        return ticket

    actor.writer._send = interrupted
    for _ in range(40):
        with suppress(KeyboardInterrupt):
            actor.run(15)
        actor.stacks.clear()  # the loop begins anew, with another episode
    actor.writer._send = send
    actor.writer.flush()
    assert {number for _, number in check(network.shard.replay)} >= actor.added


def test_many_streams_heal_after_a_shard_began_anew() -> None:
    network = Network(make_shard())
    network.done = 0.0  # as where answers take longer than the next step
    actor = make_actor(0, network)
    actor.run(20, streams=20)
    network.shard = make_shard()
    with pytest.warns(RuntimeWarning, match="lost"):
        actor.run(60, streams=20)
    actor.writer.flush()
    assert len(check(network.shard.replay)) > 40 * 20


def test_a_writer_adds_nothing_while_its_own_store_is_full_of_what_was_not_sent() -> None:
    network = Network(make_shard())
    actor = make_actor(0, network, patience=0.0)
    network.gone = 1 << 30
    for _ in range(300):
        with suppress(ReplayError):
            actor.run(1)
    assert len(actor.writer._replay) <= 5 * 20
    network.gone = 0
    actor.writer.flush()
    assert {number for _, number in check(network.shard.replay)} >= actor.added


def test_a_snapshot_that_cannot_be_saved_fails_no_chunk(tmp_path: Any) -> None:
    network = Network(make_shard(directory=str(tmp_path / "shard"), save_every=0.0))
    (tmp_path / "shard").write_text("no folder")
    actor = make_actor(0, network)
    with pytest.warns(RuntimeWarning, match="a snapshot could not be saved"):
        actor.run(100)
        actor.writer.flush()
    assert len(check(network.shard.replay)) == 100
    assert network.shard.stats()["failed_saves"] > 0


def test_names_of_writers_and_streams_are_not_mixed_up() -> None:
    network = Network(make_shard())
    one, other = (
        ReplayWriter(name, diffreplay.ReplayBuffer(500, SHAPE, (2,), **OPTIONS), network.send) for name in ("a", "a/b")
    )
    actors = [Actor(0, one), Actor(1, other)]
    for actor in actors:
        actor.run(10)
        actor.writer.flush()
    again = Actor(0, ReplayWriter("a", diffreplay.ReplayBuffer(500, SHAPE, (2,), **OPTIONS), network.send), 1000)
    again.run(5)
    again.writer.flush()
    streams = network.shard.replay.store.streams
    assert {name: stream.is_open for name, stream in streams.items()} == {'["a", 0]': True, '["a/b", 0]': True}


def test_sets_of_another_life_are_not_taken_for_those_of_windows() -> None:
    first = Network(make_shard())
    actor = make_actor(0, first)
    actor.run(600)
    actor.writer.flush()
    asked = first.shard.windows(64)
    second = Network(make_shard())
    actor = make_actor(1, second)
    actor.run(600)
    actor.writer.flush()
    decoder = WindowDecoder(diffreplay.ReplayBuffer(100, SHAPE, (2,), **OPTIONS).reader)
    replies = iter([asked])

    def ask(count: int) -> Any:
        return lambda: next(replies, None) or second.shard.windows(count)

    def reference_set(image: int, number: int, life: str) -> bytes | None:
        try:
            return zstandard.decompress(second.shard.reference_set(image, number, life).frames)
        except InputError:
            return None

    source = RemoteSource(ask, reference_set, decoder, 0, 64, ahead=1)
    batch = source.draw(100)
    assert batch is not None
    assert {writer for writer, _ in check_batch(batch, may_repeat=True)} == {1}

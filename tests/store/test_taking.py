"""Rows that other stores coded, taken in as they are: what is sampled is what was added there, each step once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import diffreplay
from diffreplay import ReplayBuffer, codecs
from diffreplay.codecs import SetPlanner, ZstdCodec
from diffreplay.codecs.base import FrameSource
from diffreplay.codecs.delta import DeltaCodec
from diffreplay.errors import CorruptDataError, InputError
from diffreplay.store import (
    NO_ROW,
    Origin,
    StoredRows,
    adopt_set,
    check_origin,
    close_streams,
    export_rows,
    stream_ends,
    take_in,
)

SHAPE = (16, 16)
NEVER = 1 << 60


class Often(SetPlanner):
    """Takes the newest frames as a set every few hundred rows, whether that pays or not."""

    def due(self, head: int) -> bool:
        return head >= self.next_check

    def choose(self, store: FrameSource) -> np.ndarray:
        self.next_check = store.head + 150
        return store.read(store.present(np.arange(max(store.head - 8, store.tail), store.head)))


class Delta(DeltaCodec):
    name = "delta, often"

    def planner(self, frame_shape: tuple[int, int, int]) -> Often:
        return Often()


class Zstd(ZstdCodec):
    name = "zstd, often"

    def planner(self, frame_shape: tuple[int, int, int]) -> Often:
        return Often()


class Writer:
    """A buffer of its own, whose rows another one takes in; it codes against that one's newest reference set."""

    def __init__(self, name: str, shard: ReplayBuffer, truth: Truth, seed: int, **options: Any) -> None:
        self.name, self.shard, self.truth = name, shard, truth
        self.replay = make(**options)
        self.replay.store.planning.check_next([NEVER] * len(self.replay.store.sets))
        self.origin, self.sent = Origin(), 0
        self.numbers: dict[int, int] = {}  # its sets as the shard numbers them
        self.rng = np.random.default_rng(seed)
        self.stacks: dict[Any, np.ndarray] = {}

    def step(self, stream: int = 0, end: float = 0.05, stray: float = 0.02) -> None:
        """A transition; now and then a reset in mid-episode, or an observation that does not follow."""
        before = self.stacks.pop(stream, None)
        if before is None or self.rng.random() < stray:
            before = np.repeat(self.frame(), 2, axis=0)
        after = np.concatenate([before[1:], self.frame()])
        if self.rng.random() < stray:
            after = np.concatenate([self.frame(), self.frame()])  # an observation that shares no frame with the other
        number, ended = self.truth.note(before, after), self.rng.random() < end
        self.replay.add_transition(before, [number], float(number), after, False, bool(ended), stream)
        if not ended:
            self.stacks[stream] = after

    def frame(self) -> np.ndarray:
        frame = self.truth.scene.copy()
        y, x = self.rng.integers(0, 13, 2)
        frame[0, y : y + 3, x : x + 3] = self.rng.integers(0, 255)
        return frame

    def chunk(self) -> tuple[StoredRows, list[Any]]:
        store = self.replay.store
        rows = export_rows(store, self.sent, store.head)
        rows = rows._replace(coded=[bytes(part) for part in rows.coded])
        named = np.array([self.numbers.get(number, NO_ROW) for number in rows.sets[:, 0].tolist()])[:, None]
        ends = [(f"{self.name}/{name}", row, is_open) for name, row, is_open in stream_ends(store, self.sent)]
        self.sent = store.head
        return rows._replace(sets=named), ends

    def send(self) -> int:
        rows, ends = self.chunk()
        if not len(rows.lengths):
            return 0
        self.origin, lost = take_in(self.shard.store, self.origin, rows, ends, self.shard.capacity)
        return lost

    def learn_set(self) -> None:
        """Code against the shard's newest set from now on."""
        sets, store = self.shard.store.sets[0], self.replay.store
        numbers = sets.numbers()
        if not numbers or numbers[-1] in self.numbers.values():
            return
        adopt_set(store, bytes(sets.frames(numbers[-1])), store.head)
        store.code_against_newest()
        self.numbers[store.sets[0].numbers()[-1]] = numbers[-1]


class Truth:
    """Every transition that was added, by its number, which is its action and its reward."""

    def __init__(self) -> None:
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self.scene = np.random.default_rng(0).integers(0, 255, (1, *SHAPE), np.uint8)

    def note(self, before: np.ndarray, after: np.ndarray) -> int:
        self.pairs.append((before, after))
        return len(self.pairs) - 1

    def check(self, replay: ReplayBuffer) -> list[int]:
        """Each transition that can be sampled is one that was added, and none is there twice; their numbers."""
        replay.check_invariants()
        starts = replay.indices()
        if not len(starts):
            return []
        loader = diffreplay.make_replay_loader(replay, len(starts), 0, indices=lambda count, rng: starts)
        batch = next(iter(loader))
        numbers = batch.action[:, 0].tolist()
        assert len(set(numbers)) == len(numbers)
        for k, number in enumerate(numbers):
            before, after = self.pairs[number]
            assert np.array_equal(batch.obs[k].numpy(), before)
            assert np.array_equal(batch.next_obs[k].numpy(), after)
            assert batch.reward[k] == number
        return sorted(numbers)


def make(capacity: int = 4000, **options: Any) -> ReplayBuffer:
    arguments: dict[str, Any] = {"frame_stack": 2, "action_dtype": "int64", "codec": Delta()} | options
    return ReplayBuffer(capacity, (arguments["frame_stack"], *SHAPE), (1,), **arguments)


def writers(shard: ReplayBuffer, truth: Truth, count: int = 3, **options: Any) -> list[Writer]:
    return [Writer(f"w{k}", shard, truth, k, **options) for k in range(count)]


@pytest.mark.parametrize("codec", [Delta(), Zstd(), "raw"], ids=["delta", "zstd", "raw"])
@pytest.mark.parametrize("shorter_at_end", [False, True])
def test_what_is_sampled_is_what_was_added_elsewhere(codec: str | codecs.Codec, shorter_at_end: bool) -> None:
    truth, rng = Truth(), np.random.default_rng(1)
    options = {"codec": codec, "shorter_at_end": shorter_at_end}
    shard = make(20_000, **options)
    sources = writers(shard, truth, **options)
    for _ in range(40):
        source = sources[rng.integers(len(sources))]
        for _ in range(rng.integers(1, 60)):
            source.step(int(rng.integers(2)))
        if rng.random() < 0.5:
            source.learn_set()
        assert source.send() == 0
    for source in sources:
        source.send()
    assert truth.check(shard) == list(range(len(truth.pairs)))
    if codec != "raw":
        assert len(shard.store.sets[0].numbers()) > 2, "sets were built and named"


def test_rows_leave_with_the_sets_that_they_name() -> None:
    truth, rng = Truth(), np.random.default_rng(2)
    shard = make(700)
    sources = writers(shard, truth)
    late = sources[0]  # which goes on with an old set for long
    for k in range(80):
        source = sources[rng.integers(len(sources))]
        for _ in range(rng.integers(1, 60)):
            source.step()
        if source is not late or k == 50:
            source.learn_set()
        known = shard.store.sets[0].numbers()
        if late.numbers and max(late.numbers.values()) not in known:
            late.learn_set()
        source.send()
        if k % 20 == 0:
            assert set(truth.check(shard)) <= set(range(len(truth.pairs)))
    assert shard.store.sets[0].numbers().start > 0
    held = truth.check(shard)
    assert len(held) > 500


def test_many_small_runs_with_two_sets_fit_in_a_block() -> None:
    truth = Truth()
    shard = make()
    old, new = writers(shard, truth, 2)
    for _ in range(2):
        old.step()
        old.send()
    old.learn_set()
    shard.store.planning.check_next([0])
    old.step()
    old.send()
    new.learn_set()
    shard.store.planning.check_next([NEVER])
    assert max(new.numbers.values()) > max(old.numbers.values())
    for _ in range(40):
        for source in (old, new):
            for _ in range(3):
                source.step()
            source.send()
    assert truth.check(shard) == list(range(len(truth.pairs)))


def test_runs_that_are_lost_cost_those_that_build_on_them_alone() -> None:
    truth = Truth()
    shard = make()
    (source,) = writers(shard, truth, 1)
    for _ in range(100):
        for stream in range(3):
            source.step(stream, stray=0)
    source.send()
    first = len(truth.pairs)
    for stream in range(3):
        source.step(stream, end=0, stray=0)
    source.chunk()  # never arrives
    second = len(truth.pairs)
    for _ in range(50):
        for stream in range(3):
            source.step(stream, stray=0)
    assert source.send() == 3
    for _ in range(50):
        for stream in range(3):
            source.step(stream, stray=0)
    assert source.send() == 0
    held = set(truth.check(shard))
    missing = set(range(len(truth.pairs))) - held
    assert set(range(first, second)) <= missing <= set(range(first, second + 3 * 2))


def test_a_run_that_ends_before_a_stack_is_whole_gives_no_wrong_stack() -> None:
    truth = Truth()
    options = {"frame_stack": 2}
    shard = make(**options)
    (source,) = writers(shard, truth, 1, **options)
    for _ in range(50):
        source.step(end=0, stray=0)
    source.send()
    source.step(end=0, stray=0)
    source.chunk()
    for _ in range(5):  # each alone
        source.step(end=0, stray=0)
        source.send()
    for _ in range(20):
        source.step(end=0, stray=0)
    source.send()
    held = truth.check(shard)
    assert set(range(50)) <= set(held)
    assert len(held) >= 50 + 18


def test_a_stream_that_does_not_go_on_is_cut_off() -> None:
    truth = Truth()
    options = {"shorter_at_end": True, "nstep": 3}
    shard = make(**options)
    (source,) = writers(shard, truth, 1, **options)
    for _ in range(20):
        source.step(end=0, stray=0)
    source.send()
    before = len(shard.indices())
    close_streams(shard.store, ["w0/0"])
    shard.check_invariants()
    assert len(shard.indices()) == before + 2, "the last steps start shorter windows"


def test_a_saved_shard_comes_back(tmp_path: Any) -> None:
    truth, rng = Truth(), np.random.default_rng(3)
    shard = make(900)
    sources = writers(shard, truth)
    for k in range(40):
        source = sources[rng.integers(len(sources))]
        for _ in range(rng.integers(1, 60)):
            source.step()
        if source is not sources[0]:
            source.learn_set()
        source.send()
        if k % 10 == 9:
            shard.save(tmp_path)
    shard.save(tmp_path)
    loaded = ReplayBuffer.load(tmp_path, codec=Delta())
    assert truth.check(loaded) == truth.check(shard)
    assert loaded.verify() == []


def test_nonsense_is_refused_and_leaves_everything_as_it_was() -> None:
    truth = Truth()
    shard = make()
    (source,) = writers(shard, truth, 1)
    for _ in range(30):
        source.step()
    source.send()
    for _ in range(30):
        source.step()
    rows, ends = source.chunk()
    bad_link = dict(rows.columns) | {"link": np.full(len(rows.lengths), 60_000, np.uint16)}
    bad_flags = dict(rows.columns) | {"flags": np.full(len(rows.lengths), 8, np.uint8)}
    cases = [
        (rows._replace(columns=bad_link), ends),
        (rows._replace(columns=bad_flags), ends),
        (rows._replace(sets=np.full(rows.lengths.shape, 7)), ends),
        (rows, [("w0/0", 10_000, True)]),
    ]
    before = truth.check(shard)
    for wrong, its_ends in cases:
        with pytest.raises(CorruptDataError):
            take_in(shard.store, source.origin, wrong, its_ends, shard.capacity)
        assert truth.check(shard) == before
    small = make(20)
    with pytest.raises(InputError, match="at most 20"):
        take_in(small.store, Origin(), rows, ends, small.capacity)
    with pytest.raises(InputError, match="whose frames need others"):
        check_origin(make(codec="sparse").store)


def test_runs_whose_first_rows_hold_nothing_go_round_the_log() -> None:
    truth = Truth()
    options = {"codec": "raw"}
    shard = make(60, max_bytes=600_000, **options)  # under a cap, raw frames go round the log soon
    (source,) = writers(shard, truth, 1, **options)
    rng = np.random.default_rng(0)
    for _ in range(400):
        for _ in range(rng.integers(1, 12)):
            source.step(end=0.02, stray=0)
        if rng.random() < 0.5:
            source.chunk()  # lost: so the next one begins with a row that holds nothing
        source.send()
        shard.check_invariants()
    assert shard.store.rows.log_end() > shard.store.layout.log_bytes


def test_a_set_stays_while_rows_that_name_it_are_taken_in() -> None:
    truth, rng = Truth(), np.random.default_rng(4)
    shard = make(80)
    late, other = writers(shard, truth, 2)
    for _ in range(120):
        known = shard.store.sets[0].numbers()
        if not late.numbers or max(late.numbers.values()) not in known:
            late.learn_set()
        other.learn_set()
        source = late if rng.random() < 0.4 else other
        for _ in range(rng.integers(20, 50)):
            source.step()
        rows, ends = source.chunk()
        source.origin, _ = take_in(shard.store, source.origin, rows, ends, shard.capacity)
        truth.check(shard)


def test_streams_that_pause_over_many_runs_go_on() -> None:
    truth = Truth()
    shard = make()
    (source,) = writers(shard, truth, 1)
    for _ in range(10):
        for stream in range(40):
            source.step(stream, end=0, stray=0)
            assert source.send() == 0
    assert truth.check(shard) == list(range(len(truth.pairs)))


def test_new_streams_stay_under_the_cap() -> None:
    truth = Truth()
    shard = make(4000, max_bytes=1_000_000)
    (source,) = writers(shard, truth, 1)
    with pytest.raises(InputError, match="chunk: expected max_bytes of at least"):
        for k in range(100):
            for stream in range(30):
                source.step(30 * k + stream, stray=0)
            source.send()
            shard.check_invariants()

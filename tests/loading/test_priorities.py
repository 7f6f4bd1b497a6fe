"""Priorities against a naive sampler: a dict from rows to priorities, and `numpy.random.Generator.choice`."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from io import BytesIO

import numpy as np
import pytest
import torch
from driver import Driver
from interrupts import interrupted
from says import says

from diffreplay import Priorities
from diffreplay.errors import CopyError, EmptyBufferError, InputError, ReplayError
from diffreplay.loading import known_steps
from diffreplay.loading.windows import WindowFinder
from diffreplay.testing import TimeStep
from tests.loading.test_sampling import SIDE, Forgetful, buffer

pytestmark = pytest.mark.filterwarnings("ignore:a first step came in mid-episode")
EPSILON = 1e-6
KINDS = [
    {"nstep": 1},
    {"nstep": 3},
    {"nstep": 3, "shorter_at_end": True},
    {"nstep": 2, "codec": "sparse", "shorter_at_end": True},  # steps that need older rows than their own stack's
]


@pytest.fixture
def small_rings(monkeypatch):
    """Rings that have to grow, and go round often."""
    monkeypatch.setattr(known_steps, "LEAST_PLACES", 16)


class Naive:
    """What the priorities should be. Asks the oracle of the buffer which windows are complete."""

    def __init__(self, oracle, alpha):
        self.oracle, self.alpha, self.largest = oracle, alpha, 1.0
        self.given = {}  # by row, of all rows that were ever given one

    def rows(self):
        """Where complete windows begin, ascending; new ones among them have the largest priority."""
        rows = sorted(steps[0].row for steps in self.oracle.windows().values())
        for row in rows:
            self.given.setdefault(row, np.float32(self.largest))
        return rows

    def update(self, rows, errors):
        self.rows()
        held = {row: error for row, error in zip(rows, errors, strict=True) if row >= self.oracle.store.tail}
        for row, error in held.items():
            self.given[row] = np.float32(abs(error) + EPSILON)
            self.largest = max(self.largest, float(self.given[row]))

    def counts(self):
        """What each row counts."""
        return {row: float(self.given[row]) ** self.alpha for row in self.rows()}


def counts(priorities):
    """What each row counts in draws of the real ones."""
    priorities.state_dict()  # takes in what has come and left
    known = priorities._known
    rows = np.arange(known.tail, known.head)
    leaves = known.tree.leaves[known.places(rows)]
    assert known.tree.total == pytest.approx(leaves.sum(), rel=1e-9)
    assert np.count_nonzero(known.tree.leaves) == np.count_nonzero(leaves)
    return {row: leaf for row, leaf in zip(rows.tolist(), leaves.tolist(), strict=True) if leaf}


class Fast(Driver):
    """Does not decode all that is stored after each step."""

    def __init__(self, replay, seed):
        super().__init__(replay, seed)
        self.oracle = Forgetful(replay)


def random_episode(rng):
    return {
        "length": int(rng.integers(1, 12)),
        "kind": rng.choice(["noise", "moving"]),
        "start": "arbitrary" if rng.random() < 0.3 else "first frame",
        "restarts": 0.1,
        "style": rng.choice(["dm_env", "gymnasium"]),
        "end": rng.choice(["terminated", "truncated", "cut off"]),
        "stream": int(rng.integers(3)),
        "others": 0.5,
    }


def filled(capacity=60, steps=None, **options):
    """A buffer with one episode that goes on; its steps are rows 0, 1, ..."""
    replay = buffer(capacity, **options)
    for number in range(steps or capacity):
        add_step(replay, number)
    return replay


def add_step(replay, number, last=False):
    frame_stack = replay.store.layout.frame_stack
    frames = [np.full((1, SIDE, SIDE), max(k, 0) % 256, np.uint8) for k in range(number - frame_stack + 1, number + 1)]
    replay.add(TimeStep(np.concatenate(frames), np.array([number]), 0.0, 1.0, number == 0, last))


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_draws_are_as_often_as_those_of_the_naive_sampler(options, small_rings):
    """10^6 draws of each, over 20 states of a buffer that many streams write to, between random updates."""
    replay = buffer(60, frame_stack=3, **options)
    driver, rng = Fast(replay, seed=3), np.random.default_rng(3)
    priorities, naive = Priorities(replay, alpha=0.7), Naive(driver.oracle, 0.7)
    both = np.zeros((2, 0))
    for state in range(20):
        for _ in range(4):
            driver.run(random_episode(rng))
        expected = naive.counts()
        assert counts(priorities) == pytest.approx(expected, rel=1e-12)
        rows, p = np.array(list(expected)), np.array(list(expected.values()))
        index = np.concatenate([priorities.draw(100, rng)[0] for _ in range(500)])
        theirs = np.random.default_rng(state).choice(rows, len(index), p=p / p.sum())
        found = [np.bincount(np.searchsorted(rows, drawn), minlength=len(rows)) for drawn in (index, theirs)]
        assert np.isin(index, rows).all()
        both = np.concatenate([both, found], axis=1)
        late = rng.integers(0, replay.store.head, 30)  # most of them have left
        for some in (late, index[:30]):
            errors = rng.normal(size=30) * 10.0 ** rng.uniform(-3, 1, 30)
            priorities.update(some, errors)
            naive.update(some.tolist(), errors.tolist())
    assert replay.store.tail > 5 * priorities._known.tree.size > 80
    both = both[:, both.sum(axis=0) > 20]
    chi_square = ((both[0] - both[1]) ** 2 / both.sum(axis=0)).sum()
    assert both.sum() > 1.9e6 and chi_square < both.shape[1] + 5 * np.sqrt(2 * both.shape[1])


def test_a_batch_is_stratified():
    """With equal priorities a batch as large as the buffer has every step once, from the oldest to the newest."""
    replay = filled(50, 120, frame_stack=2)
    priorities = Priorities(replay, alpha=0)
    tail = replay.store.tail
    for seed in range(20):
        index, weight = priorities.draw(49, np.random.default_rng(seed))
        assert index.tolist() == list(range(tail + 1, replay.store.head - 1)) and (weight == 1).all()
    assert index.dtype == np.int64 and weight.dtype == np.float64


def test_weights_make_up_for_what_is_drawn_too_often():
    replay = filled(50, frame_stack=1)
    priorities = Priorities(replay, alpha=0.6, beta=0.4)
    errors = np.arange(1, 50, dtype=float)
    priorities.update(np.arange(49), errors)
    p = (errors + EPSILON) ** 0.6 / ((errors + EPSILON) ** 0.6).sum()
    for beta in (0.4, 1, 0):
        priorities.beta = beta
        index, weight = priorities.draw(200, np.random.default_rng(0))
        wanted = (49 * p[index]) ** -beta
        np.testing.assert_allclose(weight / weight.max(), wanted / wanted.max(), rtol=1e-6)


def test_a_new_step_has_the_largest_priority_so_far():
    replay = filled(60, 10, frame_stack=1)
    priorities = Priorities(replay, alpha=1)
    assert counts(priorities) == dict.fromkeys(range(9), 1.0)
    priorities.update([3, 4], [5.0, 0.5])
    add_step(replay, 10)
    assert counts(priorities)[9] == np.float32(5 + EPSILON)
    priorities.update([3], [0.25])  # the largest one that is held is lower now
    add_step(replay, 11)
    assert counts(priorities)[10] == np.float32(5 + EPSILON)
    # The step that came before an update has the largest one before it, whether a batch was drawn in between or not.
    add_step(replay, 12)
    priorities.update([1], [9.0])
    add_step(replay, 13)
    assert counts(priorities)[11] == np.float32(5 + EPSILON) and counts(priorities)[12] == np.float32(9 + EPSILON)


def test_an_update_may_come_before_the_window_is_complete():
    replay = filled(60, 10, frame_stack=1, nstep=3)
    priorities = Priorities(replay, alpha=1)
    priorities.update([6, 7, 9], [4.0, 5.0, 6.0])
    assert counts(priorities) == {row: float(np.float32(4 + EPSILON)) if row == 6 else 1.0 for row in range(7)}
    for number in range(10, 14):
        add_step(replay, number)
    five, six = np.float32([5 + EPSILON, 6 + EPSILON]).tolist()
    found = counts(priorities)
    assert [found[row] for row in (7, 8, 9, 10)] == [five, six, six, six]


def test_an_index_is_never_another_steps():
    """A row's place is taken by another one, a ring's size later: the old number stays the old step's."""
    replay = filled(20, 21, frame_stack=1)
    priorities = Priorities(replay, alpha=1)
    old, _ = priorities.draw(8, np.random.default_rng(0))
    size = priorities._known.tree.size
    for number in range(21, size + 21):
        add_step(replay, number)
    priorities.update(old, np.full(8, 100.0))
    assert counts(priorities) == dict.fromkeys(range(size, size + 20), 1.0)


def test_of_a_step_that_comes_twice_the_last_error_counts():
    replay = filled(60, 30, frame_stack=1)
    priorities = Priorities(replay, alpha=1)
    priorities.update([5, 6, 5, 5], [9.0, 2.0, 7.0, 3.0])
    found = counts(priorities)
    assert (found[5], found[6], found[7]) == (*np.float32([3 + EPSILON, 2 + EPSILON]), 1.0)
    add_step(replay, 30)
    assert counts(priorities)[29] == np.float32(3 + EPSILON), "a priority that never was counted as the largest"


def test_what_an_update_takes():
    replay = filled(60, 30, frame_stack=1)
    index = torch.arange(4).reshape(4, 1)
    errors = np.array([1.5, -2.0, 0.0, 4.0])
    wanted = np.float32(np.abs(errors) + EPSILON)
    takes = [
        (index, torch.tensor(errors).reshape(4, 1)),
        (index.flatten(), torch.tensor(errors, dtype=torch.float32, requires_grad=True)),
        (index.numpy(), errors.reshape(1, 4)),
        (index.int(), torch.tensor(errors, dtype=torch.bfloat16)),
        (index.numpy().astype(np.uint64), errors.astype(np.float16)),
        ([0, 1, 2, 3], errors.tolist()),
    ]
    for some, its in takes:
        priorities = Priorities(replay, alpha=1)
        priorities.update(some, its)
        assert [counts(priorities)[row] for row in range(4)] == wanted.tolist()
    priorities.update([], [])
    priorities.update(torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    priorities.update(2, 7)
    assert counts(priorities)[2] == np.float32(7 + EPSILON)


@pytest.mark.parametrize(
    ("index", "error", "sentence"),
    [
        ([1, 2], [1.0, np.nan], "td_error: expected finite numbers | nan"),
        ([1, 2], [1.0, -np.inf], "td_error: expected finite numbers | -inf"),
        ([1, 2], [1.0, 1e39], "td_error: expected finite numbers | float32 | 1e+39"),
        ([1, 2], [1.0], "td_error: expected one for each of 2 steps of index, got 1"),
        ([1, 2], ["a", "b"], "td_error: expected finite numbers"),
        ([1, 2], [1j, 2j], "td_error: expected finite numbers | complex"),
        ([1, 2], [[1.0], [2.0, 3.0]], "td_error: expected numbers, got list"),
        ([1, -2], [1.0, 1.0], "index: expected numbers of steps from 0 on, got -2"),
        ([1, 30], [1.0, 1.0], "index: expected numbers of steps below 30, got 30"),
        ([1.0, 2.0], [1.0, 1.0], "index: expected whole numbers of steps | batch.index | float64"),
        ([True, False], [1.0, 1.0], "index: expected whole numbers of steps | bool"),
        (None, [1.0], "index: expected whole numbers"),
    ],
    ids=str,
)
def test_an_update_that_makes_no_sense_changes_nothing(index, error, sentence):
    priorities = Priorities(filled(60, 30, frame_stack=1))
    before = counts(priorities)
    with pytest.raises(InputError) as caught:
        priorities.update(index, error)
    says(caught, sentence)
    assert counts(priorities) == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alpha": -0.1}, "alpha: expected a number in [0, 1], got -0.1"),
        ({"beta": 1.5}, "beta: expected a number in [0, 1], got 1.5"),
        ({"beta": np.nan}, "beta: expected a finite number"),
        ({"epsilon": 0}, "epsilon: expected a number above 0"),
        ({"epsilon": 1e-60}, "epsilon: expected a number above 0 (float32), got 1e-60"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(options, sentence):
    with pytest.raises(InputError) as caught:
        Priorities(filled(20), **options)
    says(caught, sentence)


def test_alpha_is_fixed_and_beta_is_checked():
    priorities = Priorities(filled(20))
    with pytest.raises(AttributeError):
        priorities.alpha = 0.5
    with pytest.raises(InputError) as caught:
        priorities.beta = 2
    says(caught, "beta: expected a number in [0, 1], got 2")
    assert (priorities.alpha, priorities.beta) == (0.6, 0.4)


def test_an_empty_buffer_says_what_sampling_says():
    replays = [buffer(60, nstep=3), filled(60, 3, nstep=3), buffer(60, nstep=3, shorter_at_end=True)]
    for replay in replays:
        with pytest.raises(EmptyBufferError) as wanted:
            replay.sample(1)
        priorities = Priorities(replay)
        with pytest.raises(EmptyBufferError) as caught:
            priorities.draw(1, np.random.default_rng(0))
        assert str(caught.value) == str(wanted.value)
    for number in range(3, 5):
        add_step(replays[1], number)
    again = Priorities(replays[1])
    assert again.draw(1, np.random.default_rng(0))[0][0] in (0, 1)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_neither_earlier_draws_nor_the_rings_size_matter(options, small_rings):
    """The same updates at the same times: whoever drew meanwhile, batches are the same."""
    replay = buffer(60, frame_stack=3, **options)
    driver, rng = Fast(replay, seed=4), np.random.default_rng(4)
    often, seldom = Priorities(replay), Priorities(replay)
    seldom._known = known_steps.Known.nothing(0, 1 << 13)._replace(head=0)
    for turn in range(60):
        driver.run(random_episode(rng))
        if replay.can_sample():
            index, _ = often.draw(20, rng)
            if turn % 10 == 9:
                errors = rng.normal(size=20)
                for each in (often, seldom):
                    each.update(index, errors)
                draws = [each.draw(64, np.random.default_rng(turn)) for each in (often, seldom)]
                assert np.array_equal(draws[0][0], draws[1][0]) and np.array_equal(draws[0][1], draws[1][1])
    assert often._known.tree.size < seldom._known.tree.size


@pytest.mark.parametrize("call", ["draw", "update", "state_dict", "load_state_dict"])
@pytest.mark.parametrize("options", KINDS[1::2], ids=str)
def test_an_interrupt_at_any_line_leaves_it_whole(call, options, small_rings):
    """After rows came and left, so that rings grow and go round: the next call goes on as if nothing had been."""
    replay = buffer(40, frame_stack=2, **options)
    driver, rng = Fast(replay, seed=6), np.random.default_rng(6)
    driver.run(random_episode(rng) | {"length": 12})
    priorities, naive = Priorities(replay), Naive(driver.oracle, 0.6)
    place, went_on = 0, True
    while went_on:
        for _ in range(1 + place % 3):
            driver.run(random_episode(rng))
        rows = rng.integers(0, replay.store.head, 8).tolist()
        errors = rng.normal(size=8).tolist()
        naive.rows()
        state = priorities.state_dict() if call == "load_state_dict" else None
        calls = {
            "draw": lambda: priorities.draw(8, np.random.default_rng(0)),
            "update": lambda rows=rows, errors=errors: priorities.update(rows, errors),
            "state_dict": priorities.state_dict,
            "load_state_dict": lambda state=state: priorities.load_state_dict(state),
        }
        went_on = interrupted(calls[call], place)
        place += 1
        if call == "update":
            calls[call]()
            naive.update(rows, errors)
        assert counts(priorities) == pytest.approx(naive.counts(), rel=1e-12), place
    assert place > 20


def test_threads_draw_and_update_at_the_same_time():
    replay = filled(200, 100, frame_stack=1)
    priorities, failed = Priorities(replay), []
    done = threading.Event()

    def update(seed):
        rng = np.random.default_rng(seed)
        try:
            while not done.is_set():
                index, weight = priorities.draw(32, rng)
                assert np.isfinite(weight).all()
                priorities.update(index, rng.random(32))
        except BaseException as error:  # shown below
            failed.append(error)

    threads = [threading.Thread(target=update, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for number in range(100, 2500):
        add_step(replay, number)
    done.set()
    for thread in threads:
        thread.join()
    assert not failed
    found = counts(priorities)
    assert sorted(found) == list(range(replay.store.tail, replay.store.head - 1))
    known = priorities._known
    for row, leaf in found.items():
        assert leaf == float(known.given[known.places(row)]) ** 0.6


def test_a_call_from_within_another_one_is_refused():
    """As from a signal handler; waiting for its turn would wait for ever."""
    priorities = Priorities(filled(60, 30, frame_stack=1))
    refused = []

    def trace(frame, event, argument):
        if frame.f_code is Priorities._follow.__code__ and not refused:
            refused.append(None)
            with pytest.raises(ReplayError) as caught:
                priorities.update([1], [1.0])
            refused[0] = caught
        return trace

    sys.settrace(trace)
    try:
        priorities.draw(4, np.random.default_rng(0))
    finally:
        sys.settrace(None)
    says(refused[0], "one call at a time | signal handler | after the call")
    priorities.update([1], [1.0])


def test_a_loader_of_sequences_sets_what_is_drawn_before_the_first_draw():
    replay = filled(60, 30, frame_stack=1, nstep=5)
    priorities = Priorities(replay, alpha=1)
    priorities.update([24, 27], [3.0, 4.0])
    priorities.bind(WindowFinder(replay.store, 1))
    found = counts(priorities)
    assert sorted(found) == list(range(29)) and (found[24], found[27]) == tuple(np.float32([3 + EPSILON, 4 + EPSILON]))
    priorities.draw(4, np.random.default_rng(0))
    priorities.bind(WindowFinder(replay.store, 1))
    with pytest.raises(InputError) as caught:
        priorities.bind(WindowFinder(replay.store, 5))
    says(caught, "priorities: expected | another kind | make Priorities for each")


def test_state_goes_through_torch_and_pickle():
    replay = filled(60, 100, frame_stack=2)
    priorities, rng = Priorities(replay), np.random.default_rng(0)
    priorities.update(priorities.draw(32, rng)[0], rng.normal(size=32))
    priorities.beta = 0.9
    state, file = priorities.state_dict(), BytesIO()
    torch.save(state, file)
    file.seek(0)
    for each in (torch.load(file), pickle.loads(pickle.dumps(state)), copy.deepcopy(state)):
        other = Priorities(replay)
        other.load_state_dict(each)
        assert other.beta == 0.9 and counts(other) == counts(priorities)
        draws = [one.draw(64, np.random.default_rng(1)) for one in (other, priorities)]
        assert all(np.array_equal(*pair) for pair in zip(*draws, strict=True))
    assert state["priorities"].nbytes == 4 * (replay.store.head - replay.store.tail)


def test_state_of_an_earlier_time():
    """Steps that have left are ignored; those that came since have the largest priority."""
    replay = filled(60, 50, frame_stack=1)
    priorities = Priorities(replay, alpha=1)
    priorities.update(np.arange(49), np.arange(49))
    state = priorities.state_dict()
    priorities.update([40], [1000.0])
    for number in range(50, 90):
        add_step(replay, number)
    priorities.load_state_dict(state)
    wanted = {row: float(np.float32((row if row < 49 else 48) + EPSILON)) for row in range(replay.store.tail, 89)}
    assert counts(priorities) == wanted


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"alpha": 0.5}, "alpha: expected 0.5, as of the saved priorities, got 0.6"),
        ({"beta": 2}, "beta: expected a number in [0, 1]"),
        ({"largest": 0.0}, "state: expected finite priorities"),
        ({"largest": np.inf}, "largest: expected a finite number"),
        ({"first": -1}, "first: expected an integer from 0 on, got -1"),
        ({"first": 1}, "state: expected priorities of steps below 30 | 31 | later time"),
        ({"priorities": torch.ones(30, dtype=torch.float64)}, "state: expected finite priorities (float32)"),
        ({"priorities": torch.full((30,), torch.nan)}, "state: expected finite priorities (float32)"),
        ({"priorities": -torch.ones(30)}, "state: expected finite priorities (float32)"),
        ({"more": 1}, "state: expected what state_dict of Priorities gave | more"),
    ],
    ids=str,
)
def test_a_state_that_makes_no_sense_changes_nothing(change, sentence):
    priorities = Priorities(filled(60, 30, frame_stack=1))
    priorities.update([1], [3.0])
    before, state = counts(priorities), priorities.state_dict()
    with pytest.raises(InputError) as caught:
        priorities.load_state_dict(state | change)
    says(caught, sentence)
    assert counts(priorities) == before
    with pytest.raises(InputError):
        priorities.load_state_dict(None)


def test_pickling_and_copying_are_refused():
    priorities = Priorities(filled(20))
    for call in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(CopyError) as caught:
            call(priorities)
        says(caught, "priorities | state_dict")


def test_priorities_of_a_reader_and_of_what_is_none():
    replay = filled(20, 30)
    assert counts(Priorities(replay.reader)) == counts(Priorities(replay))
    with pytest.raises(InputError) as caught:
        Priorities(np.zeros(3))
    says(caught, "replay: expected a ReplayBuffer, a ReplayHandle or a ReplayReader, got ndarray")


def test_memory_is_what_the_docstring_says():
    known = known_steps.Known.nothing(0, 1 << 20)
    arrays = [known.given, *known.tree._levels, known.tree._before, known.dependents._first, known.dependents._next]
    assert 20.4 < sum(array.nbytes for array in arrays) / (1 << 20) < 20.7

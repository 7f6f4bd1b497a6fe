"""An interrupt anywhere in `add` or `save`: nothing of that step was stored, and the same call may be made again."""

from __future__ import annotations

import itertools
import signal
import threading
import time

import numpy as np
import pytest
from interrupts import interrupted
from snapshot_tools import CODECS, SIDE, Writer, buffer, contents, decodable, make_directory

from diffreplay import ReplayBuffer
from diffreplay.errors import ReplayError
from diffreplay.store.arena import fence
from diffreplay.store.observations import Step, add_observation
from diffreplay.testing import TimeStep

assert make_directory  # a fixture

LIMITS = {"roomy": {}, "capacity": {"capacity": 30, "shorter_at_end": True}, "cap": {"max_bytes": 400_000}}


def make(codec, limits):
    options = {"capacity": 400, **LIMITS[limits]}
    if "max_bytes" in options and codec.startswith(("zstd", "many")):
        options["max_bytes"] += 9_000_000  # what its coder takes
    elif codec == "delta" and "max_bytes" in options:
        options["max_bytes"] += 100_000  # likewise
    return buffer(codec=CODECS[codec](), nstep=2, **options)


def interrupt_everywhere(call, check):
    """Interrupt a call at its first line, then its second, ..., until it comes through; how many there were."""
    for place in itertools.count():
        if not interrupted(call, place):
            return place
        if place % 9 == 0:
            check()


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("codec", CODECS)
def test_an_interrupted_add_stores_nothing_and_may_be_tried_again(codec, limits):
    """At every line of every 11th of 150 additions; the buffer ends as one that was never interrupted."""
    replay, twin = make(codec, limits), make(codec, limits)
    writer, other = Writer(replay), Writer(twin)
    places = 0
    for number in range(150):
        if number % 11:
            writer.add(1)
        else:
            head, steps = replay.store.head, writer.steps

            def again(head=head, steps=steps):
                assert replay.store.head == head, "a row was published although an interrupt came out"
                writer.steps = steps
                writer.add(1)

            places += interrupt_everywhere(again, replay.check_invariants)
        other.add(1)
    assert places > 14 * 30
    replay.check_invariants()
    assert contents(replay) == contents(twin)
    assert len(replay) == len(twin) and replay.stats().payload_bytes == twin.stats().payload_bytes


def transition(number, side=SIDE):
    """Arguments of `add_transition` number so many of one stream, whose stacks share nothing, now and then."""
    rng = np.random.default_rng(number // 10)
    frames = rng.integers(0, 256, (14, side, side), np.uint8)
    k = number % 10
    obs, next_obs = (frames[j : j + 3] for j in (k, k + 1))
    if number % 4 == 3:
        next_obs = next_obs[::-1]
    return obs, [number], float(number), next_obs, k == 9, False


@pytest.mark.parametrize("codec", CODECS)
def test_an_interrupted_transition_stores_neither_of_its_observations(codec):
    replay, twin = make(codec, "capacity"), make(codec, "capacity")
    for number in range(40):
        if number % 5 == 0:
            head = replay.store.head

            def again(head=head, number=number):
                assert replay.store.head == head
                replay.add_transition(*transition(number))

            interrupt_everywhere(again, replay.check_invariants)
        else:
            replay.add_transition(*transition(number))
        twin.add_transition(*transition(number))
    replay.check_invariants()
    assert contents(replay) == contents(twin)


def test_a_save_interrupted_anywhere_keeps_what_was_saved(directory):
    replay = make("many sets", "capacity")
    writer = Writer(replay)
    writer.add(20)
    replay.save(directory)
    for place in itertools.count(step=23):
        writer.add(3)
        if not interrupted(lambda: replay.save(directory), place):
            break
        replay.check_invariants()
        ReplayBuffer.load(directory, codec=CODECS["many sets"]()).check_invariants()
    replay.save(directory)
    assert place > 100
    assert contents(ReplayBuffer.load(directory, codec=CODECS["many sets"]())) == contents(replay)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python drops those in `__del__`
def test_an_interrupted_save_keeps_the_commit_that_the_caller_knows(directory):
    """A program may save again, and be killed before it noted the new commit."""
    replay = make("raw", "capacity")
    Writer(replay).add(20)
    known, interrupts = replay.save(directory), 0
    for place in range(300, 600):
        returned = []
        if interrupted(lambda: returned.append(replay.save(directory)), place):  # noqa: B023
            interrupts += 1
            returned.append(replay.save(directory))
            assert contents(ReplayBuffer.load(directory, commit=known)) == contents(replay)
        known = returned[0]
    assert interrupts > 100


@pytest.mark.parametrize("codec", ["delta", "zstd", "sparse"])
def test_alarms_at_random_moments(codec):
    """Real signals, which come between two instructions wherever Python looks for them."""
    replay, twin = make(codec, "capacity"), make(codec, "capacity")
    writer, other, rng = Writer(replay), Writer(twin), np.random.default_rng(0)
    alarms, took = 0, 2e-4

    def alarm(*_):
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        while writer.steps < 1500:
            steps = writer.steps
            head = replay.store.head
            try:
                begin = time.perf_counter()
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, max(2e-5, 2 * took)))
                writer.add(1)
                signal.setitimer(signal.ITIMER_REAL, 0)
                took = time.perf_counter() - begin
            except InterruptedError:
                # Later at each, so that on a machine however slow the step comes through.
                alarms, took = alarms + 1, 1.2 * took
                # Between the addition and the next line here, the step is stored.
                writer.steps = steps + (replay.store.head > head)
            if writer.steps % 500 == 0:
                replay.check_invariants()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    other.add(writer.steps)
    replay.check_invariants()
    assert alarms > 50
    assert contents(replay) == contents(twin)


def test_a_fence_interrupted_anywhere_works_again():
    for place in range(12):
        interrupted(fence, place)
        fence()
        fence()


def test_an_addition_from_a_signal_handler_is_refused():
    """It would come in the middle of another; that one goes on unharmed."""
    replay = make("zstd", "roomy")
    writer = Writer(replay)
    writer.add(5)
    messages = []
    original = replay.store.open_stream

    def open_stream(name, stack):
        try:
            writer.add(1)
        except ReplayError as error:
            messages.append(str(error))
        return original(name, stack)

    replay.store.open_stream = open_stream
    writer.add(1)
    del replay.store.open_stream
    assert len(messages) == 1 and "signal handler" in messages[0]
    replay.check_invariants()
    writer.add(5)
    assert len(decodable(replay.store)) == replay.store.head == 11


def test_a_thread_that_ended_in_the_middle_of_a_change_does_not_stop_the_others():
    """Nothing repairs at once where a second interrupt hits the repair; the next thread does."""
    replay = make("zstd", "roomy")
    writer = Writer(replay)
    writer.add(6)
    repair = replay.store._repair

    def fail():
        raise KeyboardInterrupt

    def add_half():
        replay.store._repair = fail
        with pytest.raises(KeyboardInterrupt):
            replay.store.change(half, 0)

    def half():
        add_observation(replay.store, Step((np.ones((3, SIDE, SIDE, 1), np.uint8),), ([1], 0.0, 1.0)), 0, False)
        raise KeyboardInterrupt

    thread = threading.Thread(target=add_half)
    thread.start()
    thread.join()
    replay.store._repair = repair
    writer.add(6)
    replay.check_invariants()
    twin = make("zstd", "roomy")
    Writer(twin).add(12)
    assert contents(replay) == contents(twin)


def test_a_buffer_whose_newest_frame_was_damaged_in_memory_goes_on_after_an_interrupt(directory):
    """The stream begins anew; what else there is can be added to, sampled and saved."""
    replay = make("zstd", "roomy")
    writer = Writer(replay)
    writer.add(40)
    store = replay.store
    newest = store.streams[0].row
    start, length = (int(value[0]) for value in store.locate(np.array([newest])))
    store.memory.log[start : start + length] = b"\xff" * length

    def cut_short():
        add_observation(store, Step((np.ones((3, SIDE, SIDE, 1), np.uint8),), ([1], 0.0, 1.0)), 0, False)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.change(cut_short, 0)
    assert store.streams[0].row < 0
    writer.add(40)
    replay.save(directory)
    assert len(replay.verify()) >= 1 and store.head >= 80


def test_an_observation_array_that_is_used_again():
    """An environment may write every observation into one array."""
    for codec in ("raw", "sparse", "zstd", "delta"):
        replay = ReplayBuffer(500, (3, SIDE, SIDE), (1,), action_dtype="int64", frame_stack=3, codec=codec)
        shared, rng = np.empty((3, SIDE, SIDE), np.uint8), np.random.default_rng(0)
        written = []
        for t in range(300):
            if t % 50 == 0:
                frames = [rng.integers(0, 9, (SIDE, SIDE), np.uint8)] * 3
            changed = frames[-1].copy()
            changed[rng.integers(SIDE), rng.integers(SIDE)] ^= 255
            frames = [*frames[1:], changed]
            shared[:] = frames
            written.append(shared.copy())
            replay.add(TimeStep(shared, np.array([t]), 0.0, 1.0, t % 50 == 0, t % 50 == 49))
        obs, action, _, _, next_obs = (np.asarray(value) for value in replay.sample(640))
        for k in range(640):
            number = int(action[k, 0])
            assert np.array_equal(next_obs[k], written[number]) and np.array_equal(obs[k], written[number - 1])

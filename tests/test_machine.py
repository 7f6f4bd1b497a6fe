"""Anything that may be done to a buffer, in any order: a state machine against the naive oracle, through every codec.

Steps, episodes and transitions of several streams, interrupts anywhere, readers in another process, snapshots that are
saved, loaded, gone back to. With MACHINE_EXAMPLES=1000 in the environment it tries so many sequences, others each time.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from driver import KINDS, Driver
from forms import copied
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from interrupts import interrupted
from snapshot_tools import CODECS, contents, resumed

from diffreplay import ArraySpec, ReplayBuffer
from diffreplay.errors import CorruptDataError, EmptyBufferError
from diffreplay.parts.spec import IMAGE_DTYPES, IMAGE_LAYOUTS, LAYOUTS

EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", 0))
SETTINGS = settings(
    max_examples=EXAMPLES or 12,
    stateful_step_count=40,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    print_blob=True,
    phases=[Phase.generate, Phase.shrink],  # explaining traces, as `interrupted` does
    suppress_health_check=list(HealthCheck),
)
CAP = 1_000_000  # some 60 raw frames of 3 x 48 x 48, and what zstd takes to code them
STREAMS = (0, 1, "left")
DTYPES = ["|b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]

configurations = st.fixed_dictionaries(
    {
        "shape, max_bytes": st.sampled_from([((1, 12, 12), None), ((3, 20, 20), None), ((3, 48, 48), CAP)]),
        "frame_stack": st.integers(1, 4),
        "nstep": st.sampled_from([1, 1, 2, 3, 5]),
        "shorter_at_end": st.booleans(),
        "capacity": st.integers(11, 60),
        "seed": st.integers(0, 2**32),
    }
)
episodes = st.fixed_dictionaries(
    {
        "length": st.integers(1, 30),
        "kind": st.sampled_from(KINDS),
        "start": st.sampled_from(["first frame", "zeros", "arbitrary"]),
        "restarts": st.sampled_from([0.0, 0.0, 0.2]),  # how often a stack is not the last one shifted by one
        "style": st.sampled_from(["dm_env", "gymnasium"]),
        "end": st.sampled_from(["terminated", "truncated", "cut off"]),
        "stream": st.sampled_from(STREAMS),
        "others": st.sampled_from([0.0, 0.0, 0.5]),  # how often another stream's step comes in between
    }
)
ways = st.fixed_dictionaries({"kind": st.sampled_from(KINDS), "start": st.sampled_from(["first frame", "zeros"])})
nexts = st.sampled_from(["shifted", "shifted", "repeated", "still", "reset"])
ends = st.sampled_from([None, None, None, "terminated", "truncated"])


def places(lines):
    """Lines to interrupt a call at, one after the other: mostly none, at most two."""
    return st.one_of(st.just([]), st.lists(st.integers(0, lines), max_size=2))


def sides(layout):
    """Shapes of the array of one step: small, as all that can go wrong is in the number of sides."""
    count = IMAGE_LAYOUTS.get(layout)
    side = st.integers(1, 14) if count else st.integers(1, 3)
    return st.lists(side, min_size=count or 0, max_size=count or 2)


def specs(draw, frame_stack, dtypes, layouts):
    """An `ArraySpec`."""
    layout = draw(st.sampled_from([name for name in layouts if name != "HW" or frame_stack == 1]))
    dtype = draw(st.sampled_from(IMAGE_DTYPES if layout in IMAGE_LAYOUTS else dtypes))
    return ArraySpec(draw(sides(layout)), dtype, layout)


@st.composite
def observations(draw):
    """Options of a buffer: what its observations are made of, and the further values of a step."""
    frame_stack = draw(st.integers(1, 4))
    names = draw(st.lists(st.sampled_from(["front", "wrist", "state", "a/b"]), min_size=1, max_size=4, unique=True))
    parts = {name: specs(draw, frame_stack, DTYPES, LAYOUTS) for name in names}
    named = draw(st.lists(st.sampled_from(["log_prob", "front"]), max_size=2, unique=True))
    return {
        "observation_shape": parts if len(parts) > 1 or draw(st.booleans()) else next(iter(parts.values())),
        "frame_stack": frame_stack,
        "extras": {name: specs(draw, 1, DTYPES, ("",)) for name in named},
        "channels_first": draw(st.booleans()),
        "max_bytes": draw(st.sampled_from([None, None, None, MachineOfParts.cap])),
    }


def nested(observation):
    """An observation as others may pass it: big-endian, with odd strides, in nested mappings, and gone afterwards."""
    if not isinstance(observation, dict):
        return np.asfortranarray(observation)
    found = {
        name: np.asfortranarray(value.astype(value.dtype.newbyteorder(">"))) for name, value in observation.items()
    }
    for name in [name for name in found if "/" in name]:
        outer, inner = name.split("/")
        found[outer] = {inner: found.pop(name)}
    return dict(reversed(found.items()))


class Reader:
    """A forked process that draws when it is asked to, while the buffer goes on here."""

    def __init__(self, replay) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        self._child = os.fork()
        if not self._child:
            try:
                self._ours.close()
                while True:
                    count, seed = theirs.recv()
                    theirs.send(drawn(replay, count, seed))
            finally:
                os._exit(0)
        theirs.close()

    def draw(self, count, seed):
        self._ours.send((count, seed))
        return self._ours.recv()

    def close(self):
        self._ours.close()
        os.waitpid(self._child, 0)


def drawn(replay, count, seed):
    """The arrays of a batch, or what the error says where there is none."""
    try:
        rng = np.random.default_rng(seed)
        batches = replay.sample(count, rng), replay.sample(count, rng, sequence_length=1 + count // 4)
        return [values.numpy().tobytes() for batch in batches for values in batch.tensors()]
    except EmptyBufferError as error:
        return str(error)


class Machine(RuleBasedStateMachine):
    """What the buffer and the oracle do; the oracle's own checks, the buffer's invariants among them, follow each step.

    Args:
        codec: of `CODECS`.

    Attributes:
        cap: one that some buffers have, and holds the few windows that it must.
    """

    cap = CAP

    def __init__(self, codec) -> None:
        super().__init__()
        self.codec = codec
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        self.reader = None
        self.commits = {}  # the two that a snapshot keeps: what each holds
        self.base = None  # the one that the buffer goes on from
        self.places = []  # where the next change is interrupted

    def teardown(self):
        try:
            if hasattr(self, "driver"):
                self.sample_all()
        finally:
            self.leave_reader()
            shutil.rmtree(self.folder)

    @property
    def replay(self):
        return self.oracle.replay

    @property
    def oracle(self):
        return self.driver.oracle

    @initialize(configuration=configurations)
    def make(self, configuration):
        (shape, max_bytes), frame_stack = configuration.pop("shape, max_bytes"), configuration["frame_stack"]
        observation_shape = (frame_stack * shape[0], *shape[1:])
        self.make_buffer(observation_shape=observation_shape, max_bytes=max_bytes, **configuration)

    def make_buffer(self, **options):
        options |= {"action_shape": (1,), "action_dtype": "int64", "discount": 0.97}
        replay = ReplayBuffer(**options, codec=CODECS[self.codec]())
        self.driver = Driver(replay, options["seed"])
        self.oracle.write = self.write

    def write(self, call):
        """Interrupt a change where it is to be; then make it."""
        wanted, self.places = self.places, []
        for place in wanted:
            head = self.oracle.store.head
            if not interrupted(call, place):
                return
            assert self.oracle.store.head == head, "a row was published although an interrupt came out"
            self.replay.check_invariants()
        call()

    # Adding.

    def follow(self, stack, how, way):
        """The observation after `stack`, in one of the ways of `nexts`."""
        if stack is None or how == "reset":
            return self.driver.start(way | {"start": "arbitrary"} if how == "reset" else way)
        if how == "repeated":
            return copied(stack)
        added = self.driver.form.split(stack)[-1] if how == "still" else self.driver.frames.draw(way["kind"])
        return self.driver.shifted(stack, added)

    @rule(stream=st.sampled_from(STREAMS), how=nexts, way=ways, end=ends, anew=st.integers(0, 9), at=places(300))
    def add_step(self, stream, how, way, end, anew, at):
        first = stream not in self.oracle.open or anew == 0
        stack = self.follow(None if first else self.oracle.newest[stream].stack, how, way)
        self.places = at
        discount = 0.0 if end == "terminated" else float(np.float32(self.driver.rng.random()))
        self.oracle.add(stack, self.driver.reward(), discount, first=first, last=end is not None, stream=stream)

    @rule(episode=episodes)
    def add_episode(self, episode):
        self.driver.run(episode)

    @rule(stream=st.sampled_from(STREAMS), hows=st.tuples(nexts, nexts), way=ways, end=ends, at=places(500))
    def add_transition(self, stream, hows, way, end, at):
        known = self.oracle.newest.get(stream) if stream in self.oracle.open else None
        obs = self.follow(known and known.stack, hows[0], way)
        if known and hows[0] == "shifted":
            obs = copied(known.stack)  # else it does not follow the transition before
        ends = {"terminated": end == "terminated", "truncated": end == "truncated"}
        self.places = at
        self.oracle.add_transition(obs, self.driver.reward(), self.follow(obs, hows[1], way), **ends, stream=stream)

    @rule(stream=st.sampled_from(STREAMS), span=st.integers(2, 5), length=st.integers(3, 25), way=ways)
    def add_transitions_over_several_steps(self, stream, span, length, way):
        """Strays, whose frames the store looks for further back."""
        stacks = [self.follow(None, "shifted", way)]
        for _ in range(length + span):
            stacks.append(self.follow(stacks[-1], "shifted", way))
        for t in range(length):
            self.oracle.add_transition(stacks[t], self.driver.reward(), stacks[t + span], stream=stream)

    # Sampling.

    @rule(count=st.integers(1, 40), at=places(400))
    def sample(self, count, at):
        for place in at:
            with suppress(EmptyBufferError):
                interrupted(partial(self.replay.sample, count), place)
        if self.oracle.windows():
            self.oracle.check_batch(self.replay.sample(count))
            assert self.replay.can_sample()
        else:
            with pytest.raises(EmptyBufferError):
                self.replay.sample(count)
            assert not self.replay.can_sample()

    @rule(count=st.integers(1, 20), length=st.integers(1, 9))
    def sample_sequences(self, count, length):
        if self.oracle.sequences(length):
            self.oracle.check_sequences(self.replay.sample(count, sequence_length=length))
        else:
            with pytest.raises(EmptyBufferError):
                self.replay.sample(count, sequence_length=length)

    @rule()
    def list_indices(self):
        windows = self.oracle.windows().values()
        assert sorted(self.replay.indices().tolist()) == sorted(steps[0].row for steps in windows)

    @rule()
    def sample_all(self):
        """Every complete window is drawn, about equally often, and nothing else is."""
        windows = self.oracle.windows()
        if windows:
            numbers = self.oracle.check_batch(self.replay.sample(25 * len(windows)))
            drawn, counts = np.unique(numbers, return_counts=True)
            assert set(drawn.tolist()) == set(windows)
            # A window is missed once in e^25 times; chi-squared over its degrees of freedom is 1 on average.
            chi_squared = ((counts - 25) ** 2 / 25).sum()
            assert chi_squared < len(windows) + 8 * np.sqrt(2 * len(windows)) + 40

    @rule(count=st.integers(1, 40), seed=st.integers(0, 99), anew=st.booleans())
    def ask_reader(self, count, seed, anew):
        """Another process draws what this one does; it was forked now, or some time ago."""
        if anew or self.reader is None:
            self.leave_reader()
            self.reader = Reader(self.replay)
        found, expected = self.reader.draw(count, seed), drawn(self.replay, count, seed)
        assert found == expected

    def leave_reader(self):
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    # Snapshots.

    def loaded(self, **options):
        return ReplayBuffer.load(self.folder / "saved", codec=CODECS[self.codec](), **options)

    @rule(at=places(2500))
    def save(self, at):
        directory, before = self.folder / "saved", self.commits.get(self.base)
        whole = all(self.oracle.is_whole(step) for step in self.oracle.newest.values())
        digest = contents(self.replay) if whole else None  # else streams begin anew once it is loaded
        commits = []
        for place in at:
            if interrupted(lambda: commits.append(self.replay.save(directory)), place):
                self.replay.check_invariants()
                self.check_saved([digest, *(held["digest"] for held in self.commits.values())])
            else:
                break
        commit = commits[0] if commits else self.replay.save(directory)
        held = {"digest": digest, "oracle": resumed(self.oracle, self.replay)}
        self.commits = {self.base: before} if before and self.base != commit else {}
        self.commits[commit] = held
        self.base = commit

    def check_saved(self, digests):
        """The snapshot is one of those that it may be, if there was one."""
        try:
            found = contents(self.loaded())
        except CorruptDataError:
            assert not self.commits
        else:
            assert found in digests or None in digests

    @precondition(lambda self: self.commits)
    @rule(older=st.booleans(), cap=st.sampled_from(["saved", "saved", None, "cap"]), at=places(2500))
    def load(self, older, cap, at):
        """Go on with the newest commit, or with the one before."""
        self.base = list(self.commits)[0 if older else -1]
        held = self.commits[self.base]
        for place in at:
            interrupted(partial(self.loaded, commit=self.base), place)
        replay = self.loaded(commit=self.base, max_bytes=self.cap if cap == "cap" else cap)
        assert replay.verify() == []
        if cap == "saved" and held["digest"] is not None:
            assert contents(replay) == held["digest"]
        self.leave_reader()
        self.driver.oracle = resumed(held["oracle"], replay)
        self.oracle.check()
        self.sample_all()


class MachineOfParts(Machine):
    """The same with observations of several parts, of any shapes, dtypes and layouts, images or none."""

    cap = 3 * CAP

    @initialize(configuration=configurations, observations=observations(), odd=st.booleans())
    def make(self, configuration, observations, odd):
        del configuration["shape, max_bytes"]
        self.make_buffer(**configuration | observations)
        if odd:
            self.oracle.pass_on = nested


@pytest.mark.parametrize("codec", CODECS)
def test_anything_in_any_order_with_several_parts(codec):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_state_machine_as_test(partial(MachineOfParts, codec), settings=SETTINGS)


@pytest.mark.parametrize("codec", CODECS)
def test_anything_in_any_order(codec):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # first steps in mid-episode, strays
        run_state_machine_as_test(partial(Machine, codec), settings=SETTINGS)

"""Random episodes through every codec, against the naive oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import Oracle

from diffreplay import ReplayBuffer, codecs
from diffreplay.codecs.base import SetPlanner

KINDS = ("moving", "constant", "noise")
CAP = 900_000  # some 60 raw frames of 3 x 48 x 48, and what zstd takes to code them


class EveryFewRows(SetPlanner):
    """Builds a set of the newest frames every 9 rows, so that many sets come and go."""

    def __init__(self) -> None:
        self.next = 5

    def due(self, head):
        return head >= self.next

    def choose(self, store):
        self.next = store.head + 9
        return store.read(np.arange(max(store.tail, store.head - 3), store.head))


class RestlessZstd(codecs.ZstdCodec):
    """Zstandard with a new reference set every few rows."""

    def __init__(self) -> None:
        super().__init__(level=1, set_frames=4)

    def planner(self, frame_shape):
        return EveryFewRows()


CODECS = codecs.REGISTRY | {"zstd, many sets": RestlessZstd}


class Frames:
    """Draws frames (C, H, W) of a kind."""

    def __init__(self, shape, seed) -> None:
        self.shape, self.rng = shape, np.random.default_rng(seed)
        self.background = self.rng.integers(0, 256, shape, np.uint8)

    def draw(self, kind):
        if kind == "noise":
            return self.rng.integers(0, 256, self.shape, np.uint8)
        if kind == "constant":
            return np.full(self.shape, self.rng.integers(3), np.uint8)  # 0 looks like padding
        frame = self.background.copy()
        y, x = self.rng.integers(0, 8, 2)
        frame[:, y : y + 5, x : x + 5] = self.rng.integers(256)
        return frame


configurations = st.fixed_dictionaries(
    {
        "shape, max_bytes": st.sampled_from(
            [((1, 12, 12), None), ((3, 20, 20), None), ((3, 32, 32), None), ((3, 48, 48), CAP)]
        ),
        "frame_stack": st.integers(1, 4),
        "nstep": st.integers(1, 5),
        "shorter_at_end": st.booleans(),
        "capacity": st.integers(11, 70),
        "seed": st.integers(0, 2**32),
    }
)
episodes = st.fixed_dictionaries(
    {
        "length": st.integers(1, 40),
        "kind": st.sampled_from(KINDS),
        "start": st.sampled_from(["first frame", "zeros", "arbitrary"]),
        "restarts": st.sampled_from([0.0, 0.0, 0.2]),  # how often a stack is not the last one shifted by one
        "style": st.sampled_from(["dm_env", "gymnasium"]),
        "end": st.sampled_from(["terminated", "truncated", "cut off"]),
        "stream": st.integers(0, 2),
        "others": st.sampled_from([0.0, 0.0, 0.5]),  # how often another stream's step comes in between
    }
)


class Driver:
    """Turns episodes into calls of the oracle."""

    def __init__(self, replay, shape, seed) -> None:
        self.oracle, self.frames = Oracle(replay), Frames(shape, seed)
        self.rng, self.frame_stack = self.frames.rng, self.oracle.frame_stack

    def start(self, episode):
        newest = self.frames.draw(episode["kind"])
        if episode["start"] == "arbitrary":
            return np.concatenate([self.frames.draw(episode["kind"]) for _ in range(self.frame_stack)])
        older = newest if episode["start"] == "first frame" else np.zeros_like(newest)
        return np.concatenate([older] * (self.frame_stack - 1) + [newest])

    def follow(self, stack, episode):
        if self.rng.random() < episode["restarts"]:
            return self.start(episode | {"start": "arbitrary"})
        newest = self.frames.draw(episode["kind"])
        return np.concatenate([stack[len(newest) :], newest])

    def run(self, episode):
        """Add an episode and, here and there, steps of stream 3 and 4 in between."""
        add = self.run_transition if episode["style"] == "gymnasium" else self.run_step
        stack = None
        for t in range(episode["length"] + 1):
            end = episode["end"] if t == episode["length"] else None
            stack = add(stack, episode, end, episode["stream"])
            if self.rng.random() < episode["others"]:
                self.run_other(episode)

    def run_step(self, stack, episode, end, stream):
        first = stack is None
        stack = self.start(episode) if first else self.follow(stack, episode)
        discount = 0.0 if end == "terminated" else float(np.float32(self.rng.random()))
        last = end in ("terminated", "truncated")
        self.oracle.add(stack, self.reward(), discount, first=first, last=last, stream=stream)
        return stack

    def run_transition(self, stack, episode, end, stream):
        obs = self.start(episode) if stack is None else stack
        next_obs = self.follow(obs, episode)
        ends = {"terminated": end == "terminated", "truncated": end == "truncated"}
        self.oracle.add_transition(obs, self.reward(), next_obs, **ends, stream=stream)
        return next_obs

    def run_other(self, episode):
        stream = int(self.rng.integers(3, 5))
        known = self.oracle.newest.get(stream) if stream in self.oracle.open else None
        end = "truncated" if self.rng.random() < 0.1 and known else None
        self.run_step(None if known is None else known.stack, episode, end, stream)

    def reward(self):
        return float(np.float32(self.rng.normal()))

    def check_samples(self):
        """Every complete window is drawn, about equally often, and nothing else is."""
        windows = self.oracle.windows()
        if windows:
            size = 25 * len(windows)
            drawn = self.oracle.check_batch(self.oracle.replay.sample(size))
            numbers, counts = np.unique(drawn, return_counts=True)
            assert set(numbers.tolist()) == set(windows)
            # A window is missed once in e^25 times; chi-squared over its degrees of freedom is 1 on average.
            chi_squared = ((counts - 25) ** 2 / 25).sum()
            assert chi_squared < len(windows) + 8 * np.sqrt(2 * len(windows)) + 40


@pytest.mark.filterwarnings("ignore:a first step came in mid-episode")
@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(configuration=configurations, plan=st.lists(episodes, min_size=1, max_size=10))
def test_against_the_oracle(codec, configuration, plan):
    (shape, max_bytes), frame_stack = configuration["shape, max_bytes"], configuration["frame_stack"]
    replay = ReplayBuffer(
        configuration["capacity"],
        (frame_stack * shape[0], *shape[1:]),
        (1,),
        action_dtype="int64",
        frame_stack=frame_stack,
        nstep=configuration["nstep"],
        shorter_at_end=configuration["shorter_at_end"],
        discount=0.97,
        codec=CODECS[codec](),
        max_bytes=max_bytes,
        seed=configuration["seed"],
    )
    driver = Driver(replay, shape, configuration["seed"])
    for episode in plan:
        driver.run(episode)
        driver.check_samples()

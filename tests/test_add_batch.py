"""`add_batch`: bit for bit as one by one, all or nothing, and each wrong use refused with the buffer as it was."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from interrupts import interrupted
from says import says
from snapshot_tools import EveryNineRows

from diffreplay import ArraySpec, ReplayBuffer, codecs
from diffreplay.errors import InputError, ReplayError
from diffreplay.store import episodes

SIDE = 12
PARTS = {
    "front": ArraySpec((1, SIDE, SIDE)),
    "wrist": ArraySpec((3, 6, 5)),
    "depth": ArraySpec((4, 6, 1), "uint16", "HWC"),
    "state": ArraySpec((3,), "float64"),
}


class RestlessDelta(codecs.DeltaCodec):
    """`delta` with a new reference set every few rows."""

    def planner(self, frame_shape):
        return EveryNineRows()


CODECS = codecs.REGISTRY | {"many sets": RestlessDelta}
LIMITS = {"roomy": {}, "capacity": {"capacity": 40, "shorter_at_end": True}, "cap": {"max_bytes": 800_000}}
MORE = {"zstd": 15_000_000, "delta": 600_000, "many sets": 3_000_000}


def buffer(codec, limits="roomy", parts=PARTS, frame_stack=2, nstep=2, **options):
    options = {"capacity": 500, **LIMITS[limits], **options}
    if "max_bytes" in options:
        options["max_bytes"] += MORE.get(codec, 0)  # what coding takes
    extras = {"log_prob": ArraySpec((), "float32")}
    return ReplayBuffer(
        options.pop("capacity"),
        parts,
        (2,),
        frame_stack=frame_stack,
        nstep=nstep,
        codec=CODECS[codec](),
        extras=extras,
        **options,
    )


class Environments:
    """Steps of several environments; some end, some pause, some jump to an observation that does not follow."""

    def __init__(self, count, parts=PARTS, frame_stack=2, seed=0, jumps=0.05, ends=0.05):
        self.rng, self.count, self.parts, self.frame_stack = np.random.default_rng(seed), count, parts, frame_stack
        self.jumps, self.ends, self.steps = jumps, ends, 0
        self.frames = [self._begin() for _ in range(count)]

    def _frame(self):
        noisy = self.rng.random() < 0.2
        return {
            name: (
                np.frombuffer(self.rng.bytes(int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize), spec.dtype)
                if noisy or not spec.is_image
                else np.full(int(np.prod(spec.shape)), self.rng.integers(200), spec.dtype)
            ).reshape(spec.shape)
            for name, spec in self.parts.items()
        }

    def _begin(self):
        kind = self.rng.integers(3)
        frames = [self._frame() for _ in range(self.frame_stack)]
        return frames if kind == 0 else frames[:1] * self.frame_stack

    def _stacked(self, frames):
        axis = {name: 2 if spec.layout == "HWC" else 0 for name, spec in self.parts.items()}
        return {name: np.concatenate([frame[name] for frame in frames], axis[name]) for name in self.parts}

    def step(self):
        """Arguments of `add_batch` for those environments that take part."""
        rng, took = self.rng, np.flatnonzero(self.rng.random(self.count) < 0.9)
        transitions = []
        for k in took.tolist():
            if rng.random() < self.jumps:
                self.frames[k] = self._begin()
            before = self.frames[k]
            after = self.frames[k] = [*before[1:], self._frame()]
            ended = rng.random() < self.ends
            if ended:
                self.frames[k] = self._begin()
            self.steps += 1
            action = np.array([self.steps, k], np.float32)
            transitions.append(
                (
                    self._stacked(before),
                    action,
                    float(self.steps),
                    self._stacked(after),
                    ended,
                    rng.random() < self.ends / 2,
                    int(k),
                    {"log_prob": np.float32(self.steps)},
                )
            )
            if transitions[-1][5] and not ended:
                self.frames[k] = self._begin()
        return transitions


def batched(transitions):
    """Transitions as arguments of `add_batch`."""
    columns = list(zip(*transitions, strict=True))
    for place in (0, 3, 7):
        columns[place] = {name: np.stack([each[name] for each in columns[place]]) for name in columns[place][0]}
    return [column if isinstance(column, dict) else np.array(column) for column in columns]


def contents(replay):
    """All that a buffer holds and that decides how it goes on, bit for bit."""
    store, found = replay.store, {}
    rows = np.arange(*store.bounds())
    found["bounds"] = store.bounds()
    starts, ends = store.index.spans(rows)
    log, ring = store.memory.log, store.layout.log_bytes
    found["log"] = [
        bytes(log[a % ring : a % ring + b - a]) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
    found["places"] = starts.tolist(), ends.tolist()
    for column in store.layout.index + store.layout.scalars:
        found[column.name] = store.column(column.name, rows).tobytes()
    for image, sets in enumerate(store.sets):
        found["sets", image] = [(n, sets.first_row(n), bytes(sets.frames(n))) for n in sets.numbers()]
        found["serving", image] = sets.serving(rows).tolist()
    found["streams"] = [
        (name, stream.row, stream.is_open, stream.needed, [part.tobytes() for part in stream.stack])
        for name, stream in store.streams.items()
    ]
    found["checks"] = [getattr(planner, "next_check", None) for planner in store.planning.planners]
    found["stats"] = replay.stats()
    return found


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("codec", ["delta", "zstd", "raw"])
def test_environments_that_all_go_on_are_written_in_one_go_and_no_differently(codec, limits, monkeypatch):
    """Long episodes, so that most batches are; rows leave meanwhile, and blocks and log extents begin."""
    runs, append_run = [], episodes.append_run

    def counted(*arguments):
        runs.append(append_run(*arguments))
        return runs[-1]

    monkeypatch.setattr(episodes, "append_run", counted)
    replay, twin = buffer(codec, limits), buffer(codec, limits)
    envs = Environments(6, jumps=0, ends=0.002)
    for number in range(300):
        transitions = envs.step()
        *arguments, streams, extras = batched(transitions)
        replay.add_batch(*arguments, streams, extras)
        for each in transitions:
            twin.add_transition(*each)
        if number % 60 == 59:
            assert contents(replay) == contents(twin)
            replay.check_invariants()
    assert sum(runs) > 150 and not all(runs)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_is_bit_for_bit_what_its_transitions_are_one_by_one(codec, limits):
    replay, twin = buffer(codec, limits), buffer(codec, limits)
    envs, published = Environments(7), 0
    for number in range(40):
        transitions = envs.step()
        if not transitions:
            continue
        head = replay.store.head
        *arguments, streams, extras = batched(transitions)
        replay.add_batch(*arguments, streams, extras)
        published += replay.store.head > head
        for each in transitions:
            twin.add_transition(*each)
        if number % 8 == 7:
            assert contents(replay) == contents(twin)
            replay.check_invariants()
    assert published > 35
    assert len(replay) == len(twin) and replay.stats().payload_bytes == twin.stats().payload_bytes
    if "many" in codec:
        assert replay.store.sets[0].numbers().stop > 10


@pytest.mark.parametrize("nstep", [1, 3])
def test_streams_that_do_not_follow_are_found_again_as_one_by_one(nstep):
    """Two environments in turns in one stream, in each of three streams."""
    replay, twin = (buffer("delta", parts={"front": PARTS["front"]}, nstep=nstep) for _ in range(2))
    envs = [Environments(3, {"front": PARTS["front"]}, seed=seed, jumps=0) for seed in range(2)]
    for number in range(60):
        transitions = envs[number % 2].step()
        if not transitions:
            continue
        *arguments, streams, extras = batched(transitions)
        replay.add_batch(*arguments, streams, extras)
        for each in transitions:
            twin.add_transition(*each)
    assert contents(replay) == contents(twin)
    replay.check_invariants()


def test_many_frames_are_coded_the_same_by_any_number_of_threads():
    """Noisy frames take long enough for threads to be worth it."""
    rng, codec = np.random.default_rng(0), codecs.DeltaCodec()
    shape = (84, 84, 3)
    references = rng.integers(0, 40, (8, *shape), np.uint8)
    frames = references[rng.integers(0, 8, 24)].copy()
    frames[rng.random(frames.shape) < 0.1] += 3
    frames[5] = rng.integers(0, 256, shape)
    opened = codec.open_set(references.reshape(-1).data, shape)
    expected = [codec.encode(frame, opened) for frame in frames]
    assert expected[5] is None and sum(blob is not None for blob in expected) == 23
    core = pytest.importorskip("diffreplay.codecs.delta._core")
    for helpers in (0, 1, 3, 30):
        for _ in range(5):
            assert core.encode_many(opened.index, opened.data, frames, helpers) == expected
    assert codec.encode_many(frames, opened) == expected
    assert core.encode_many(opened.index, opened.data, frames[:0], 2) == []
    with pytest.raises(ValueError):
        core.encode_many(opened.index, opened.data, frames.reshape(-1)[1:], 2)


@pytest.mark.parametrize("codec", ["delta", "many sets", "sparse"])
def test_an_interrupted_batch_stores_nothing_and_may_be_tried_again(codec):
    """At every 7th line, with sets built and rows evicted in mid-batch; it ends as one that was never interrupted."""
    parts = {"front": PARTS["front"], "state": PARTS["state"]}
    replay, twin = (buffer(codec, "capacity", parts) for _ in range(2))
    envs, places = Environments(4, parts, jumps=0), 0
    for number in range(26):
        *arguments, streams, extras = batched(envs.step())
        twin.add_batch(*arguments, streams, extras)
        if number < 20:
            replay.add_batch(*arguments, streams, extras)
            continue
        head, transitions = replay.store.head, len(streams)
        for place in itertools.count(number % 7, step=7):
            if not interrupted(lambda: replay.add_batch(*arguments, streams, extras), place):  # noqa: B023
                break
            assert replay.store.head == head, "a row was published although an interrupt came out"
            places += 1
            if place % 5 == 0:
                replay.check_invariants()
        assert replay.store.head >= head + transitions
    assert places > 200
    replay.check_invariants()
    assert contents(replay) == contents(twin)


def plain(count=4, value=0, stack=2):
    """Arguments of `add_batch` of a buffer of `half_full`."""
    obs = {"front": np.full((count, stack, SIDE, SIDE), value, np.uint8), "state": np.zeros((count, stack * 3))}
    next_obs = {"front": np.full((count, stack, SIDE, SIDE), value, np.uint8), "state": np.ones((count, stack * 3))}
    flags = np.zeros(count, bool)
    return {
        "obs": obs,
        "action": np.zeros((count, 2), "f4"),
        "reward": np.zeros(count),
        "next_obs": next_obs,
        "terminated": flags,
        "truncated": flags.copy(),
    }


def half_full():
    replay = ReplayBuffer(
        60, {"front": PARTS["front"], "state": PARTS["state"]}, (2,), frame_stack=2, extras={"log_prob": ArraySpec(())}
    )
    for _ in range(3):
        replay.add_batch(**plain(), extras={"log_prob": np.zeros(4, np.uint8)})
    return replay


def without(name):
    arguments = plain()
    del arguments["obs"][name]
    return arguments


FRONT, STATE = plain()["obs"]["front"], plain()["obs"]["state"]
WRONG = {
    "missing part": (without("state"), "obs", "'front', 'state' | 'state' is missing"),
    "unknown part": ({"next_obs": {"front": FRONT, "state": STATE, "wrist": FRONT}}, "next_obs", "'wrist' is unknown"),
    "no mapping": ({"obs": FRONT}, "obs", "a mapping with the parts 'front', 'state' | ndarray"),
    "shape of a part": (
        {"obs": {"front": FRONT[:, :, :6], "state": STATE}},
        "obs['front']",
        "(4, 2, 12, 12) | (4, 2, 6, 12)",
    ),
    "shape of the other part": ({"obs": {"front": FRONT, "state": STATE[:, :5]}}, "obs['state']", "(4, 6) | (4, 5)"),
    "float image": (
        {"next_obs": {"front": FRONT / 255, "state": STATE}},
        "next_obs['front']",
        "uint8 | float64 | images are uint8",
    ),
    "one image": ({"obs": {"front": FRONT[0], "state": STATE[0]}}, "obs", "as many environments in each part"),
    "N of an action": ({"action": np.zeros((3, 2))}, "add_batch", "as many environments | 4 in obs | 3 in action"),
    "N of a reward": ({"reward": np.zeros(5)}, "add_batch", "5 in reward"),
    "N of flags": ({"truncated": np.zeros(3, bool)}, "add_batch", "3 in truncated"),
    "N of next_obs": ({"next_obs": plain(5)["next_obs"]}, "add_batch", "4 in obs | 5 in next_obs"),
    "N of a part": (
        {"obs": {"front": FRONT, "state": STATE[:3]}},
        "obs",
        "as many environments in each part | 4 and 3",
    ),
    "N of extras": ({"extras": {"log_prob": np.zeros(3, np.uint8)}}, "add_batch", "3 in extras"),
    "N of streams": ({"streams": [1, 2, 3]}, "add_batch", "3 in streams"),
    "N of skip": ({"skip": np.zeros(3, bool)}, "add_batch", "3 in skip"),
    "a single flag": ({"terminated": True}, "terminated", "an entry for each environment | a single bool"),
    "a single reward": ({"reward": 0.5}, "reward", "an entry for each environment | a single float64"),
    "flags of two columns": ({"terminated": np.zeros((4, 1), bool)}, "terminated", "4 flags | (4, 1)"),
    "flags of 2": ({"truncated": [0, 1, 2, 0]}, "truncated", "True or False | [0, 1, 2, 0]"),
    "flags of text": ({"truncated": ["no"] * 4}, "truncated", "4 flags"),
    "a stream named twice": ({"streams": ["a", "b", "a", "c"]}, "streams", "each stream once | 'a' twice"),
    "one stream in two types": ({"streams": [0, np.int64(0), 1, 2]}, "streams", "0 twice"),
    "a stream of a float": ({"streams": [0.5, 1, 2, 3]}, "stream", "an integer or a string | 0.5"),
    "one stream for all": ({"streams": 7}, "streams", "a name for each environment | 7"),
    "NaN reward": ({"reward": [0.0, 1.0, np.nan, 0.0]}, "reward[2]", "finite number | nan"),
    "reward beyond float32": ({"reward": [0.0, 1e39, 0.0, 0.0]}, "reward[1]", "finite number (float32) | 1e+39"),
    "rewards of text": ({"reward": ["a"] * 4}, "reward", "4 numbers"),
    "ragged rewards": ({"reward": [[1], [1, 2], [], []]}, "reward", "an entry for each environment"),
    "shape of an action": ({"action": np.zeros((4, 3))}, "action", "(4, 2) | (4, 3)"),
    "NaN action": ({"action": np.full((4, 2), np.nan)}, "action", "finite numbers"),
    "no extras": ({"extras": None}, "extras", "'log_prob'"),
    "extras that it does not hold": ({"extras": {"log_prob": np.full(4, 300)}}, "extras['log_prob']", "0 to 255"),
    "infos of a list": ({"infos": [1]}, "infos", "mapping"),
    "no last observation": (
        {"infos": {"final_obs": [None] * 4}, "terminated": np.array([0, 1, 0, 0], bool)},
        "infos",
        "environment 1",
    ),
    "a wrong last observation": (
        {"infos": {"final_obs": [{"front": FRONT[0]}] * 4}, "terminated": np.array([0, 1, 0, 0], bool)},
        "infos['final_obs'][1]",
        "'state' is missing",
    ),
    "too many at once": (
        {**plain(61), "extras": {"log_prob": np.zeros(61, np.uint8)}},
        "add_batch",
        "at most | 60 | 61",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_use_has_its_sentence_and_leaves_the_buffer_as_it_was(case):
    changes, argument, needles = WRONG[case]
    replay = half_full()
    before = contents(replay)
    arguments = {**plain(), "extras": {"log_prob": np.zeros(4, np.uint8)}, **changes}
    with pytest.raises(InputError) as caught:
        replay.add_batch(**arguments)
    says(caught, argument + ":", needles)
    assert isinstance(caught.value, ReplayError) and "\n" not in str(caught.value)
    assert contents(replay) == before
    replay.add_batch(**plain(), extras={"log_prob": np.zeros(4, np.uint8)})
    replay.check_invariants()


def test_a_cap_that_does_not_hold_a_batch_refuses_it():
    replay = ReplayBuffer(
        20_000, (2, 64, 64), (), action_dtype="int64", frame_stack=2, codec="raw", max_bytes=7_000_000
    )
    obs = np.zeros((600, 2, 64, 64), np.uint8)
    arguments = obs, np.zeros(600, int), np.zeros(600), obs, np.zeros(600, bool), np.zeros(600, bool)
    before = contents(replay)
    with pytest.raises(InputError) as caught:
        replay.add_batch(*arguments)
    says(caught, "add_batch:", "max_bytes of at least", "7000000", "fewer")
    assert contents(replay) == before
    replay.add_batch(*(values[:8] for values in arguments))
    assert len(replay) == 8


def test_extras_come_back_with_their_transitions():
    extras = {
        "log_prob": ArraySpec((), "float32"),
        "hidden": ArraySpec((2, 3), "float64"),
        "mode": ArraySpec((), "int64"),
    }
    replay = ReplayBuffer(100, {"state": ArraySpec((2,), "float32")}, (), frame_stack=1, extras=extras)
    rng, obs, added = np.random.default_rng(0), np.zeros((5, 2), np.float32), {}
    for t in range(12):
        reward, next_obs = 5.0 * t + np.arange(5), rng.normal(size=(5, 2)).astype(np.float32)
        values = {
            "log_prob": -rng.random(5).astype(np.float32),
            "hidden": rng.normal(size=(5, 2, 3)),
            "mode": rng.integers(-(2**60), 2**60, 5),
        }
        replay.add_batch(
            {"state": obs}, np.zeros(5), reward, {"state": next_obs}, [False] * 5, [False] * 5, None, values
        )
        added |= {int(r): {name: value[k] for name, value in values.items()} for k, r in enumerate(reward)}
        obs = next_obs
    batch = replay.sample(200)
    for k, number in enumerate(batch.reward[:, 0].long().tolist()):
        for name, value in added[number].items():
            assert np.array_equal(batch.extras[name][k].numpy(), value), name


def test_what_is_added_may_be_lists_tensors_and_empty():
    replay, twin = (ReplayBuffer(50, (2, 8, 8), (), action_dtype="int64", frame_stack=2) for _ in range(2))
    rng = np.random.default_rng(0)
    obs, next_obs = rng.integers(0, 256, (2, 3, 2, 8, 8), np.uint8)
    flags = [False, True, False], [0, 0, 1]
    replay.add_batch(list(obs), [1, 2, 3], [0.5, 1, 2], next_obs, *flags, ["a", "b", "c"])
    tensors = [torch.tensor(values) for values in (obs, [1, 2, 3], [0.5, 1, 2], next_obs, *flags)]
    twin.add_batch(*tensors, streams=np.array(["a", "b", "c"]))
    assert contents(replay) == contents(twin) and len(replay) == 3
    replay.add_batch(obs[:0], np.zeros(0, int), [], next_obs[:0], [], [], [])
    replay.add_batch(obs, [1, 2, 3], [0.5, 1, 2], next_obs, *flags, ["a", "b", "c"], skip=[True] * 3)
    assert contents(replay) == contents(twin), "nothing was left to add"

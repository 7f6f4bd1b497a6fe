"""Dict observations of several images: one store and one index for all, and each image comes back bit for bit."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from interrupts import interrupted
from sb3_games import assert_same
from stable_baselines3.common.buffers import DictReplayBuffer, DictRolloutBuffer

from diffreplay import codecs
from diffreplay.errors import InputError
from diffreplay.sb3 import CompressedDictReplayBuffer, CompressedDictRolloutBuffer, CompressedReplayBuffer
from diffreplay.store import check_invariants
from tests.sb3.test_frames import SIDE, pictures

ENVS = 2
# How an image of (stack, channels, SIDE, SIDE) lies in an observation, and its shape.
LAYOUTS: dict[str, Any] = {
    "first": lambda images: images.reshape(-1, SIDE, SIDE),
    "last": lambda images: images.reshape(-1, SIDE, SIDE).transpose(1, 2, 0),
    "apart": lambda images: images,
}


class World:
    """Steps of two environments that see several cameras, as `DictReplayBuffer.add` takes them.

    Args:
        cameras: of each (frames in an observation, channels, layout).
        noisy: cameras that show noise, which continues nothing.
        still: cameras whose picture changes at an episode's start alone.
    """

    def __init__(
        self, cameras: dict[str, tuple[int, int, str]], noisy: tuple[str, ...] = (), still: tuple = ()
    ) -> None:
        self.cameras, self.noisy, self.still = cameras, noisy, still
        self.episode = 10
        frames = [pictures(400, channels, number) for number, (_, channels, _) in enumerate(cameras.values())]
        self.frames = dict(zip(cameras, frames, strict=True))
        sample = self.observe(0, 0)
        images = {name: spaces.Box(0, 255, sample[name].shape[1:], np.uint8) for name in cameras}
        self.space = spaces.Dict({**images, "place": spaces.Box(-1, 1, (2,))})
        self.options: dict[str, Any] = {"action_space": spaces.Discrete(2), "n_envs": ENVS, "device": "cpu"}

    def observe(self, first: int, age: int) -> dict[str, np.ndarray]:
        """The observation so many steps after the episode's first one, which began with step `first`."""
        found: dict[str, Any] = {"place": np.full((ENVS, 2), (first + age) / 1000, np.float32)}
        for number, (name, (stack, _, layout)) in enumerate(self.cameras.items()):
            ages = np.maximum(np.arange(age - stack + 1, age + 1), 0) * (name not in self.still)
            begin = 13 * first // self.episode  # no picture of the episode before
            pixels = [self.frames[name][(begin + ages + 150 * env) % 400] for env in range(ENVS)]
            if name in self.noisy:
                rng = np.random.default_rng((number, first, age))
                pixels = list(rng.integers(0, 256, np.shape(pixels), np.uint8))
            found[name] = np.stack(list(map(LAYOUTS[layout], pixels)))
        return found

    def step(self, number: int) -> tuple[Any, ...]:
        """What `add` takes."""
        age = number % self.episode
        obs, after = (self.observe(number - age, age + k) for k in (0, 1))
        done = np.full(ENVS, age == self.episode - 1)
        return obs, after, np.zeros(ENVS, int), np.full(ENVS, number, np.float32), done, [{}] * ENVS

    def make(self, size: int, **options: Any) -> CompressedDictReplayBuffer:
        return CompressedDictReplayBuffer(size * ENVS, self.space, **self.options, **options)

    def theirs(self, size: int) -> DictReplayBuffer:
        return DictReplayBuffer(size * ENVS, self.space, **self.options)


ROBOT = {"front": (1, 3, "first"), "wrist": (1, 3, "first")}
MIXED = {
    "front": (3, 1, "first"),  # guessed to be one RGB image
    "wrist": (1, 3, "first"),
    "pair": (1, 6, "first"),  # guessed to be two
    "last": (3, 1, "last"),
    "apart": (4, 1, "apart"),
    "depth": (1, 1, "first"),
}


def images(buffer: Any) -> dict[str, np.ndarray]:
    """All images of a buffer, decoded or plain."""
    names = ("observations", "next_observations")
    arrays = {name: getattr(buffer, name) for name in names if hasattr(buffer, name)}
    return {f"{name} {key}": np.array(array) for name, its in arrays.items() for key, array in its.items()}


def assert_holds(ours: Any, theirs: Any) -> None:
    """Every array, written or not."""
    for store in ours._image_stores():
        check_invariants(store.frames)
    expected = images(theirs)
    for name, array in images(ours).items():
        assert np.array_equal(array, expected[name]), name
    for seed in range(3):
        np.random.seed(seed)
        batch = theirs.sample(20)
        np.random.seed(seed)
        assert_same(ours.sample(20), batch)


@pytest.mark.parametrize("codec", ["raw", "delta"])
def test_cameras_share_one_index(codec: str) -> None:
    """As many coded bytes as the cameras take by themselves, but one index, and one table of entries, for both."""
    world, size = World(ROBOT), 100
    both = world.make(size, codec=codec)
    alone = {
        name: CompressedReplayBuffer(size * ENVS, world.space[name], **world.options, codec=codec) for name in ROBOT
    }
    for number in range(size):
        obs, after, *rest = world.step(number)
        both.add(obs, after, *rest)
        for name, buffer in alone.items():
            buffer.add(obs[name], after[name], *rest)
    stats, (first, second) = both.stats(), [buffer.stats() for buffer in alone.values()]
    assert len(both._image_stores()) == 1
    assert stats.frames == first.frames + second.frames
    assert stats.payload_bytes == first.payload_bytes + second.payload_bytes
    assert stats.stacked_bytes == first.stacked_bytes + second.stacked_bytes
    tables = 2 * 4 * size * ENVS
    rows, index = first.frames, (first.index_bytes - tables) // first.frames
    assert stats.index_bytes == rows * (index + 4) + tables, "only where its frame ends is an image's own"
    assert stats.total_bytes < first.total_bytes + second.total_bytes - first.scalar_bytes


def test_one_cap_for_all_cameras() -> None:
    """Bytes that one camera leaves go to the other, and what a store takes besides frames is taken once."""
    world, cap = World(ROBOT, noisy=("wrist",)), 1_000_000
    buffer, theirs = world.make(400, max_bytes=cap), world.theirs(400)
    for number in range(450):
        for each in (buffer, theirs):
            each.add(*world.step(number))
        assert buffer.stats().total_bytes <= cap
    assert buffer.size() > 165, "with half of the cap for each camera it was 140"
    kept = (buffer.pos - 1 - np.arange(buffer.size())) % buffer.buffer_size
    for name in world.cameras:
        assert np.array_equal(buffer.next_observations[name][kept], theirs.next_observations[name][kept])


@pytest.mark.parametrize("codec", ["raw", "sparse", "zstd", codecs.DeltaCodec(set_frames=4)])
@pytest.mark.parametrize("size", [12, 70])
def test_cameras_of_any_layout(codec: Any, size: int) -> None:
    """Frames are found in each image; those with equally many share a store, noise and pictures that stand included."""
    world = World(MIXED, noisy=("depth",), still=("wrist",))
    ours, theirs = world.make(size, codec=codec), world.theirs(size)
    for number in range(2 * size + 7):
        for buffer in (ours, theirs):
            buffer.add(*world.step(number))
        if number in (7, 25, size - 1, size, 2 * size + 6):
            assert_holds(ours, theirs)
    if size > 30:
        found = {name: array.part.frame_stack for name, array in ours.observations.items() if name in MIXED}
        assert found == {name: stack for name, (stack, _, _) in MIXED.items()}
        assert len(ours._image_stores()) == 3  # of one, three and four frames
    assert_holds(pickle.loads(pickle.dumps(ours)), theirs)


def test_who_holds_an_array_goes_on_with_it() -> None:
    """While the frames of its image are found, too, and everything is stored anew."""
    world = World(MIXED)
    ours, theirs = world.make(60), world.theirs(60)
    held = {name: getattr(ours, name) for name in ("observations", "next_observations")}
    held = {name: dict(arrays) for name, arrays in held.items()}
    for number in range(50):
        for buffer in (ours, theirs):
            buffer.add(*world.step(number))
    for name, arrays in held.items():
        for key in MIXED:
            assert np.array_equal(arrays[key], getattr(theirs, name)[key])


def test_a_goal_is_stored_once_an_episode() -> None:
    names = ("observation", "achieved_goal", "desired_goal")
    world = World(dict.fromkeys(names, (1, 3, "first")), still=("desired_goal",))
    ours, theirs = world.make(60, codec="raw"), world.theirs(60)
    for number in range(60):
        for buffer in (ours, theirs):
            buffer.add(*world.step(number))
    assert_holds(ours, theirs)
    assert ours.stats().frames == ENVS * (2 * 66 + 6)


@pytest.mark.parametrize("protocol", [4, 5, None])
def test_pickles_of_several_images(protocol: int | None) -> None:
    """Reference sets of each image included; the copy shares no memory and goes on."""
    world = World({**ROBOT, "stack": (3, 1, "first")})
    ours, theirs = world.make(250, codec=codecs.DeltaCodec(set_frames=4)), world.theirs(250)
    for number in range(300):
        for buffer in (ours, theirs):
            buffer.add(*world.step(number))
    assert all(len(sets.numbers()) for sets in ours.observations["wrist"].store.frames.sets)
    again = copy.deepcopy(ours) if protocol is None else pickle.loads(pickle.dumps(ours, protocol))
    assert again.stats() == ours.stats()
    assert again.observations["front"].table is again.observations["wrist"].table
    for number in range(300, 340):
        for buffer in (again, theirs):
            buffer.add(*world.step(number))
    assert_holds(again, theirs)


def test_a_rollout_of_several_images() -> None:
    world = World(MIXED)
    ours = CompressedDictRolloutBuffer(20, world.space, **world.options)
    theirs = DictRolloutBuffer(20, world.space, **world.options)
    for rollout in range(4):
        for buffer in (ours, theirs):
            buffer.reset()
            for number in range(20 * rollout, 20 * rollout + 20):
                obs, _, action, reward, done, _ = world.step(number)
                buffer.add(obs, action, reward, done, th.zeros(ENVS), th.zeros(ENVS))
        expected = images(theirs)
        assert all(np.array_equal(array, expected[name]) for name, array in images(ours).items())
        for batch_size in (None, 7):
            batches = []
            for buffer in (ours, theirs):
                np.random.seed(rollout)
                batches.append(list(buffer.get(batch_size)))
            for ours_batch, theirs_batch in zip(*batches, strict=True):
                assert_same(ours_batch, theirs_batch)
        ours = pickle.loads(pickle.dumps(ours))
    assert len(ours._image_stores()) == 3


def test_an_image_assigned_by_itself_leaves_the_others() -> None:
    """Outside of `add`, as into an array of NumPy."""
    world = World({**ROBOT, "stack": (3, 1, "first")})
    ours, theirs, rng = world.make(30), world.theirs(30), np.random.default_rng(0)
    for number in range(25):
        for buffer in (ours, theirs):
            buffer.add(*world.step(number))
    for position, name in [(3, "front"), (-1, "wrist"), (24, "stack"), (29, "front"), (3, "wrist")]:
        batch = rng.integers(0, 256, theirs.observations[name][0].shape, np.uint8)
        for buffer in (ours, theirs):
            buffer.observations[name][position] = batch
    for number in range(25, 40):
        for buffer in (ours, theirs):
            buffer.add(*world.step(number))
    assert_holds(ours, theirs)


def test_a_wrong_image_stores_none_of_the_step() -> None:
    world = World(ROBOT)
    ours = world.make(20)
    for number in range(25):
        ours.add(*world.step(number))
    before, rows = images(ours), ours._image_stores()[0].frames.head
    obs, after, *rest = world.step(25)
    with pytest.raises(InputError, match="expected uint8"):
        ours.add({**obs, "wrist": obs["wrist"][:, :2]}, after, *rest)
    assert ours._image_stores()[0].frames.head == rows
    assert all(np.array_equal(array, before[name]) for name, array in images(ours).items() if "place" not in name)
    ours.add(obs, after, *rest)
    assert np.array_equal(ours.observations["wrist"][5], obs["wrist"])


@pytest.mark.filterwarnings("ignore:Exception ignored in")  # an interrupt in a finaliser comes out nowhere
@pytest.mark.parametrize(("when", "every"), [("early", 5), ("found", 307), ("full", 11)])
def test_an_interrupt_between_keys_loses_nothing(when: str, every: int) -> None:
    """At lines of `add`: other steps stay as they were, and images of one observation are never of two steps."""
    world = World({**ROBOT, "stack": (3, 1, "first")})
    ours, theirs = world.make(30), world.theirs(30)
    for number in range({"early": 3, "found": 30, "full": 45}[when]):
        saved, held = pickle.dumps(ours), images(theirs)
        for buffer in (ours, theirs):
            buffer.add(*world.step(number))
        if when == "found" and ours.observations["stack"].part.frame_stack == 3:
            break  # all was stored anew in this step
    assert (number < 20) == (when != "full")
    to_be = images(theirs)
    for later in range(number + 1, number + 4):
        theirs.add(*world.step(later))
    for place in itertools.count(0, every):
        again = pickle.loads(saved)
        if not interrupted(lambda again=again: again.add(*world.step(number)), place):
            break
        check(again, held, to_be, number % 30)
        for later in range(number + (again.pos != number % 30), number + 4):
            again.add(*world.step(later))
        assert (again.pos, again.full) == (theirs.pos, theirs.full)
        assert_holds(again, theirs)
    assert place > 40 * every


def check(ours: Any, held: dict[str, np.ndarray], to_be: dict[str, np.ndarray], at: int) -> None:
    """All steps but `at` are as they were; of that one each observation is either as it was or as it is to be."""
    now = images(ours)
    rest = np.arange(len(now["observations front"])) != at
    for name, array in now.items():
        assert np.array_equal(array[rest], held[name][rest]), name
    for name in ("observations", "next_observations"):
        keys = [f"{name} {key}" for key in ("front", "wrist")]  # of one store
        kinds = [all(np.array_equal(now[key][at], values[key][at]) for key in keys) for values in (held, to_be)]
        assert any(kinds), name

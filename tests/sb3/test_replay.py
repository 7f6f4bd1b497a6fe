"""Compressed replay buffers give the samples of Stable-Baselines3's own, on real games."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from sb3_games import Play, assert_same, make_color_game, make_game, one_thread, play, played
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from diffreplay import codecs
from diffreplay.errors import CorruptDataError, EmptyBufferError, InputError, UnknownCodecError
from diffreplay.sb3 import CompressedDictReplayBuffer, CompressedReplayBuffer, pickling
from diffreplay.sb3.spaces import image_part
from diffreplay.tables import ImageTable

pytestmark = pytest.mark.usefixtures(one_thread.__name__)


def sample_both(ours: Any, theirs: Any, batch_size: int, seed: int, env: VecNormalize | None = None) -> None:
    np.random.seed(seed)
    expected = theirs.sample(batch_size, env)
    np.random.seed(seed)
    assert_same(ours.sample(batch_size, env), expected)


def fill_both(ours: Any, theirs: Any, game: Play, batch_size: int = 16) -> None:
    """Add every step to both, and compare a batch after each."""
    for number, step in enumerate(game.steps):
        for buffer in (theirs, ours):
            buffer.add(*step)
        assert (ours.pos, ours.full, ours.size()) == (theirs.pos, theirs.full, theirs.size())
        sample_both(ours, theirs, batch_size, number)


def make_theirs(size: int, game: Play, n_steps: int, **options: Any) -> ReplayBuffer:
    if n_steps == 1:
        return ReplayBuffer(size, **game.spaces, **options)
    return NStepReplayBuffer(size, **game.spaces, n_steps=n_steps, gamma=0.9, **options)


@pytest.mark.parametrize("timeouts", [True, False])
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize(("name", "n_envs", "steps"), [("Breakout", 1, 1000), ("RoadRunner", 8, 160)])
def test_samples_are_those_of_sb3(name: str, n_envs: int, steps: int, n_steps: int, timeouts: bool) -> None:
    game = played(name, n_envs, steps)
    dones = np.array([step[4] for step in game.steps])
    truncated = np.array([[info["TimeLimit.truncated"] for info in step[5]] for step in game.steps])
    assert (dones & truncated).any() and (dones & ~truncated).any(), "the game must end in both ways"
    size = steps * n_envs // 3
    theirs = make_theirs(size, game, n_steps, handle_timeout_termination=timeouts)
    ours = CompressedReplayBuffer(size, **game.spaces, n_steps=n_steps, gamma=0.9, handle_timeout_termination=timeouts)
    fill_both(ours, theirs, game)
    assert theirs.full
    everything = np.arange(theirs.buffer_size)
    for seed in range(2 * n_envs):  # every step of, in all likelihood, every environment
        np.random.seed(seed)
        expected = theirs._get_samples(everything)
        np.random.seed(seed)
        assert_same(ours._get_samples(everything), expected)


@pytest.mark.parametrize("codec", ["raw", "sparse", "zstd", codecs.DeltaCodec(level=1)])
def test_every_codec(codec: Any) -> None:
    game = played("RoadRunner", 8, 160)
    theirs = ReplayBuffer(300, **game.spaces)
    fill_both(CompressedReplayBuffer(300, **game.spaces, codec=codec), theirs, game, batch_size=64)


def test_single_array_semantics() -> None:
    game = played("Breakout", 1, 1000)
    options = {"optimize_memory_usage": True, "handle_timeout_termination": False}
    theirs = ReplayBuffer(150, **game.spaces, **options)
    ours = CompressedReplayBuffer(150, **game.spaces, **options)
    fill_both(ours, theirs, game)
    with pytest.raises(ValueError, match="simultaneously"):
        CompressedReplayBuffer(150, **game.spaces, optimize_memory_usage=True)
    with pytest.raises(InputError, match="n_steps"):
        CompressedReplayBuffer(150, **game.spaces, **options, n_steps=3)


def test_channels_last() -> None:
    game = play(make_game("Pong", 2, transposed=False), 60)
    assert game.observation_space.shape == (84, 84, 4)
    fill_both(CompressedReplayBuffer(60, **game.spaces), ReplayBuffer(60, **game.spaces), game)


@pytest.mark.parametrize("frame_stack", [1, 3])
def test_color(frame_stack: int) -> None:
    game = play(make_color_game("Pong", frame_stack), 80)
    ours = CompressedReplayBuffer(30, **game.spaces)
    assert image_part("", game.observation_space).image_shape == (210, 160, 3)
    fill_both(ours, ReplayBuffer(30, **game.spaces), game, batch_size=4)


@pytest.mark.parametrize("shape", [(5,), (1,), (6, 7), (4, 9, 8), (9, 8, 2), (9, 3, 8), (2, 3, 4, 5)])
def test_noise_of_any_shape(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    space = spaces.Box(0, 255, shape, np.uint8)
    action = np.zeros((3, 1))

    def noise() -> np.ndarray:
        return rng.integers(0, 256, (3, *shape), np.uint8)

    steps = [(noise(), noise(), action, np.ones(3), rng.random(3) < 0.2, [{}] * 3) for _ in range(90)]
    game = Play(space, spaces.Discrete(2), 3, steps)
    fill_both(CompressedReplayBuffer(60, **game.spaces), ReplayBuffer(60, **game.spaces), game)


def test_a_wrong_frame_stack_is_exact() -> None:
    game = played("Breakout", 1, 1000)
    short = Play(game.observation_space, game.action_space, 1, game.steps[:100])
    for frame_stack in (1, 2):
        ours = CompressedReplayBuffer(40, **game.spaces, frame_stack=frame_stack)
        fill_both(ours, ReplayBuffer(40, **game.spaces), short)
    with pytest.raises(InputError, match="divisor of the 4 channels"):
        CompressedReplayBuffer(40, **game.spaces, frame_stack=3)


def test_normalized_samples() -> None:
    game = played("RoadRunner", 8, 160)
    env = VecNormalize(make_game("RoadRunner", 8))
    env.reset()
    for _ in range(5):
        env.step(np.zeros(8, int))
    for n_steps in (1, 3):
        theirs = make_theirs(400, game, n_steps)
        ours = CompressedReplayBuffer(400, **game.spaces, n_steps=n_steps, gamma=0.9)
        for buffer in (ours, theirs):
            buffer.extend(*zip(*game.steps[:70], strict=True))
        for seed in range(10):
            sample_both(ours, theirs, 16, seed, env)
    env.close()


def test_reset_and_device() -> None:
    game = played("Breakout", 1, 1000)
    ours, theirs = CompressedReplayBuffer(300, **game.spaces), ReplayBuffer(300, **game.spaces)
    for buffer in (ours, theirs):
        buffer.extend(*zip(*game.steps[:400], strict=True))
        buffer.reset()
        buffer.device = "cpu"
    assert ours.size() == 0 and ours.stats().frames == 0
    assert not ours.observations[5].any(), "what was never written is zeros, as in a new array"
    fill_both(ours, theirs, game)


def test_memory_is_given_back() -> None:
    game = played("RoadRunner", 8, 160)
    ours = CompressedReplayBuffer(160, **game.spaces, codec="raw")
    most = 0
    for _ in range(20):
        for step in game.steps:
            ours.add(*step)
        most = max(most, ours.stats().frames)
    # 20 steps in the ring, at most 20 more that are not evicted yet, each of 8 frames and few at an episode's start.
    assert 160 < most < 2 * 160 + 120
    assert ours.stats().total_bytes < 1.5 * (2 * 160 + 120) * 84 * 84


def test_byte_cap() -> None:
    game = played("Breakout", 1, 1000)
    cap = 1_500_000
    ours = CompressedReplayBuffer(700, **game.spaces, codec="raw", max_bytes=cap)
    theirs = ReplayBuffer(700, **game.spaces)
    shrunk = False
    for number, step in enumerate(game.steps):
        for buffer in (theirs, ours):
            buffer.add(*step)
        assert ours.stats().total_bytes <= cap
        if ours.size() == theirs.size():
            sample_both(ours, theirs, 8, number)
        elif number % 10 == 0:
            shrunk = True
            held = (theirs.pos - 1 - np.arange(ours.size())) % 700
            np.random.seed(0)
            expected = theirs._get_samples(held)
            np.random.seed(0)
            assert_same(ours._get_samples(held), expected)
            assert ours.sample(8).observations.shape == (8, 4, 84, 84)
    assert shrunk and 50 < ours.size() < 250
    assert ours.stats().transitions == ours.size()
    with pytest.raises(CorruptDataError, match="evicted under max_bytes"):
        ours._get_samples(np.array([ours.pos]))
    with pytest.raises(InputError, match="max_bytes: expected"):
        CompressedReplayBuffer(700, **game.spaces, max_bytes=10_000)


def test_a_cap_too_low_for_many_environments() -> None:
    game = played("RoadRunner", 8, 160)
    ours = CompressedReplayBuffer(160, **game.spaces, codec="raw", max_bytes=1_200_000)
    for step in game.steps:
        ours.add(*step)
        assert ours.stats().total_bytes <= 1_200_000
    if ours.size() == 0:
        with pytest.raises(EmptyBufferError, match="max_bytes"):
            ours.sample(4)
    else:
        ours.sample(4)


@pytest.mark.parametrize("protocol", [pickle.HIGHEST_PROTOCOL, 4, None])
def test_pickle(protocol: int | None) -> None:
    game = played("RoadRunner", 8, 160)
    theirs = make_theirs(480, game, 3)
    ours = CompressedReplayBuffer(480, **game.spaces, n_steps=3, gamma=0.9)
    for step in game.steps[:100]:
        for buffer in (theirs, ours):
            buffer.add(*step)
    if protocol is None:
        again = copy.deepcopy(ours)
    else:
        data = pickle.dumps(ours, protocol)
        assert len(data) <= ours.stats().total_bytes
        again = pickle.loads(data)
    assert again.stats() == ours.stats()
    for step in game.steps[100:]:
        ours.add(*step)  # the copy must not share memory with it
    game_rest = Play(game.observation_space, game.action_space, 8, game.steps[100:])
    fill_both(again, theirs, game_rest)


def test_pickle_of_another_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    game = played("Breakout", 1, 1000)
    ours = CompressedReplayBuffer(100, **game.spaces)
    with monkeypatch.context() as older:
        older.setattr(pickling, "VERSION", 0)
        data = pickle.dumps(ours)
    with pytest.raises(CorruptDataError, match="format"):
        pickle.loads(data)


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_damaged_pickle_is_refused(protocol: int) -> None:
    """Bytes of coded frames, of reference frames and of columns: none comes back wrong."""
    game = played("Breakout", 1, 1000)
    ours = CompressedReplayBuffer(1000, **game.spaces)
    for step in game.steps:
        ours.add(*step)
    store = ours.observations.store.frames
    data = bytearray(pickle.dumps(ours, protocol))
    rows = np.arange(store.tail, store.head)
    start, length = store.locate(rows)
    middle = len(rows) // 2
    parts = [
        bytes(store.memory.log[int(start[middle]) : int(start[middle] + max(length[middle], 40))]),
        bytes(store.sets[0].frames(store.sets[0].numbers()[-1])[:7056]),
        store.column("link", rows[:200]).tobytes(),
    ]
    for part in parts:
        place = data.index(part) + len(part) // 2
        data[place] ^= 1
        with pytest.raises(CorruptDataError, match="checksum"):
            pickle.loads(data)
        data[place] ^= 1
    assert pickle.loads(data).stats() == ours.stats()


def test_rows_are_numbered_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageTable, "LARGEST", 700)
    game = played("Breakout", 1, 1000)
    ours, theirs = CompressedReplayBuffer(300, **game.spaces), ReplayBuffer(300, **game.spaces)
    fill_both(ours, theirs, game)
    assert ours.observations.table._origin > 0


def test_dict_observations() -> None:
    game = played("RoadRunner", 8, 160)
    space = spaces.Dict(
        {
            "image": game.observation_space,
            "last": spaces.Box(0, 255, (1, 84, 84), np.uint8),
            "lives": spaces.Discrete(5),
            "speed": spaces.Box(-1, 1, (3,), np.float32),
        }
    )
    rng = np.random.default_rng(0)

    def widen(observation: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "image": observation,
            "last": observation[:, -1:],
            "lives": rng.integers(0, 5, 8),
            "speed": rng.random((8, 3), np.float32),
        }

    steps = [(widen(step[0]), widen(step[1]), *step[2:]) for step in game.steps]
    wide = Play(space, game.action_space, 8, steps)
    for timeouts in (True, False):
        options = {"handle_timeout_termination": timeouts}
        theirs = DictReplayBuffer(400, **wide.spaces, **options)
        ours = CompressedDictReplayBuffer(400, **wide.spaces, **options)
        fill_both(ours, theirs, wide)
    again = pickle.loads(pickle.dumps(ours))
    sample_both(again, theirs, 32, 1)
    assert ours.stats().stacked_bytes == 400 * 5 * 84 * 84
    capped, held = CompressedDictReplayBuffer(400, **wide.spaces, max_bytes=5_000_000, codec="raw"), []
    for step in steps:
        capped.add(*step)
        assert capped.stats().total_bytes <= 5_000_000
        held.append(capped.size())
    assert 5 < np.mean(held[-50:]) < 50, "fewer steps than were added; at times hardly one, as the cap is that low"
    assert capped.sample(4).observations["image"].shape == (4, 4, 84, 84)


def test_stats() -> None:
    game = played("Breakout", 1, 1000)
    ours = CompressedReplayBuffer(1000, **game.spaces)
    assert ours.stats().compression_ratio == 0
    ours.extend(*zip(*game.steps[:500], strict=True))
    stats = ours.stats()
    assert (stats.transitions, stats.stacked_bytes) == (500, 500 * 28224)
    assert 500 < stats.frames < 600, "one frame a step, and two more at each episode's end"
    assert stats.index_bytes == stats.frames * 7 + 2 * 4 * 1000
    assert stats.scalar_bytes == sum(a.nbytes for a in (ours.actions, ours.rewards, ours.dones, ours.timeouts))
    assert stats.total_bytes > stats.observation_bytes + stats.scalar_bytes
    assert stats.compression_ratio > 15


def test_mistakes() -> None:
    image = spaces.Box(0, 255, (3, 8, 8), np.uint8)
    with pytest.raises(InputError, match="CompressedDictReplayBuffer"):
        CompressedReplayBuffer(10, spaces.Dict({"image": image}), spaces.Discrete(2))
    game = played("Breakout", 1, 1000)
    ours = CompressedReplayBuffer(50, **game.spaces)
    obs, after, *rest = game.steps[0]
    with pytest.raises(InputError, match="got float32"):
        ours.add(obs.astype(np.float32), after, *rest)
    with pytest.raises(InputError, match=r"shape \(1, 4, 84, 84\), got"):
        ours.add(obs[:, :3], after, *rest)
    with pytest.raises(UnknownCodecError):
        CompressedReplayBuffer(50, **game.spaces, codec="lz4")
    with pytest.raises(InputError, match="n_steps"):
        CompressedReplayBuffer(50, **game.spaces, n_steps=0)
    with pytest.raises(InputError, match="expected a Dict"):
        CompressedDictReplayBuffer(50, **game.spaces)  # type: ignore[arg-type]

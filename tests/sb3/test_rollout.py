"""Compressed rollout buffers give the samples of Stable-Baselines3's own, on real games."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from says import says
from sb3_games import Play, assert_same, make_color_game, make_game, one_thread, play, played
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from diffreplay import codecs
from diffreplay.errors import InputError
from diffreplay.sb3 import CompressedDictRolloutBuffer, CompressedReplayBuffer, CompressedRolloutBuffer
from diffreplay.store.layout import Counter

pytestmark = pytest.mark.usefixtures(one_thread.__name__)


def rollouts(game: Play, length: int) -> Iterator[list[tuple[Any, ...]]]:
    """Cut a game into rollouts; each step is the arguments of `RolloutBuffer.add`."""
    rng = th.Generator().manual_seed(0)
    starts = np.ones(game.n_envs, bool)
    steps = []
    for observation, _, action, reward, done, _ in game.steps:
        values = th.randn(game.n_envs, 1, generator=rng)
        log_probs = th.randn(game.n_envs, generator=rng)
        steps.append((observation, action.reshape(-1, 1), reward, starts, values, log_probs))
        starts = done
        if len(steps) == length:
            yield steps
            steps = []


def collect(buffers: list[Any], steps: list[tuple[Any, ...]], n_envs: int) -> None:
    for buffer in buffers:
        buffer.reset()
        for step in steps:
            buffer.add(*step)
        buffer.compute_returns_and_advantage(th.ones(n_envs), np.zeros(n_envs))


def compare(ours: Any, theirs: Any, seed: int, batch_size: int | None) -> int:
    """Compare an epoch; its number of batches."""
    np.random.seed(seed)
    expected = list(theirs.get(batch_size))
    np.random.seed(seed)
    batches = list(ours.get(batch_size))
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert_same(batch, other)
    return len(batches)


def make_both(game: Play, length: int, **options: Any) -> tuple[CompressedRolloutBuffer, RolloutBuffer]:
    shared = {"gae_lambda": 0.95, "gamma": 0.9}
    ours = CompressedRolloutBuffer(length, **game.spaces, **shared, **options)
    return ours, RolloutBuffer(length, **game.spaces, **shared)


@pytest.mark.parametrize(("n_envs", "steps", "length"), [(1, 1000, 90), (8, 160, 20)])
@pytest.mark.parametrize("codec", ["delta", "zstd", "sparse", "raw"])
def test_samples_are_those_of_sb3(codec: str, n_envs: int, steps: int, length: int) -> None:
    game = played("Breakout", n_envs, steps)
    ours, theirs = make_both(game, length, codec=codec)
    batches = 0
    for number, rollout in enumerate(rollouts(game, length)):
        collect([ours, theirs], rollout, n_envs)
        for epoch in range(2):
            batches += compare(ours, theirs, 10 * number + epoch, 4)
        batches += compare(ours, theirs, number, None)
    assert batches > 400


@pytest.mark.parametrize("color", [False, True])
def test_other_layouts(color: bool) -> None:
    game = play(make_color_game("Pong", 2) if color else make_game("Pong", 1, transposed=False), 40)
    ours, theirs = make_both(game, 20)
    for rollout in rollouts(game, 20):
        collect([ours, theirs], rollout, 1)
        compare(ours, theirs, 0, 8)


def test_reference_frames_outlive_rollouts() -> None:
    game = played("Breakout", 8, 160)
    ours, _ = make_both(game, 40)
    sizes = []
    for _ in range(2):
        for rollout in rollouts(game, 40):
            collect([ours], rollout, 8)
            sizes.append(ours.stats())
    store = ours.observations.store
    assert 0 < store.frames.counter(Counter.set_head(0)) < 4, "sets are built more rarely than rollouts come"
    assert 0 < sizes[-1].reference_bytes == sizes[-2].reference_bytes
    # 320 states, the newest stack of 8 environments that the rollout continues, and episodes' starts.
    assert all(320 <= stats.frames <= 400 for stats in sizes)
    assert sizes[-1].payload_bytes < 0.8 * sizes[0].payload_bytes, "the first frames are coded without references"
    assert sizes[-1].stacked_bytes == 320 * 28224


def test_dict_observations() -> None:
    game = played("Breakout", 8, 160)
    space = spaces.Dict(
        {"image": game.observation_space, "lives": spaces.Discrete(5), "speed": spaces.Box(-1, 1, (3,))}
    )
    rng = np.random.default_rng(0)
    shared = {"action_space": game.action_space, "n_envs": 8, "device": "cpu"}
    ours = CompressedDictRolloutBuffer(20, space, **shared)
    theirs = DictRolloutBuffer(20, space, **shared)
    for number, rollout in enumerate(rollouts(game, 20)):
        wide = [
            ({"image": step[0], "lives": rng.integers(0, 5, 8), "speed": rng.random((8, 3), np.float32)}, *step[1:])
            for step in rollout
        ]
        collect([ours, theirs], wide, 8)
        compare(ours, theirs, number, 16)
    assert ours.stats().stacked_bytes == 160 * 28224


def test_pickle() -> None:
    game = played("Breakout", 8, 160)
    ours, theirs = make_both(game, 20)
    parts = list(rollouts(game, 20))
    collect([ours, theirs], parts[0], 8)
    ours = pickle.loads(pickle.dumps(ours))
    compare(ours, theirs, 0, 16)
    ours = pickle.loads(pickle.dumps(ours))  # in mid-epoch, flattened
    compare(ours, theirs, 1, 16)
    collect([ours, theirs], parts[1], 8)
    compare(ours, theirs, 2, 16)


@pytest.mark.parametrize("kind", [codecs.DeltaCodec, codecs.ZstdCodec])
def test_reference_frames_are_as_many_as_suit_the_rollout(
    kind: type[codecs.Codec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a codec that is asked for by its name, one of another package's, too. An instance is taken as it is."""
    game, made = played("Breakout", 8, 160), dict[str, float]()
    other = type("OtherCodec", (kind,), {"name": "other"})
    monkeypatch.setitem(codecs.REGISTRY, "other", other)
    for name, codec in (("name", kind.name), ("other's", "other"), ("instance", kind())):
        ours, theirs = make_both(game, 160, codec=codec)
        for rollout in rollouts(game, 160):
            collect([ours, theirs], rollout, 8)
        compare(ours, theirs, 0, 64)
        made[name] = ours.stats().reference_bytes / 7056
    assert 0 < made["name"] <= 3 * 10 and made["other's"] == made["name"]  # three sets of ten for 1,280 states
    assert made["instance"] > 60


def test_byte_cap() -> None:
    game = played("Breakout", 8, 160)
    ours, theirs = make_both(game, 20, max_bytes=4_000_000, codec="raw")
    for rollout in rollouts(game, 20):
        collect([ours, theirs], rollout, 8)
        assert ours.stats().total_bytes <= 4_000_000
        compare(ours, theirs, 0, 16)
    ours, _ = make_both(game, 160, max_bytes=4_000_000, codec="raw")
    with pytest.raises(InputError) as info:
        collect([ours], next(rollouts(game, 160)), 8)
    says(info, "max_bytes", "rollout", "160 x 8 steps")


def test_mistakes() -> None:
    game = played("Breakout", 8, 160)
    with pytest.raises(InputError, match="CompressedDictRolloutBuffer"):
        CompressedRolloutBuffer(10, spaces.Dict({"image": game.observation_space}), game.action_space)
    ours, _ = make_both(game, 20)
    observation, *rest = next(rollouts(game, 20))[0]
    with pytest.raises(InputError, match="got float64"):
        ours.add(observation.astype(float), *rest)


def test_a_buffer_for_the_other_kind_of_algorithm_is_refused_by_name() -> None:
    game = make_game("Pong", 1)
    with pytest.raises(InputError) as caught:
        PPO("CnnPolicy", game, rollout_buffer_class=CompressedReplayBuffer)  # type: ignore[arg-type]
    says(caught, "CompressedReplayBuffer", "off-policy", "rollout_buffer_class=CompressedRolloutBuffer")
    with pytest.raises(InputError) as caught:
        DQN("CnnPolicy", game, buffer_size=100, replay_buffer_class=CompressedRolloutBuffer)  # type: ignore[arg-type]
    says(caught, "CompressedRolloutBuffer", "rollouts", "replay_buffer_class=CompressedReplayBuffer")
    for kind in (CompressedRolloutBuffer, CompressedReplayBuffer):
        with pytest.raises(InputError) as caught:
            kind(100, game.observation_space, game.action_space, max_bytes="4GB")  # type: ignore[arg-type]
        says(caught, "max_bytes", "a number of bytes", "got '4GB'")

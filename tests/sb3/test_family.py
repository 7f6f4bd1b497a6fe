"""Every kind of buffer of Stable-Baselines3 and sb3-contrib, compressed: training ends with the same weights."""

from __future__ import annotations

import pickle
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from says import says
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_games import assert_same, one_thread
from sb3_rooms import Room
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.her import HerReplayBuffer

from diffreplay.errors import InputError
from diffreplay.sb3 import (
    CompressedDictReplayBuffer,
    CompressedDictRolloutBuffer,
    CompressedHerReplayBuffer,
    CompressedReplayBuffer,
    CompressedRolloutBuffer,
)
from diffreplay.sb3.contrib import (
    CompressedMaskableDictRolloutBuffer,
    CompressedMaskableRolloutBuffer,
    CompressedRecurrentDictRolloutBuffer,
    CompressedRecurrentRolloutBuffer,
)
from tests.sb3.test_training import assert_same_weights

pytestmark = pytest.mark.usefixtures(one_thread.__name__)
OFF_POLICY = {"buffer_size": 80, "learning_starts": 40, "batch_size": 8, "target_update_interval": 20}
ON_POLICY = {"n_steps": 16, "batch_size": 8, "n_epochs": 2}
POLICIES = {"image": "CnnPolicy", "dict": "MultiInputPolicy", "goals": "MultiInputPolicy"}


def trained(steps: int, *arguments: Any, **options: Any) -> BaseAlgorithm:
    """Made and trained in one go, as all draw from the same global generators."""
    model = made(*arguments, **options)
    model.learn(steps)
    return model


def made(algorithm: type[BaseAlgorithm], kind: str, policy: str | None = None, **options: Any) -> BaseAlgorithm:
    env = make_vec_env(partial(Room, kind), n_envs=2, seed=3)
    features = {"features_dim": 16} if kind == "image" else {"cnn_output_dim": 16}
    keywords = {"features_extractor_kwargs": features}
    if algorithm is RecurrentPPO:
        keywords["lstm_hidden_size"] = 16  # type: ignore[assignment]
    return algorithm(policy or POLICIES[kind], env, seed=5, device="cpu", policy_kwargs=keywords, **options)


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [
        ("dict", CompressedDictReplayBuffer, DictReplayBuffer),
        ("goals", CompressedDictReplayBuffer, DictReplayBuffer),
        ("goals", CompressedHerReplayBuffer, HerReplayBuffer),
    ],
)
def test_replay_buffers(kind: str, ours: type[ReplayBuffer], theirs: type[ReplayBuffer]) -> None:
    models = [trained(200, DQN, kind, **OFF_POLICY, replay_buffer_class=buffer) for buffer in (ours, theirs)]
    assert models[0].replay_buffer.full
    assert models[0].replay_buffer.stats().compression_ratio > 2
    assert_same_weights(*models)


@pytest.mark.parametrize(
    ("kind", "algorithm", "ours"),
    [
        ("dict", PPO, CompressedDictRolloutBuffer),
        ("image", MaskablePPO, CompressedMaskableRolloutBuffer),
        ("dict", MaskablePPO, CompressedMaskableDictRolloutBuffer),
    ],
)
def test_rollout_buffers(kind: str, algorithm: type[BaseAlgorithm], ours: type[CompressedRolloutBuffer]) -> None:
    keywords = {"rollout_buffer_class": ours, "rollout_buffer_kwargs": {"codec": "sparse"}}
    mine = trained(128, algorithm, kind, **ON_POLICY, **keywords)
    stock = trained(128, algorithm, kind, **ON_POLICY)
    assert isinstance(mine.rollout_buffer, type(stock.rollout_buffer))
    if algorithm is MaskablePPO:
        assert 0 < stock.rollout_buffer.action_masks.mean() < 1
        arrays = (mine.rollout_buffer.action_masks, mine.rollout_buffer.rewards)
        assert mine.rollout_buffer.stats().scalar_bytes > sum(array.nbytes for array in arrays)
    assert mine.rollout_buffer.stats().compression_ratio > 2
    assert_same_weights(mine, stock)


@pytest.mark.parametrize(
    ("kind", "policy", "ours"),
    [
        ("image", "CnnLstmPolicy", CompressedRecurrentRolloutBuffer),
        ("dict", "MultiInputLstmPolicy", CompressedRecurrentDictRolloutBuffer),
    ],
)
def test_recurrent_buffers(kind: str, policy: str, ours: type[CompressedRolloutBuffer]) -> None:
    mine = made(RecurrentPPO, kind, policy, **ON_POLICY)
    mine.rollout_buffer = ours(
        mine.n_steps,
        mine.observation_space,
        mine.action_space,
        mine.rollout_buffer.hidden_state_shape,
        mine.device,
        gae_lambda=mine.gae_lambda,
        gamma=mine.gamma,
        n_envs=mine.n_envs,
    )
    mine.learn(96)
    stock = trained(96, RecurrentPPO, kind, policy, **ON_POLICY)
    assert mine.rollout_buffer.stats().compression_ratio > 2
    assert_same_weights(mine, stock)


def test_her_is_saved_and_loaded(tmp_path: Path) -> None:
    models = []
    for number, buffer in enumerate((CompressedHerReplayBuffer, HerReplayBuffer)):
        models.append(trained(100, DQN, "goals", **OFF_POLICY, replay_buffer_class=buffer))
        models[-1].save_replay_buffer(tmp_path / f"{number}")
        models[-1].load_replay_buffer(tmp_path / f"{number}")
        models[-1].learn(60, reset_num_timesteps=False)
    assert isinstance(models[0].replay_buffer, CompressedHerReplayBuffer)
    assert_same_weights(*models)


def test_her_under_a_cap_draws_from_what_is_left() -> None:
    env = make_vec_env(partial(Room, "goals"), n_envs=2, seed=3)
    options: dict[str, Any] = {"env": env, "n_envs": 2, "device": "cpu"}
    arguments = (4000, env.observation_space, env.action_space)
    theirs = HerReplayBuffer(*arguments, **options)
    cap = 1_400_000
    ours = CompressedHerReplayBuffer(*arguments, **options, max_bytes=cap, codec="raw")
    rng = np.random.default_rng(0)
    observation = env.reset()
    for _ in range(1500):
        action = rng.integers(0, 4, 2)
        after, reward, done, infos = env.step(action)
        copies = [{key: value.copy() for key, value in part.items()} for part in (observation, after)]
        for env_number in np.flatnonzero(done):
            for key, value in infos[env_number]["terminal_observation"].items():
                copies[1][key][env_number] = value
        for buffer in (ours, theirs):
            buffer.add(*copies, action, reward, done, infos)
        observation = after
        assert ours.stats().total_bytes <= cap
    assert 50 < ours.size() < theirs.size() == 1500
    sample = ours.sample(200)
    assert ours.size() < 1500 and (ours.ep_length > 0).sum() > 50
    places = np.argwhere(ours.ep_length > 0)
    age = (ours.pos - 1 - places[:, 0]) % ours.buffer_size
    assert age.max() < ours.size(), "no goal may come from an evicted step"
    index = places[:, 0], places[:, 1]
    for key in ("observation", "achieved_goal"):
        assert np.array_equal(ours.observations[key][index], theirs.observations[key][index])
    assert sample.observations["observation"].shape == (200, 4, 36, 36)


def test_gamma_must_be_given() -> None:
    with pytest.raises(InputError) as info:
        made(DQN, "image", **OFF_POLICY, gamma=0.9, replay_buffer_class=CompressedReplayBuffer,
             replay_buffer_kwargs={"n_steps": 3})  # fmt: skip
    says(info, "gamma: | n_steps = 3 | got none")
    options = {"n_steps": 3, "gamma": 0.9}
    coded = {"replay_buffer_class": CompressedReplayBuffer, "replay_buffer_kwargs": options}
    models = [trained(160, DQN, "image", **OFF_POLICY, **keywords) for keywords in ({"gamma": 0.9, **coded}, options)]
    assert isinstance(models[1].replay_buffer, NStepReplayBuffer)
    assert_same_weights(*models)


class Places(gymnasium.ObservationWrapper[Any, Any, Any]):
    """The room without its picture."""

    def __init__(self, with_dict: bool) -> None:
        super().__init__(Room("dict"))
        self.with_dict = with_dict
        place = spaces.Box(0, 1, (2,), np.float32)
        self.observation_space = spaces.Dict({"place": place}) if with_dict else place

    def observation(self, observation: Any) -> Any:
        return {"place": observation["place"]} if self.with_dict else observation["place"]


@pytest.mark.parametrize("with_dict", [False, True])
@pytest.mark.parametrize("on_policy", [False, True])
def test_without_an_image_it_is_their_buffer(with_dict: bool, on_policy: bool) -> None:
    policy = "MultiInputPolicy" if with_dict else "MlpPolicy"
    models = []
    for coded in (True, False):
        env = make_vec_env(partial(Places, with_dict), n_envs=2, seed=3)
        options: dict[str, Any] = {"env": env, "seed": 5, "device": "cpu"}
        if on_policy:
            buffer = CompressedDictRolloutBuffer if with_dict else CompressedRolloutBuffer
            keywords = {"rollout_buffer_class": buffer, "rollout_buffer_kwargs": {"max_bytes": 10**6}} if coded else {}
            algorithm, options = PPO, {**options, **ON_POLICY, **keywords}
        else:
            buffer = CompressedDictReplayBuffer if with_dict else CompressedReplayBuffer
            keywords = {"replay_buffer_class": buffer, "replay_buffer_kwargs": {"max_bytes": 10**6, "codec": "raw"}}
            algorithm, options = DQN, {**options, **OFF_POLICY, **(keywords if coded else {})}
        if coded:
            with pytest.warns(UserWarning, match="everything is kept uncompressed") as warned:
                models.append(algorithm(policy, **options))
            assert len(warned) == 1
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                models.append(algorithm(policy, **options))
        models[-1].learn(160)
    assert_same_weights(*models)
    ours = models[0].rollout_buffer if on_policy else models[0].replay_buffer
    stats = ours.stats()
    assert (stats.frames, stats.stacked_bytes, stats.compression_ratio) == (0, 0, 0)
    assert stats.scalar_bytes == stats.total_bytes > 0
    again = pickle.loads(pickle.dumps(ours))
    batches = []
    for buffer in (again, ours):
        np.random.seed(0)
        batches.append(next(buffer.get(8)) if on_policy else buffer.sample(8))
    assert_same(*batches)


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.MultiBinary(4), spaces.Box(-1, 1, (3, 4), np.float64)])
def test_other_spaces_are_stored_as_theirs(space: spaces.Space[Any]) -> None:
    arguments = (12, space, spaces.Discrete(2), "cpu", 2)
    with pytest.warns(UserWarning, match="everything is kept uncompressed"):
        ours = CompressedReplayBuffer(*arguments, n_steps=2, gamma=0.9)
    theirs = NStepReplayBuffer(*arguments, n_steps=2, gamma=0.9)
    space.seed(0)
    for step in range(20):
        observations, after = (np.array([space.sample() for _ in range(2)]) for _ in range(2))
        for buffer in (ours, theirs):
            buffer.add(observations, after, np.zeros((2, 1)), np.full(2, step), np.zeros(2), [{}, {}])
        np.random.seed(step)
        expected = theirs.sample(5)
        np.random.seed(step)
        assert_same(ours.sample(5), expected)
    ours.reset()
    assert ours.size() == 0


def test_a_cap_that_plain_arrays_break() -> None:
    space = spaces.Box(-1, 1, (1000,), np.float32)
    with pytest.warns(UserWarning), pytest.raises(InputError) as info:
        CompressedReplayBuffer(1000, space, spaces.Box(-1, 1, (2,)), max_bytes=1_000_000)
    says(info, "max_bytes: | more than | 8020000 bytes | got 1000000")


def test_continuous_actions_from_places() -> None:
    """One configuration for many environments: SAC on Pendulum's numbers with the class meant for images."""
    models = []
    for keywords in ({"replay_buffer_class": CompressedReplayBuffer}, {}):
        env = make_vec_env("Pendulum-v1", n_envs=1, seed=0)
        models.append(SAC("MlpPolicy", env, seed=1, device="cpu", learning_starts=20, batch_size=8, **keywords))
        models[-1].learn(60)
    assert_same_weights(*models)

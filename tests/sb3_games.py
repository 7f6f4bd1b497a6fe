"""Steps of real Atari games, as Stable-Baselines3's algorithms hand them to their buffers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ale_py
import gymnasium
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecTransposeImage

gymnasium.register_envs(ale_py)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """These tensors are small: torch's threads would spend their time waiting for each other."""
    threads = th.get_num_threads()
    th.set_num_threads(1)
    yield
    th.set_num_threads(threads)


@dataclass(frozen=True)
class Play:
    """A game played with random actions; each step is the arguments of `ReplayBuffer.add`."""

    observation_space: gymnasium.spaces.Box
    action_space: gymnasium.spaces.Discrete
    n_envs: int
    steps: list[tuple[Any, ...]]

    @property
    def spaces(self) -> dict[str, Any]:
        """What a buffer is made for."""
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "n_envs": self.n_envs,
            "device": "cpu",
        }


def make_game(game: str, n_envs: int, seed: int = 0, *, transposed: bool = True) -> VecEnv:
    """Four gray frames of 84 x 84; every game ends by force after 60 steps, lives end it before."""
    env: VecEnv = make_atari_env(
        f"{game}NoFrameskip-v4", n_envs=n_envs, seed=seed, env_kwargs={"max_episode_steps": 240}
    )
    env = VecFrameStack(env, 4)
    return VecTransposeImage(env) if transposed else env


def make_color_game(game: str, frame_stack: int) -> VecEnv:
    """RGB frames of 210 x 160, as the game gives them."""
    env: VecEnv = make_vec_env(f"{game}NoFrameskip-v4", n_envs=1, seed=0, env_kwargs={"max_episode_steps": 30})
    return VecTransposeImage(VecFrameStack(env, frame_stack))


def play(env: VecEnv, steps: int) -> Play:
    """Play with random actions."""
    rng = np.random.default_rng(0)
    observations = env.reset()
    taken = []
    for _ in range(steps):
        actions = rng.integers(env.action_space.n, size=env.num_envs)
        new, rewards, dones, infos = env.step(actions)
        after = new.copy()
        for i in np.flatnonzero(dones):
            after[i] = infos[i]["terminal_observation"]
        truncated = [{"TimeLimit.truncated": info.get("TimeLimit.truncated", False)} for info in infos]
        taken.append((observations.copy(), after, actions, rewards.copy(), dones.copy(), truncated))
        observations = new
    env.close()
    return Play(env.observation_space, env.action_space, env.num_envs, taken)


@lru_cache(maxsize=4)
def played(game: str, n_envs: int, steps: int) -> Play:
    """A game that several tests share; not to be written to."""
    return play(make_game(game, n_envs), steps)


def assert_same(ours: Any, theirs: Any) -> None:
    """Compare samples bit for bit, with dtypes, shapes and names of their fields."""
    assert ours._fields == theirs._fields
    for name in theirs._fields:
        _assert_equal(getattr(ours, name), getattr(theirs, name), name)


def _assert_equal(ours: Any, theirs: Any, name: str) -> None:
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), name
        for key, value in theirs.items():
            _assert_equal(ours[key], value, f"{name}[{key}]")
    elif theirs is None:
        assert ours is None, name
    else:
        assert (ours.dtype, ours.shape, ours.device) == (theirs.dtype, theirs.shape, theirs.device), name
        assert th.equal(ours, theirs), name

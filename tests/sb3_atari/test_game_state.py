"""Atari games go on from a saved state as they would have: pictures, rewards, ends, random starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import VecEnv

from sb3_atari.game_state import game_state, set_game_state
from sb3_atari.games import make_game


def play(env: VecEnv, steps: int, seed: int) -> list[Any]:
    """What random actions give; infos without the seconds that an episode took."""
    rng, seen = np.random.default_rng(seed), []
    for _ in range(steps):
        obs, reward, done, infos = env.step(rng.integers(0, env.action_space.n, env.num_envs))  # type: ignore[attr-defined]
        ends = [(info["lives"], info.get("episode", {}).get("r"), info.get("episode", {}).get("l")) for info in infos]
        seen.append((obs.copy(), reward.copy(), done.copy(), ends))
    return seen


@pytest.mark.parametrize(("game", "evaluation"), [("Breakout", False), ("Breakout", True), ("MsPacman", False)])
def test_a_game_goes_on_where_it_was(tmp_path: Path, game: str, evaluation: bool) -> None:
    env = make_game(game, 2, seed=3, evaluation=evaluation)
    env.reset()
    play(env, 150, seed=1)
    torch.save(game_state(env), tmp_path / "state.pt")
    expected = play(env, 300, seed=2)
    assert any(done.any() for _, _, done, _ in expected), "episodes end and begin meanwhile"
    other = make_game(game, 2, seed=7, evaluation=evaluation)
    set_game_state(other, torch.load(tmp_path / "state.pt", weights_only=True))
    for step, (a, b) in enumerate(zip(expected, play(other, 300, seed=2), strict=True)):
        assert all(np.array_equal(x, y) for x, y in zip(a[:3], b[:3], strict=True)) and a[3] == b[3], step


def test_games_before_their_first_reset_begin_as_seeded(tmp_path: Path) -> None:
    env, other = make_game("Breakout", 1, seed=3), make_game("Breakout", 1, seed=4)
    env.seed(5)
    torch.save(game_state(env), tmp_path / "state.pt")
    set_game_state(other, torch.load(tmp_path / "state.pt", weights_only=True))
    assert np.array_equal(env.reset(), other.reset())
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(play(env, 100, 1), play(other, 100, 1), strict=True))

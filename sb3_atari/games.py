"""Atari games as the paper observes them: four gray frames of 84 x 84."""

from __future__ import annotations

import ale_py
import gymnasium
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecTransposeImage

gymnasium.register_envs(ale_py)


def make_game(game: str, n_envs: int, seed: int, frame_stack: int = 4, *, evaluation: bool = False) -> VecEnv:
    """Environments side by side, with Stable-Baselines3's Atari wrapper; observations (frame_stack, 84, 84) uint8.

    Args:
        game: as in `NoFrameskip-v4` names.
        n_envs: environments.
        seed: of the first one; the others follow.
        frame_stack: frames in an observation.
        evaluation: whole games with the game's own score, not single lives with clipped rewards.
    """
    options = {"terminal_on_life_loss": not evaluation, "clip_reward": not evaluation}
    env: VecEnv = make_atari_env(f"{game}NoFrameskip-v4", n_envs=n_envs, seed=seed, wrapper_kwargs=options)
    return VecTransposeImage(VecFrameStack(env, frame_stack))

"""CleanRL's `dqn_atari.py`, shortened, with compressed images in its replay buffer; the marked lines are what changed.

    python examples/moving/from_cleanrl.py --steps 100000

Needs the extra `atari`. The environment is made as Gymnasium 1 does; CleanRL's own file is for Gymnasium 0.29.
"""

import argparse
import random

import ale_py
import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from stable_baselines3.common.atari_wrappers import ClipRewardEnv, EpisodicLifeEnv, NoopResetEnv
from torch import nn, optim

from diffreplay.sb3 import CompressedReplayBuffer as ReplayBuffer  # changed


def make_env() -> gym.Env:
    game = gym.make("ALE/Breakout-v5", frameskip=1, repeat_action_probability=0)
    env = gym.wrappers.AtariPreprocessing(NoopResetEnv(game, noop_max=30), noop_max=0)
    return gym.wrappers.FrameStackObservation(ClipRewardEnv(EpisodicLifeEnv(env)), 4)


def make_network(actions: int) -> nn.Module:
    convolutions = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3)]
    head = [nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, actions)]
    return nn.Sequential(*convolutions, *head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000_000)
    parser.add_argument("--learning-starts", type=int, default=80_000)
    args = parser.parse_args()

    gym.register_envs(ale_py)
    mode = gym.vector.AutoresetMode.SAME_STEP
    envs = gym.vector.SyncVectorEnv([make_env], autoreset_mode=mode)
    q_network, target_network = (make_network(4) for _ in range(2))
    target_network.load_state_dict(q_network.state_dict())
    optimizer = optim.Adam(q_network.parameters(), lr=1e-4)
    rb = ReplayBuffer(
        1_000_000,
        envs.single_observation_space,
        envs.single_action_space,
        "cpu",
        handle_timeout_termination=False,
    )

    obs, _ = envs.reset(seed=1)
    for global_step in range(args.steps):
        if random.random() < max(0.01, 1 - global_step / 1_000_000):
            actions = np.array([envs.single_action_space.sample() for _ in range(envs.num_envs)])
        else:
            actions = q_network(torch.Tensor(obs) / 255).argmax(dim=1).numpy()
        next_obs, rewards, terminations, truncations, infos = envs.step(actions)
        real_next_obs = next_obs.copy()
        for k in np.flatnonzero(terminations | truncations):
            real_next_obs[k] = infos["final_obs"][k]
        rb.add(obs, real_next_obs, actions, rewards, terminations, infos)
        obs = next_obs
        if global_step > args.learning_starts and global_step % 4 == 0:
            data = rb.sample(32)
            with torch.no_grad():
                target_max, _ = target_network(data.next_observations / 255).max(dim=1)
                td_target = data.rewards.flatten() + 0.99 * target_max * (1 - data.dones.flatten())
            old_val = q_network(data.observations / 255).gather(1, data.actions).squeeze()
            loss = F.mse_loss(td_target, old_val)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if global_step % 1000 == 0:
            target_network.load_state_dict(q_network.state_dict())
    print(f"loss {loss:.4f}, replay {rb.stats().total_bytes / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

"""Double dueling DQN with priorities and 3-step returns on an Atari game, much of Rainbow (Hessel et al., 2018).

    python examples/rainbow_pong.py --steps 1000000

Needs the extra `atari`. The lines marked # diffreplay are all that the replay buffer and its priorities take.
"""

import argparse
import copy
import random

import ale_py
import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from torch import nn
from torch.optim import Optimizer

import diffreplay


def make_env(game: str) -> gymnasium.Env:
    """Observations are four gray frames (4, 84, 84) uint8; an action lasts four frames of the game."""
    gymnasium.register_envs(ale_py)
    env = gymnasium.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0)
    return FrameStackObservation(AtariPreprocessing(env), 4)


class Network(nn.Module):
    """Value and advantages apart (Wang et al., 2016), behind the convolutions of DQN."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        eyes = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3)]
        self.body = nn.Sequential(*eyes, nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU())
        self.value, self.advantage = nn.Linear(512, 1), nn.Linear(512, actions)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        features = self.body(obs / 255)
        advantage = self.advantage(features)
        return self.value(features) + advantage - advantage.mean(1, keepdim=True)


def update(network: nn.Module, target: nn.Module, optimizer: Optimizer, batch: diffreplay.ReplayBatch) -> torch.Tensor:
    """One step of double DQN (van Hasselt et al., 2016), each by its weight; the TD errors (B,) before it."""
    obs, action, reward, discount, next_obs = batch  # next_obs is 3 steps after obs; discount is 0 at an end
    with torch.no_grad():
        best = network(next_obs).argmax(1, keepdim=True)
        goal = reward + discount * target(next_obs).gather(1, best)
    error = (goal - network(obs).gather(1, action[:, None]))[:, 0]
    loss = (batch.weight * nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none")).mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 10)
    optimizer.step()
    return error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="Pong")
    parser.add_argument("--steps", type=int, default=1_000_000, help="actions in all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    env = make_env(args.game)
    actions, shape = gymnasium.spaces.flatdim(env.action_space), (4, 84, 84)
    replay = diffreplay.ReplayBuffer(200_000, shape, (), action_dtype="int64", frame_stack=4, nstep=3)  # diffreplay
    priorities = diffreplay.Priorities(replay, alpha=0.5, beta=0.4)  # diffreplay
    loader = diffreplay.make_replay_loader(replay, 32, 2, priorities=priorities)  # diffreplay
    batches = diffreplay.batches_on(loader, args.device)  # diffreplay
    network = Network(actions).to(args.device)
    target, optimizer = copy.deepcopy(network), torch.optim.Adam(network.parameters(), lr=6e-5, eps=1.5e-4)
    (obs, _), score, error, warmup = env.reset(), 0.0, torch.zeros(1), min(10_000, args.steps // 10)
    for step in range(1, args.steps + 1):
        if step <= warmup or random.random() < max(0.02, 1 - 10 * step / args.steps):
            action = random.randrange(actions)
        else:
            with torch.no_grad():
                action = int(network(torch.as_tensor(obs, device=args.device)[None]).argmax())
        next_obs, reward, terminated, truncated, _ = env.step(action)
        replay.add_transition(obs, action, np.sign(float(reward)), next_obs, terminated, truncated)  # diffreplay
        obs, score = next_obs, score + float(reward)
        if step > warmup and step % 4 == 0:
            batch, priorities.beta = next(batches), 0.4 + 0.6 * step / args.steps  # diffreplay
            error = update(network, target, optimizer, batch)
            priorities.update(batch.index, error)  # diffreplay
        if step % 2_000 == 0:
            target.load_state_dict(network.state_dict())
        if terminated or truncated or step == args.steps:
            mean, stats = error.abs().mean().item(), replay.stats()  # diffreplay
            print(
                f"step {step}: score {score:.0f}, error {mean:.4f}, replay {stats.total_bytes / 1e6:.1f} MB", flush=True
            )
            (obs, _), score = env.reset(), 0.0


if __name__ == "__main__":  # the loader's worker processes import this file
    main()

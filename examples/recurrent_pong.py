"""Recurrent double DQN (Hausknecht and Stone, 2015) on an Atari game: it sees one frame at a time, and remembers.

    python examples/recurrent_pong.py --steps 1000000

Needs the extra `atari`. The lines marked # diffreplay are all that the replay buffer takes.
"""

import argparse
import copy
import random

import ale_py
import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import AtariPreprocessing
from torch import Tensor, nn

import diffreplay

BURN_IN, GAMMA = 8, 0.99  # the first steps of a sequence only fill the memory


def make_env(game: str) -> gymnasium.Env:
    """Observations are gray frames (84, 84) uint8; an action lasts four frames of the game."""
    gymnasium.register_envs(ale_py)
    return AtariPreprocessing(gymnasium.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0))


class Network(nn.Module):
    """Convolutions as in DQN, and a memory behind them."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        eyes = [nn.Conv2d(1, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.Conv2d(32, 32, 3)]
        self.eyes = nn.Sequential(*eyes, nn.ReLU(), nn.Flatten(), nn.Linear(1568, 256), nn.ReLU())
        self.memory, self.head = nn.GRU(256, 256, batch_first=True), nn.Linear(256, actions)

    def forward(self, obs: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Values (B, T, actions) of frames (B, T, 1, 84, 84), and the memory after them."""
        seen = self.eyes(obs.flatten(0, 1) / 255).unflatten(0, obs.shape[:2])
        features, memory = self.memory(seen, memory)
        return self.head(features), memory


def update(
    network: nn.Module, target: nn.Module, optimizer: torch.optim.Adam, batch: diffreplay.SequenceBatch
) -> float:
    """One step of double DQN over sequences; the loss before it."""
    values = network(batch.obs)[0]
    with torch.no_grad():
        best = values[:, 1:].argmax(2, keepdim=True)
        after = target(batch.obs)[0][:, 1:].gather(2, best)[..., 0]  # obs[:, t + 1] is there wherever mask[:, t] is
        goal = batch.reward[:, :-1] + GAMMA * batch.discount[:, :-1] * after  # discount is 0 where it terminated
    taken = values[:, :-1].gather(2, batch.action[:, :-1, None])[..., 0]
    counts = batch.mask[:, :-1].clone()
    counts[:, :BURN_IN] &= batch.is_first[:, :1]  # a memory that is empty is right at an episode's first step
    loss = nn.functional.smooth_l1_loss(taken * counts, goal * counts, reduction="sum") / counts.sum().clamp(1)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 10)
    optimizer.step()
    return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="Pong")
    parser.add_argument("--steps", type=int, default=1_000_000, help="actions in all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    env = make_env(args.game)
    actions = gymnasium.spaces.flatdim(env.action_space)
    replay = diffreplay.ReplayBuffer(200_000, (1, 84, 84), (), action_dtype="int64", frame_stack=1)  # diffreplay
    loader = diffreplay.make_replay_loader(replay, 8, 2, sequence_length=32)  # diffreplay
    batches = diffreplay.batches_on(loader, args.device)  # diffreplay
    network = Network(actions).to(args.device)
    target, optimizer = copy.deepcopy(network), torch.optim.Adam(network.parameters(), lr=1e-4)
    obs, memory, score, loss, warmup = env.reset()[0][None], None, 0.0, float("nan"), min(10_000, args.steps // 10)
    for step in range(1, args.steps + 1):
        with torch.no_grad():
            values, memory = network(torch.as_tensor(obs, device=args.device)[None, None], memory)
        explores = step <= warmup or random.random() < max(0.02, 1 - 10 * step / args.steps)
        action = random.randrange(actions) if explores else int(values.argmax())
        frame, reward, terminated, truncated, _ = env.step(action)
        replay.add_transition(obs, action, np.sign(float(reward)), frame[None], terminated, truncated)  # diffreplay
        obs, score = frame[None], score + float(reward)
        if step > warmup and step % 8 == 0:
            loss = update(network, target, optimizer, next(batches))
        if step % 2_000 == 0:
            target.load_state_dict(network.state_dict())
        if terminated or truncated or step == args.steps:
            memory_mb = replay.stats().total_bytes / 1e6  # diffreplay
            print(f"step {step}: score {score:.0f}, loss {loss:.4f}, replay {memory_mb:.1f} MB", flush=True)
            obs, memory, score = env.reset()[0][None], None, 0.0


if __name__ == "__main__":  # the loader's worker processes import this file
    main()

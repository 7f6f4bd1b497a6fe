"""Double DQN with 3-step returns on an Atari game, trained from a compressed replay buffer: a loop to copy from.

    python examples/dqn_pong.py --steps 1000000

Needs the extra `atari`. The lines marked # diffreplay are all that the replay buffer takes.
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


def make_network(actions: int) -> nn.Module:
    """The network of DQN (Mnih et al., 2015)."""
    convolutions = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3)]
    return nn.Sequential(
        *convolutions, nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, actions)
    )


def update(network: nn.Module, target: nn.Module, optimizer: Optimizer, batch: diffreplay.ReplayBatch) -> float:
    """One step of double DQN (van Hasselt et al., 2016); the loss before it."""
    obs, action, reward, discount, next_obs = batch  # next_obs is 3 steps after obs; discount is 0 at an end
    with torch.no_grad():
        best = network(next_obs / 255).argmax(1, keepdim=True)
        goal = reward + discount * target(next_obs / 255).gather(1, best)
    loss = nn.functional.smooth_l1_loss(network(obs / 255).gather(1, action[:, None]), goal)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="Pong")
    parser.add_argument("--steps", type=int, default=1_000_000, help="actions in all")
    parser.add_argument("--workers", type=int, default=2, help="processes that prepare batches")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    random.seed(args.seed)
    torch.manual_seed(args.seed)

    env = make_env(args.game)
    actions = gymnasium.spaces.flatdim(env.action_space)
    replay = diffreplay.ReplayBuffer(  # diffreplay
        200_000, (4, 84, 84), (), action_dtype="int64", frame_stack=4, nstep=3, discount=0.99
    )
    loader = diffreplay.make_replay_loader(replay, 32, args.workers, seed=args.seed)  # diffreplay
    batches = diffreplay.batches_on(loader, args.device)  # diffreplay

    network = make_network(actions).to(args.device)
    target = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    obs, _ = env.reset(seed=args.seed)
    score, loss, warmup = 0.0, float("nan"), min(10_000, args.steps // 10)
    for step in range(1, args.steps + 1):
        # Random actions at first, fewer and fewer until a tenth of the steps is over, then one in fifty.
        if step <= warmup or random.random() < max(0.02, 1 - 10 * step / args.steps):
            action = random.randrange(actions)
        else:
            with torch.no_grad():
                action = int(network(torch.as_tensor(obs, device=args.device)[None] / 255).argmax())
        next_obs, reward, terminated, truncated, _ = env.step(action)
        replay.add_transition(obs, action, np.sign(float(reward)), next_obs, terminated, truncated)  # diffreplay
        obs, score = next_obs, score + float(reward)
        if step > warmup and step % 4 == 0:
            loss = update(network, target, optimizer, next(batches))
        if step % 2_000 == 0:
            target.load_state_dict(network.state_dict())
        if terminated or truncated or step == args.steps:
            memory = replay.stats().summary  # diffreplay
            print(f"step {step}: score {score:.0f}, loss {loss:.4f}, {memory}", flush=True)
            obs, score = env.reset()[0], 0.0


if __name__ == "__main__":  # the loader's worker processes import this file
    main()

"""Double DQN on an Atari game in several processes, which all learn from one replay buffer: a loop to copy from.

    torchrun --standalone --nproc-per-node 2 examples/two_ranks.py --steps 1000000

Rank 0 plays, and writes what it sees. Every rank draws batches of its own from that one copy, and all take the same
step, along the mean of their gradients. Needs the extra `atari`. What the buffer takes is marked # diffreplay.
"""

import argparse
import copy
import random
from typing import Any

import ale_py
import gymnasium
import numpy as np
import torch
import torch.distributed as dist
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import diffreplay


def make_env(game: str) -> gymnasium.Env:
    """Observations are four gray frames (4, 42, 42) uint8; an action lasts four frames of the game."""
    gymnasium.register_envs(ale_py)
    env = gymnasium.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0)
    return FrameStackObservation(AtariPreprocessing(env, screen_size=42), 4)


def make_network(actions: int) -> nn.Module:
    convolutions = [nn.Conv2d(4, 32, 5, 3), nn.ReLU(), nn.Conv2d(32, 32, 3, 2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*convolutions, nn.Linear(1152, 256), nn.ReLU(), nn.Linear(256, actions))


def loss_of(network: nn.Module, target: nn.Module, batch: diffreplay.ReplayBatch) -> torch.Tensor:
    """Of double DQN (van Hasselt et al., 2016), over one step."""
    obs, action, reward, discount, next_obs = batch
    with torch.no_grad():
        best = network(next_obs / 255).argmax(1, keepdim=True)
        goal = reward + discount * target(next_obs / 255).gather(1, best)
    return nn.functional.smooth_l1_loss(network(obs / 255).gather(1, action[:, None]), goal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="Pong")
    parser.add_argument("--steps", type=int, default=1_000_000, help="actions in all, four for each update")
    parser.add_argument("--workers", type=int, default=1, help="processes of each rank that prepare batches")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    random.seed(args.seed)
    torch.manual_seed(args.seed)

    shared: list[Any] = [None, None]
    if rank == 0:
        env = make_env(args.game)
        replay = diffreplay.ReplayBuffer(200_000, (4, 42, 42), (), action_dtype="int64", frame_stack=4)  # diffreplay
        shared = [replay.handle(), gymnasium.spaces.flatdim(env.action_space)]  # diffreplay
        obs, _ = env.reset(seed=args.seed)
    dist.broadcast_object_list(shared)
    handle, actions = shared
    loader = diffreplay.make_replay_loader(handle, 32, args.workers, rank=rank, world_size=world_size)  # diffreplay
    batches = iter(loader)

    network = make_network(actions)
    target, learner = copy.deepcopy(network), DistributedDataParallel(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    warmup = min(10_000, args.steps // 10)
    for step in range(1, args.steps + 1):
        if rank == 0:
            if step <= warmup or random.random() < max(0.02, 1 - 10 * step / args.steps):
                action = random.randrange(actions)
            else:
                with torch.no_grad():
                    action = int(network(torch.as_tensor(obs)[None] / 255).argmax())
            next_obs, reward, terminated, truncated, _ = env.step(action)
            replay.add_transition(obs, action, np.sign(float(reward)), next_obs, terminated, truncated)  # diffreplay
            obs = env.reset()[0] if terminated or truncated else next_obs
        if step > warmup and step % 4 == 0:
            optimizer.zero_grad()
            loss = loss_of(learner, target, next(batches))
            loss.backward()  # waits for the other ranks' gradients, and takes the mean
            optimizer.step()
            if step % 2_000 == 0:
                target.load_state_dict(network.state_dict())
            if step % 2_000 == 0 or step + 4 > args.steps:
                weights = sum(one.double().sum().item() for one in network.parameters())
                print(f"rank {rank}, step {step}: loss {loss:.9f}, weights {weights:.9f}, {len(handle)} transitions")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":  # the loader's worker processes import this file
    main()

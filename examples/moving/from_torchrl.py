"""DQN on Pong with TorchRL's environment and loss, from a compressed replay buffer; the marked lines are what changed.

    python examples/moving/from_torchrl.py --steps 1000

Needs the extras `atari` and `torchrl`.
"""

import argparse
import random

import ale_py
import gymnasium
import torch
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from torch import nn
from torchrl.data import TensorDictReplayBuffer
from torchrl.envs import GymWrapper, step_mdp
from torchrl.modules import QValueActor
from torchrl.objectives import DQNLoss, SoftUpdate

from diffreplay.torchrl import ReplayStorage  # changed


class Network(nn.Sequential):
    """The network of DQN (Mnih et al., 2015), of uint8 images."""

    def __init__(self, actions: int) -> None:
        convolutions = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3)]
        head = [nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, actions)]
        super().__init__(*convolutions, *head)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        batch = observation.reshape(-1, 4, 84, 84)
        return super().forward(batch / 255).reshape(*observation.shape[:-3], -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--warmup", type=int, default=500)
    args = parser.parse_args()

    gymnasium.register_envs(ale_py)
    game = FrameStackObservation(AtariPreprocessing(gymnasium.make("ALE/Pong-v5", frameskip=1)), 4)
    env = GymWrapper(game, categorical_action_encoding=True)
    policy = QValueActor(Network(6), in_keys=["observation"], spec=env.action_spec)
    loss_module = DQNLoss(policy, action_space=env.action_spec, delay_value=True)
    loss_module.make_value_estimator(gamma=0.99)
    optimizer, target = torch.optim.Adam(loss_module.parameters(), lr=1e-4), SoftUpdate(loss_module, tau=0.005)
    buffer = TensorDictReplayBuffer(storage=ReplayStorage(100_000), batch_size=32, prefetch=2)  # changed

    td = env.reset()
    for step in range(1, args.steps + 1):
        td = env.rand_step(td) if random.random() < max(0.05, 1 - step / 50_000) else env.step(policy(td))
        buffer.add(td)
        td = env.reset() if td["next", "done"].any() else step_mdp(td)
        if step < args.warmup or step % 4:
            continue
        batch = buffer.sample()
        loss = loss_module(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        target.step()
    print(f"loss {loss:.4f}, {buffer.storage.stats().compression_ratio:.0f}x smaller than stacks")


if __name__ == "__main__":
    main()

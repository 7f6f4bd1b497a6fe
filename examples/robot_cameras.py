"""DDPG from two cameras and the joints of a robot's arm, four of which run side by side: a loop to copy from.

    MUJOCO_GL=egl python examples/robot_cameras.py --steps 100000

Needs dm_control and Gymnasium. The lines marked # diffreplay are all that the replay buffer takes.
"""

import argparse
from functools import partial

import gymnasium
import numpy as np
import torch
from dm_control import suite
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.optim import Adam

import diffreplay


class Arm(gymnasium.Env):
    """DeepMind Control's reacher, seen by a camera above it and one on its hand; reward 1 where it touches the ball."""

    action_space = spaces.Box(-1, 1, (2,))
    image, joints = spaces.Box(0, 255, (3, 64, 64), np.uint8), spaces.Box(-np.inf, np.inf, (4,), np.float64)
    observation_space = spaces.Dict({"above": image, "hand": image, "joints": joints})

    def __init__(self, seed: int) -> None:
        self.arm = suite.load("reacher", "easy", task_kwargs={"random": seed})

    def observe(self, values: dict) -> dict:
        above, hand = (self.arm.physics.render(64, 64, camera_id=k).transpose(2, 0, 1) for k in ("fixed", "hand"))
        return {"above": above, "hand": hand, "joints": np.concatenate([values["position"], values["velocity"]])}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        return self.observe(self.arm.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        step = self.arm.step(action)
        return self.observe(step.observation), step.reward, False, step.last(), {}


class Network(nn.Module):
    """From both pictures, the joints and `more` numbers to `outputs`."""

    def __init__(self, more: int, outputs: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(6, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 16, 3, 2)]
        self.eyes = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(784, 64), nn.Tanh())
        self.head = nn.Sequential(nn.Linear(64 + 4 + more, 256), nn.ReLU(), nn.Linear(256, outputs))

    def forward(self, obs: dict[str, Tensor], *more: Tensor) -> Tensor:
        pixels = torch.cat([obs["above"], obs["hand"]], 1) / 255 - 0.5
        return self.head(torch.cat([self.eyes(pixels), obs["joints"].float(), *more], 1))


def update(actor: Network, critic: Network, target: Network, optimizer: Adam, batch: diffreplay.ReplayBatch) -> float:
    """One step of DDPG (Lillicrap et al., 2016) over 3-step returns; the critic's loss before it."""
    obs, action, reward, discount, next_obs = batch  # mappings: obs["above"] is (B, 3, 64, 64)
    goal = (reward + discount * target(next_obs, torch.tanh(actor(next_obs)))).detach()
    loss = nn.functional.mse_loss(critic(obs, action), goal)
    (-critic(obs, torch.tanh(actor(obs))).mean()).backward()
    critic.zero_grad()  # that was for the actor alone
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
        slow.data.lerp_(fast.data, 0.01)
    return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000, help="actions of all four arms together")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    env = SyncVectorEnv([partial(Arm, k) for k in range(4)], autoreset_mode=AutoresetMode.SAME_STEP)
    replay = diffreplay.ReplayBuffer.from_spaces(50_000, Arm.observation_space, Arm.action_space, nstep=3)  # diffreplay
    loader = diffreplay.make_replay_loader(replay, 64, num_workers=2, threads=True)  # diffreplay
    batches = diffreplay.batches_on(loader, args.device)  # diffreplay
    actor, critic, target = (Network(*sizes).to(args.device) for sizes in ((0, 2), (2, 1), (2, 1)))
    optimizer = Adam([*actor.parameters(), *critic.parameters()], lr=1e-4)
    obs, score, loss = env.reset()[0], 0.0, float("nan")
    for step in range(4, args.steps + 1, 4):
        best = torch.tanh(actor({k: torch.as_tensor(v).to(args.device) for k, v in obs.items()})).detach()
        action = np.clip(best.cpu().numpy() + np.random.normal(0, 0.3, (4, 2)), -1, 1).astype(np.float32)
        next_obs, reward, terminated, truncated, infos = env.step(action)
        replay.add_batch(obs, action, reward, next_obs, terminated, truncated, infos=infos)  # diffreplay
        obs, score = next_obs, score + reward.sum()
        if step >= min(2_000, args.steps // 2):
            loss = update(actor, critic, target, optimizer, next(batches))
        if step % 4_000 == 0 or step + 4 > args.steps:
            print(f"step {step}: reward {score:.0f}, loss {loss:.4f}, {replay.stats().compression_ratio:.1f}x smaller")


if __name__ == "__main__":
    main()

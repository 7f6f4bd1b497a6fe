"""The loop of DrQ-v2's `train.py`, shortened, over a compressed replay buffer; the marked lines are what changed.

    python examples/moving/from_drqv2.py --steps 500

Needs the extra `drqv2`. Environment and agent come from this repository's `drqv2`, which is for current versions of
dm_control; their calls are those of DrQ-v2.
"""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

import diffreplay  # changed

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for drqv2
from drqv2 import environment as dmc
from drqv2.agent import AgentConfig, DrQV2Agent

AGENT = AgentConfig(
    lr=1e-4,
    feature_dim=50,
    hidden_dim=1024,
    critic_target_tau=0.01,
    update_every_steps=2,
    num_expl_steps=2000,
    stddev_schedule="linear(1.0,0.1,100000)",
    stddev_clip=0.3,
)


class Workspace:
    def __init__(self, cfg: SimpleNamespace) -> None:
        self.cfg = cfg
        self.setup()
        shapes = self.train_env.observation_spec().shape, self.train_env.action_spec().shape
        self.agent = DrQV2Agent(*shapes, AGENT, torch.device("cpu"), cfg.seed)

    def setup(self) -> None:
        self.train_env = dmc.make(self.cfg.task_name, self.cfg.frame_stack, self.cfg.action_repeat, self.cfg.seed)
        # fmt: off
        self.replay_storage = diffreplay.ReplayBuffer(  # changed
            self.cfg.replay_buffer_size, self.train_env.observation_spec().shape,  # changed
            self.train_env.action_spec().shape, frame_stack=self.cfg.frame_stack,  # changed
            nstep=self.cfg.nstep, discount=self.cfg.discount)  # changed
        self.replay_loader = diffreplay.make_replay_loader(  # changed
            self.replay_storage, self.cfg.batch_size,  # changed
            num_workers=self.cfg.replay_buffer_num_workers, pin_memory=True)  # changed
        # fmt: on

    def train(self, steps: int) -> None:
        replay_iter = iter(self.replay_loader)
        time_step = self.train_env.reset()
        self.replay_storage.add(time_step)
        for step in range(steps):
            if time_step.last():
                time_step = self.train_env.reset()
                self.replay_storage.add(time_step)
            action = self.agent.act(time_step.observation, step, evaluate=False)
            if step >= self.cfg.num_seed_steps:
                self.agent.update(next(replay_iter), step)
            time_step = self.train_env.step(action)
            self.replay_storage.add(time_step)
        print(self.replay_storage)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500_000)
    parser.add_argument("--seed-steps", type=int, default=2000, help="actions before the first update")
    parser.add_argument("--batch-size", type=int, default=256)
    args = parser.parse_args()
    cfg = SimpleNamespace(
        task_name="walker_walk", frame_stack=3, action_repeat=2, seed=1, discount=0.99, num_seed_steps=args.seed_steps,
        replay_buffer_size=1_000_000, replay_buffer_num_workers=2, nstep=3, batch_size=args.batch_size,
    )  # fmt: skip
    Workspace(cfg).train(args.steps)


if __name__ == "__main__":
    main()

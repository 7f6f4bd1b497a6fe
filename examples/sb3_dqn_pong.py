"""DQN on Pong as a script for Stable-Baselines3 has it; the two marked lines put a compressed replay buffer under it.

    python examples/sb3_dqn_pong.py --steps 1000000

Needs the extra `atari`. For PPO or A2C: `CompressedRolloutBuffer` and
`rollout_buffer_class`; docs/moving/sb3.md lists more.
"""

import argparse

import ale_py
import gymnasium
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from diffreplay.sb3 import CompressedReplayBuffer  # changed: added


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000, help="actions in all")
    parser.add_argument("--warmup", type=int, default=10_000, help="actions before the first update")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    gymnasium.register_envs(ale_py)
    env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", seed=args.seed), n_stack=4)
    model = DQN(
        "CnnPolicy",
        env,
        buffer_size=100_000,
        learning_rate=1e-4,
        learning_starts=args.warmup,
        exploration_final_eps=0.01,
        replay_buffer_class=CompressedReplayBuffer,  # changed: added
        seed=args.seed,
        verbose=1,
    )
    model.learn(args.steps)
    if isinstance(model.replay_buffer, CompressedReplayBuffer):  # to show what it gains
        stats = model.replay_buffer.stats()
        print(f"replay {stats.total_bytes / 1e6:.1f} MB, {stats.stacked_bytes / 1e6:.1f} MB as plain stacks")


if __name__ == "__main__":
    main()

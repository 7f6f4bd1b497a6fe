"""PPO on Pong as a script for Stable-Baselines3 has it; the marked lines keep its rollouts compressed.

    python examples/moving/from_sb3.py --steps 1000000

Needs the extra `atari`. `examples/sb3_dqn_pong.py` is the same for a replay buffer.
"""

import argparse

import ale_py
import gymnasium
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from diffreplay.sb3 import CompressedRolloutBuffer  # changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000_000)
    args = parser.parse_args()

    gymnasium.register_envs(ale_py)
    env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=2, seed=1), n_stack=4)
    model = PPO(
        "CnnPolicy",
        env,
        n_steps=128,
        batch_size=64,
        n_epochs=1,
        rollout_buffer_class=CompressedRolloutBuffer,  # changed
        seed=1,
    )
    model.learn(args.steps)
    if isinstance(model.rollout_buffer, CompressedRolloutBuffer):  # to show what it gains
        print(f"{model.rollout_buffer.stats().compression_ratio:.1f}x smaller than stacks")


if __name__ == "__main__":
    main()

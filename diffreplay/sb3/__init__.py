"""Compressed replay and rollout buffers for Stable-Baselines3.

    from diffreplay.sb3 import CompressedReplayBuffer

    model = DQN("CnnPolicy", env, replay_buffer_class=CompressedReplayBuffer)

Needs Stable-Baselines3 2.9: `pip install diffreplay[atari]`. Buffers for the algorithms of sb3-contrib are in
`diffreplay.sb3.contrib`.
"""

from diffreplay.sb3.requirements import require

require("stable_baselines3")

from diffreplay.sb3.replay import (  # noqa: E402
    CompressedDictReplayBuffer,
    CompressedHerReplayBuffer,
    CompressedReplayBuffer,
)
from diffreplay.sb3.rollout import CompressedDictRolloutBuffer, CompressedRolloutBuffer  # noqa: E402

__all__ = [
    "CompressedDictReplayBuffer",
    "CompressedDictRolloutBuffer",
    "CompressedHerReplayBuffer",
    "CompressedReplayBuffer",
    "CompressedRolloutBuffer",
]

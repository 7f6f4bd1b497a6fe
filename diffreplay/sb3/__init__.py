"""Compressed replay and rollout buffers for Stable-Baselines3.

    from diffreplay.sb3 import CompressedReplayBuffer

    model = DQN("CnnPolicy", env, replay_buffer_class=CompressedReplayBuffer)

Needs Stable-Baselines3 2.9: `pip install diffreplay[atari]`.
"""

try:
    import stable_baselines3 as _  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"diffreplay.sb3: expected Stable-Baselines3 2.9, got {error}; install it with pip install 'diffreplay[atari]'",
        name=error.name,
    ) from None

from diffreplay.sb3.replay import CompressedDictReplayBuffer, CompressedReplayBuffer
from diffreplay.sb3.rollout import CompressedDictRolloutBuffer, CompressedRolloutBuffer

__all__ = [
    "CompressedDictReplayBuffer",
    "CompressedDictRolloutBuffer",
    "CompressedReplayBuffer",
    "CompressedRolloutBuffer",
]

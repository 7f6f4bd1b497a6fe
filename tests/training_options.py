"""Options of tiny runs on the real walker, and whether two runs end alike, for the tests of the training loop."""

from pathlib import Path
from typing import Any

import hydra
import torch

from drqv2.config import Config, parse_config

CONFIGS = Path(__file__).parent.parent / "cfgs"

# An action lasts 10 frames, so that an episode of 1000 frames takes 100 agent steps and as many renderings.
TINY = (
    "task=walker_walk",
    "device=cpu",
    "action_repeat=10",
    "num_train_frames=1200",
    "num_seed_frames=1000",
    "batch_size=4",
    "eval_every_frames=0",
    "num_eval_episodes=1",
    "save_video=false",
    "use_tb=false",
    "replay_buffer_num_workers=0",
    "replay_buffer_size=1000",
    "feature_dim=8",
    "agent.hidden_dim=16",
)


def tiny_config(*overrides: str) -> Config:
    """The options of a tiny run; an override wins over TINY."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return parse_config(hydra.compose("config", overrides=[*TINY, *overrides]))


def assert_identical(first: Any, second: Any, path: str = "") -> None:
    """Compare states, bit for bit."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_identical(first[key], second[key], f"{path}/{key}")
    elif isinstance(first, list):
        for i, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_identical(a, b, f"{path}/{i}")
    else:
        assert first == second, path

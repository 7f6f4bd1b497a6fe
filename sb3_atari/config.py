"""The options' types and the rules between them. Their meaning and defaults stand in cfgs/atari.yaml.

Light to import, so that a mistaken option is reported before PyTorch loads.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from omegaconf import DictConfig

from runs.errors import OptionError
from runs.options import check_at_least, check_compression, chosen_codec, typed

GAMES = (
    "Asteroids",
    "BeamRider",
    "Breakout",
    "Enduro",
    "MsPacman",
    "Pong",
    "Qbert",
    "RoadRunner",
    "Seaquest",
    "SpaceInvaders",
)
ALGORITHMS = ("qrdqn", "ppo")
AT_LEAST = {
    "frame_stack": 1,
    "num_train_steps": 1,
    "num_envs": 1,
    "eval_every_steps": 0,
    "num_eval_episodes": 1,
    "snapshot_every_steps": 1,
    "seed": 0,
    "num_threads": 1,
    "log_every_steps": 1,
    "buffer_max_bytes": 1,
}


@dataclass
class QRDQNConfig:
    """Hyperparameters of `sb3_contrib.QRDQN`."""

    buffer_size: int
    exploration_fraction: float
    learning_rate: float
    learning_starts: int
    batch_size: int
    train_freq: int
    target_update_interval: int
    n_steps: int
    gamma: float


@dataclass
class PPOConfig:
    """Hyperparameters of `stable_baselines3.PPO`."""

    n_steps: int
    n_epochs: int
    batch_size: int
    learning_rate: float
    clip_range: float
    vf_coef: float
    ent_coef: float
    gamma: float
    gae_lambda: float


@dataclass
class AtariConfig:
    """All options of a run; OptionError from `parse_config` when they cannot work."""

    env: str
    alg: str
    frame_stack: int
    num_train_steps: int
    num_envs: int | None
    eval_every_steps: int
    num_eval_episodes: int
    save_snapshot: bool
    snapshot_every_steps: int
    half_compress: bool
    full_compress: bool
    codec: str | None
    buffer_max_bytes: int | None
    seed: int
    device: str
    num_threads: int | None
    use_tb: bool
    log_every_steps: int
    save_model: bool
    save_replay_buffer: bool
    experiment: str
    qrdqn: QRDQNConfig
    ppo: PPOConfig

    @property
    def environments(self) -> int:
        """Environments side by side."""
        return self.num_envs or (8 if self.alg == "ppo" else 1)

    @property
    def buffer_codec(self) -> str | None:
        """Name of the compressed buffer's codec; None for Stable-Baselines3's own buffer."""
        return chosen_codec(self.half_compress, self.full_compress, self.codec)

    def of_what_is_stored(self) -> dict[str, Any]:
        """What a run's snapshot depends on; a run that is gone on with in the same folder has to have the same."""
        stored = {
            "env": self.env,
            "alg": self.alg,
            "frame_stack": self.frame_stack,
            "num_envs": self.environments,
            "seed": self.seed,
        }
        if self.alg == "qrdqn":
            stored |= {f"qrdqn.{name}": getattr(self.qrdqn, name) for name in ("buffer_size", "n_steps", "gamma")}
            stored |= {"half_compress": self.half_compress, "full_compress": self.full_compress}
            stored |= {"codec": self.buffer_codec, "buffer_max_bytes": self.buffer_max_bytes}
        return stored


def parse_config(options: DictConfig) -> AtariConfig:
    """Check hydra's `options` for types, ranges and contradictions and return them; OptionError names the mistake."""
    config = typed(options, AtariConfig)
    for name, known in (("env", GAMES), ("alg", ALGORITHMS)):
        if getattr(config, name) not in known:
            raise OptionError(f"{name}={getattr(config, name)}: expected one of {', '.join(known)}")
    check_at_least(config, AT_LEAST)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        raise OptionError(f"device={config.device}: expected auto, cpu, cuda or cuda:<index>")
    for group in ("qrdqn", "ppo"):
        _check_hyperparameters(group, getattr(config, group))
    _check_buffer(config)
    return config


def _check_hyperparameters(group: str, values: QRDQNConfig | PPOConfig) -> None:
    for name, value in asdict(values).items():
        least = 0 if isinstance(value, float) or name == "learning_starts" else 1
        if value < least:
            raise OptionError(f"{group}.{name}={value}: expected at least {least}")


def _check_buffer(config: AtariConfig) -> None:
    check_compression(config.half_compress, config.full_compress, config.codec)
    if config.buffer_max_bytes is not None and config.buffer_codec is None:
        raise OptionError(
            f"buffer_max_bytes={config.buffer_max_bytes} is for compressed buffers: add full_compress=true or "
            "half_compress=true"
        )
    if config.save_replay_buffer and config.alg != "qrdqn":
        raise OptionError(
            f"save_replay_buffer=true: expected alg=qrdqn, got alg={config.alg}, which has no such buffer"
        )
    if config.alg == "ppo" and config.ppo.n_steps * config.environments < 2:
        raise OptionError("ppo.n_steps=1 with num_envs=1: expected at least 2 steps a rollout; raise either")

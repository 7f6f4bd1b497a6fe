"""The options' types and the rules between them. Their meaning and defaults stand in cfgs/config.yaml.

Light to import, so that a mistaken option is reported before PyTorch and MuJoCo load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from drqv2.observations import check_cameras, is_mapping, written
from drqv2.schedule import parse_schedule
from runs.errors import OptionError
from runs.options import check_at_least, check_compression, chosen_codec, typed

AT_LEAST = {
    "frame_stack": 1,
    "action_repeat": 1,
    "num_train_frames": 1,
    "num_seed_frames": 0,
    "batch_size": 1,
    "nstep": 1,
    "eval_every_frames": 0,
    "num_eval_episodes": 1,
    "snapshot_every_frames": 1,
    "replay_buffer_size": 1,
    "replay_buffer_num_workers": 0,
    "actors": 0,
    "seed": 0,
}


@dataclass
class AgentConfig:
    """Hyperparameters of `drqv2.agent.DrQV2Agent`."""

    lr: float
    feature_dim: int
    hidden_dim: int
    critic_target_tau: float
    update_every_steps: int
    num_expl_steps: int
    stddev_schedule: str
    stddev_clip: float


@dataclass
class Config:
    """All options of a run; OptionError from `parse_config` when they cannot work."""

    task_name: str
    frame_stack: int
    action_repeat: int
    discount: float
    grayscale: bool | None
    black_floor: bool | None
    cameras: list[int] | None
    proprioception: bool
    num_train_frames: int
    num_seed_frames: int
    batch_size: int
    nstep: int
    eval_every_frames: int
    num_eval_episodes: int
    evaluate_at_start: bool
    save_video: bool
    save_train_video: bool
    save_snapshot: bool
    snapshot_every_frames: int
    half_compress: bool
    full_compress: bool
    codec: str | None
    replay_buffer_size: int
    replay_buffer_max_bytes: int | None
    replay_buffer_num_workers: int
    actors: int
    ray_address: str | None
    seed: int
    device: str
    use_tb: bool
    experiment: str
    lr: float
    feature_dim: int
    stddev_schedule: str
    agent: AgentConfig

    @property
    def observe_in_gray(self) -> bool:
        """Whether frames have one channel: as set, else with either compression, as in the paper."""
        return self.half_compress or self.full_compress if self.grayscale is None else self.grayscale

    @property
    def paint_floor_black(self) -> bool:
        """Whether the floor is black: as set, else with full compression, as in the paper."""
        return self.full_compress if self.black_floor is None else self.black_floor

    @property
    def images(self) -> str:
        """What the agent sees, in words."""
        return ("gray" if self.observe_in_gray else "RGB") + (", black floor" if self.paint_floor_black else "")

    @property
    def replay_codec(self) -> str | None:
        """Name of the codec of the buffer in RAM; None for the baseline on disk."""
        return chosen_codec(self.half_compress, self.full_compress, self.codec)

    @property
    def plain_stacks(self) -> str:
        """What a ratio is against, in words: the observations that the task gives, each kept whole."""
        frames = "gray" if self.observe_in_gray else "RGB"
        state = " with the state" if self.proprioception else ""
        return f"plain stacks of {self.frame_stack} {frames} frames{state}"

    def of_what_is_stored(self) -> dict[str, Any]:
        """What the steps of a run depend on; a run that is gone on with in the same folder has to have the same.

        Options of the replay in RAM are compared with the replay itself.
        """
        return {
            "task_name": self.task_name,
            "grayscale": self.observe_in_gray,
            "black_floor": self.paint_floor_black,
            "cameras": self.cameras,
            "proprioception": self.proprioception,
            "frame_stack": self.frame_stack,
            "action_repeat": self.action_repeat,
            "seed": self.seed,
            "feature_dim": self.agent.feature_dim,
            "hidden_dim": self.agent.hidden_dim,
        }


def parse_config(options: DictConfig) -> Config:
    """Check hydra's `options` for types, ranges and contradictions and return them; OptionError names the mistake."""
    if OmegaConf.is_missing(options, "task_name"):
        raise OptionError(
            "option task_name has no value: expected a task, such as task=walker_walk, of those that `python train.py "
            "--help` lists; easy, medium and hard are what tasks are made of"
        )
    cameras = OmegaConf.select(options, "cameras", throw_on_resolution_failure=False)
    if cameras is not None:
        check_cameras(cameras)
    config = typed(options, Config)
    _check_ranges(config)
    _check_replay(config)
    _check_actors(config)
    parse_schedule(config.agent.stddev_schedule)
    return config


def _check_ranges(config: Config) -> None:
    check_at_least(config, AT_LEAST)
    if 0 < config.eval_every_frames < config.action_repeat:
        raise OptionError(
            f"eval_every_frames={config.eval_every_frames}: expected 0 (never) or at least one agent step, "
            f"{config.action_repeat} frames"
        )
    if not 0 <= config.discount <= 1:
        raise OptionError(f"discount={config.discount}: expected a number from 0 to 1")


def _check_replay(config: Config) -> None:
    check_compression(config.half_compress, config.full_compress, config.codec)
    if config.replay_buffer_max_bytes is not None and config.replay_codec is None:
        raise OptionError(
            f"replay_buffer_max_bytes={config.replay_buffer_max_bytes} is for a buffer in RAM: add full_compress=true "
            "or half_compress=true, or bound the episodes on disk by replay_buffer_size"
        )
    if is_mapping(config.cameras, config.proprioception) and config.replay_codec is None:
        option = "proprioception=true" if config.proprioception else f"cameras={written(config.cameras or [])}"
        raise OptionError(
            f"{option}: expected a replay buffer in RAM, as episodes on disk hold the frames of one camera: add "
            "full_compress=true or half_compress=true"
        )
    if config.nstep > config.replay_buffer_size:
        raise OptionError(
            f"nstep={config.nstep}: expected at most replay_buffer_size, {config.replay_buffer_size} transitions"
        )


def _check_actors(config: Config) -> None:
    if not config.actors:
        if config.ray_address is not None:
            raise OptionError(f"ray_address={config.ray_address} is for actors: add actors=4, or leave it out")
        return
    option = f"actors={config.actors}"
    if config.replay_codec is None or config.replay_codec == "sparse":
        got = "episodes on disk" if config.replay_codec is None else "codec=sparse, whose frames need each other"
        raise OptionError(
            f"{option}: expected a replay buffer in RAM that takes in what was coded elsewhere, got {got}: add "
            "full_compress=true or half_compress=true, with codec delta, zstd or raw"
        )
    if config.save_train_video:
        raise OptionError(f"{option}: expected save_train_video=false, as the actors film nothing, got true")

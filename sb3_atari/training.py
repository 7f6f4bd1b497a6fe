"""Builds an algorithm of Stable-Baselines3 for a run's options, and trains it."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import QRDQN
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from diffreplay import ReplayStats
from diffreplay.errors import InputError
from diffreplay.sb3 import CompressedReplayBuffer, CompressedRolloutBuffer
from runs.errors import OptionError
from runs.sizes import Sizes
from sb3_atari.config import AtariConfig
from sb3_atari.games import make_game
from sb3_atari.logs import open_logger
from sb3_atari.snapshot import Evaluations, RunSnapshot, SnapshotCallback


def train(config: AtariConfig, folder: Path) -> None:
    """Train as `config` says and write logs, evaluations and models to `folder`.

    Raises:
        OptionError: an option asks for what this machine or a buffer cannot give.
    """
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise OptionError(f"device={config.device}: expected a GPU that PyTorch can use, got none; use device=cpu")
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    with ExitStack() as opened:
        env = opened.enter_context(closing(make_game(config.env, config.environments, config.seed, config.frame_stack)))
        games = {"training": env}
        if config.eval_every_steps:
            seed = config.seed + 1_000_000
            games["evaluation"] = make_game(config.env, 1, seed, config.frame_stack, evaluation=True)
            opened.enter_context(closing(games["evaluation"]))
        try:
            model = make_model(config, env)
        except InputError as error:
            raise OptionError(str(error).replace("max_bytes", "buffer_max_bytes", 1)) from error
        _learn(config, folder, model, games)


def _learn(config: AtariConfig, folder: Path, model: BaseAlgorithm, games: dict[str, VecEnv]) -> None:
    snapshot = RunSnapshot(config, folder, model, games)
    callbacks: list[BaseCallback] = [BufferLog(config.log_every_steps, snapshot, config, model)]
    resumed = snapshot.resume()
    if config.eval_every_steps:
        callbacks.append(_evaluation(config, folder, model, games["evaluation"], snapshot.evaluations))
    if config.save_snapshot:
        callbacks.append(SnapshotCallback(snapshot, config.snapshot_every_steps))
    left = config.num_train_steps - model.num_timesteps
    if left > 0:
        model.set_logger(open_logger(folder, config.use_tb, model.num_timesteps if resumed else None))
        if resumed:
            print(f"going on from {snapshot.path} at step {model.num_timesteps}")
        log_interval = 100 if config.alg == "qrdqn" else 1
        model.learn(left, callbacks, log_interval=log_interval, reset_num_timesteps=not resumed)
        model.logger.close()
        if config.save_snapshot:
            snapshot.save()
    else:
        print(f"nothing to train: at step {model.num_timesteps} of num_train_steps={config.num_train_steps}")
    # A run that was finished before has what it was asked to save then.
    if config.save_model and (left > 0 or not (folder / "model.zip").exists()):
        model.save(folder / "model")
    buffer = folder / "replay_buffer.pkl"
    if config.save_replay_buffer and isinstance(model, QRDQN) and (left > 0 or not buffer.exists()):
        model.save_replay_buffer(buffer)


def _evaluation(
    config: AtariConfig, folder: Path, model: BaseAlgorithm, games: VecEnv, before: Evaluations
) -> EvalCallback:
    frequency = max(config.eval_every_steps // config.environments, 1)
    callback = EvalCallback(games, None, None, config.num_eval_episodes, frequency, str(folder), deterministic=False)
    before.give(callback, model.num_timesteps // config.environments)
    return callback


def make_model(config: AtariConfig, env: VecEnv) -> BaseAlgorithm:
    """QR-DQN or PPO with the buffer that the options ask for."""
    coded: dict[str, Any] = {}
    if config.buffer_codec is not None:
        coded = {
            "codec": config.buffer_codec,
            "max_bytes": config.buffer_max_bytes,
            "frame_stack": config.frame_stack,
        }
    shared: dict[str, Any] = {"seed": config.seed, "device": config.device}
    if config.alg == "ppo":
        if coded:
            shared |= {"rollout_buffer_class": CompressedRolloutBuffer, "rollout_buffer_kwargs": coded}
        return PPO("CnnPolicy", env, **asdict(config.ppo), **shared)
    options = asdict(config.qrdqn)
    if coded:
        coded |= {"n_steps": options.pop("n_steps"), "gamma": options["gamma"]}
        shared |= {"replay_buffer_class": CompressedReplayBuffer, "replay_buffer_kwargs": coded}
    return QRDQN("CnnPolicy", env, **options, **shared)


def model_buffer(model: BaseAlgorithm) -> BaseBuffer:
    """The replay or rollout buffer of an algorithm."""
    buffer = getattr(model, "replay_buffer", None) or getattr(model, "rollout_buffer", None)
    if not isinstance(buffer, BaseBuffer):
        raise TypeError(f"expected an algorithm with a buffer, got {type(model).__name__}")
    return buffer


def buffer_bytes(buffer: BaseBuffer) -> tuple[int, float]:
    """Bytes of all that a buffer allocated, and how many times smaller its observations are than plain stacks.

    Stable-Baselines3's own buffers count as allocated in full; their ratio is 1, next observations left out.
    """
    if isinstance(buffer, CompressedReplayBuffer | CompressedRolloutBuffer):
        stats = buffer.stats()
        return stats.total_bytes, stats.compression_ratio
    return sum(array.nbytes for array in vars(buffer).values() if isinstance(array, np.ndarray)), 1.0


class BufferLog(BaseCallback):
    """Logs the buffer's bytes and compression ratio about every `every` steps, and at the end; in words on the console.

    When it is due next stands in the run's snapshot.

    Args:
        every: steps.
        snapshot: of the run.
        config: of the run.
        model: whose buffer is empty yet: what is there from the start does not count as what a step takes.
    """

    def __init__(self, every: int, snapshot: RunSnapshot, config: AtariConfig, model: BaseAlgorithm) -> None:
        super().__init__()
        self._every, self._snapshot, self._frame_stack = every, snapshot, config.frame_stack
        buffer = model_buffer(model)
        self._sizes = Sizes(buffer.buffer_size * buffer.n_envs, config.buffer_max_bytes)
        if (stats := _stats(buffer)) is not None:
            self._sizes.line(stats)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.num_timesteps < self._snapshot.next_log:
            return
        self._snapshot.next_log = self.num_timesteps + self._every
        self._record()
        if isinstance(self.model, QRDQN):
            self.model.dump_logs()
        if (stats := _stats(model_buffer(self.model))) is not None:
            print(self._sizes.line(stats), flush=True)

    def _on_training_end(self) -> None:
        self._record()
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        if (stats := _stats(model_buffer(self.model))) is not None:
            print(self._sizes.end(stats, f"plain stacks of {self._frame_stack} gray frames"), flush=True)

    def _record(self) -> None:
        nbytes, ratio = buffer_bytes(model_buffer(self.model))
        self.logger.record("buffer/total_megabytes", nbytes / 1e6)
        self.logger.record("buffer/compression_ratio", ratio)


def _stats(buffer: BaseBuffer) -> ReplayStats | None:
    """Of a compressed buffer."""
    return buffer.stats() if isinstance(buffer, CompressedReplayBuffer | CompressedRolloutBuffer) else None

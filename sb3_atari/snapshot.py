"""Snapshots of a run: all that its rest depends on, so that it ends as if it had never been stopped.

They are taken between the training of one rollout and the collection of the next, where nothing is half done.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from sb3_contrib import QRDQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from diffreplay.snapshots import make_directory, open_regular, sync_directory
from runs.errors import OptionError
from runs.snapshot import cannot_save, check_same_run, load_snapshot, save_snapshot, unreadable
from sb3_atari.config import AtariConfig
from sb3_atari.game_state import game_state, set_game_state

VERSION = "atari 1"
PIECE_BYTES = 1 << 20
COUNTERS = (
    "num_timesteps",
    "_n_updates",
    "_episode_num",
    "_n_calls",
    "_current_progress_remaining",
    "exploration_rate",
)


class Evaluations:
    """What the evaluations of a run gave, in the order of their steps, in the words of `evaluations.npz`."""

    def __init__(self, timesteps: list[int], results: list[list[float]], ep_lengths: list[list[int]]) -> None:
        self.timesteps, self.results, self.ep_lengths = timesteps, results, ep_lengths

    def give(self, callback: EvalCallback, steps: int) -> None:
        """Have a callback go on with them after so many steps of each environment; OptionError if it cannot."""
        if self.results and len(self.results[0]) != callback.n_eval_episodes:
            raise OptionError(
                f"num_eval_episodes={callback.n_eval_episodes}: expected {len(self.results[0])}, as in the evaluations "
                "that this run folder has; use that, or another run folder (hydra.run.dir)"
            )
        callback.evaluations_timesteps = self.timesteps
        callback.evaluations_results, callback.evaluations_length = self.results, self.ep_lengths
        callback.best_mean_reward = max(map(float, map(np.mean, self.results)), default=-np.inf)
        callback.n_calls = steps

    def state(self) -> dict[str, Any]:
        """As plain numbers."""
        return {
            "timesteps": list(map(int, self.timesteps)),
            "results": [list(map(float, rewards)) for rewards in self.results],
            "ep_lengths": [list(map(int, lengths)) for lengths in self.ep_lengths],
        }


class RunSnapshot:
    """`snapshot.pt` in a run folder and, of QR-DQN, the replay buffer in `buffer/`.

    Args:
        config: all options.
        folder: the run folder.
        model: the algorithm.
        games: environments by name; those of before are found by it.
    """

    def __init__(self, config: AtariConfig, folder: Path, model: BaseAlgorithm, games: dict[str, VecEnv]) -> None:
        self.path, self._buffers = folder / "snapshot.pt", folder / "buffer"
        self._run, self._model, self._games = config.of_what_is_stored(), model, games
        self.evaluations = Evaluations([], [], [])
        self.steps = 0  # at the newest snapshot
        self.next_log = 0  # see BufferLog

    def save(self) -> None:
        """Keep all; the replay buffer first, so that `snapshot.pt` always names one that is there.

        Raises:
            OptionError: it cannot be written; the snapshot before is as it was.
        """
        model = self._model
        if model.num_timesteps == self.steps:
            return
        replay = self._save_replay(model) if isinstance(model, QRDQN) else None
        counters = {name: getattr(model, name) for name in COUNTERS if hasattr(model, name)}
        save_snapshot(
            self.path,
            {
                "version": VERSION,
                "run": self._run,
                "policy": model.policy.state_dict(),
                "optimizer": model.policy.optimizer.state_dict(),
                "counters": {k: v.item() if isinstance(v, np.generic) else v for k, v in counters.items()},
                "observations": torch.from_numpy(np.array(model._last_obs)),
                "episode_starts": torch.from_numpy(np.array(model._last_episode_starts)),
                "episodes": [{"r": float(e["r"]), "l": int(e["l"])} for e in model.ep_info_buffer or ()],
                "random": _random_state(model),
                "games": {name: game_state(env) for name, env in self._games.items()},
                "evaluations": self.evaluations.state(),
                "next_log": self.next_log,
                "replay": replay,
            },
        )
        self.steps = model.num_timesteps
        for path in self._buffers.glob("*.pkl*"):
            if replay is None or path.name != replay["name"]:
                path.unlink()

    def resume(self) -> bool:
        """Take up the run in the folder, if there is one; whether there was.

        Raises:
            OptionError: its snapshot is damaged, or of other options.
        """
        if not os.path.lexists(self.path):
            return False
        state = load_snapshot(self.path)
        if state.get("version") != VERSION:
            raise unreadable(self.path, f"expected version {VERSION}, got {state.get('version')!s:.20}")
        try:
            check_same_run(self.path, state["run"], self._run)
            self._take_up(state)
        except OptionError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise unreadable(self.path, f"it makes no sense: {error!s:.200}") from error
        return True

    def _take_up(self, state: dict[str, Any]) -> None:
        model = self._model
        model.policy.load_state_dict(state["policy"])
        model.policy.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["counters"].items():
            setattr(model, name, value)
        model._last_obs = state["observations"].numpy()
        model._last_episode_starts = state["episode_starts"].numpy()
        model.ep_info_buffer = deque(state["episodes"], maxlen=model._stats_window_size)
        model.ep_success_buffer = deque(maxlen=model._stats_window_size)
        if isinstance(model, QRDQN):
            self._load_replay(model, state["replay"])
        for name, env in self._games.items():
            if name in state["games"]:
                set_game_state(env, state["games"][name])
        self.evaluations = Evaluations(**state["evaluations"])
        self.steps, self.next_log = model.num_timesteps, state["next_log"]
        _set_random_state(model, state["random"])

    def _save_replay(self, model: QRDQN) -> dict[str, str]:
        path = self._buffers / f"{model.num_timesteps}.pkl"
        unfinished = path.with_suffix(".pkl.tmp")
        try:
            make_directory(self._buffers)
            with unfinished.open("w+b") as file:
                model.save_replay_buffer(file)
                file.flush()
                os.fsync(file.fileno())
                digest = _digest(file)
            os.replace(unfinished, path)
            sync_directory(self._buffers)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise cannot_save(path, error) from error
        return {"name": path.name, "checksum": digest}

    def _load_replay(self, model: QRDQN, saved: dict[str, str]) -> None:
        path = self._buffers / Path(saved["name"]).name
        try:
            file = open_regular(path)
        except OSError as error:
            raise unreadable(path, str(error.strerror or error)) from error
        with file:
            if _digest(file) != saved["checksum"]:  # so that only what a run saved is ever unpickled
                raise unreadable(path, "its checksum differs")
            file.seek(0)
            model.load_replay_buffer(file)  # type: ignore[arg-type]


class SnapshotCallback(BaseCallback):
    """Saves a snapshot about every `every` steps."""

    def __init__(self, snapshot: RunSnapshot, every: int) -> None:
        super().__init__()
        self._snapshot, self._every = snapshot, every

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps - self._snapshot.steps >= self._every:
            self._snapshot.save()


def _digest(file: BinaryIO) -> str:
    digest = hashlib.blake2b(digest_size=16)
    file.seek(0)
    while piece := file.read(PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()


def _random_state(model: BaseAlgorithm) -> dict[str, Any]:
    numpy_state: Any = np.random.get_state(legacy=False)
    return {
        "numpy": numpy_state | {"state": numpy_state["state"] | {"key": numpy_state["state"]["key"].tolist()}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if model.device.type == "cuda" else [],
        "actions": model.action_space.np_random.bit_generator.state,
    }


def _set_random_state(model: BaseAlgorithm, state: dict[str, Any]) -> None:
    """A GPU's state fits the same number of GPUs only; others go on as they were seeded."""
    key = np.array(state["numpy"]["state"]["key"], np.uint32)
    np.random.set_state(state["numpy"] | {"state": state["numpy"]["state"] | {"key": key}})
    torch.set_rng_state(state["torch"])
    if model.device.type == "cuda" and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    model.action_space.np_random.bit_generator.state = state["actions"]

"""Real episodes to measure on: recorded once from dm_control or Atari, then kept as files.

A recording is an .npz file (or .npz.xz) with `frames` (N, H, W) or (N, H, W, C) uint8 and `episode_start` (N,) bool.
"""

from __future__ import annotations

import io
import lzma
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]

CACHE = Path(__file__).resolve().parent.parent / "exp_local" / "recordings"  # which git ignores
RECORDED_FRAMES = 4008  # 8 episodes of walker and quadruped
PERSISTENCE = (0.0, 0.8, 0.95)  # of random actions, from jerky to slow: policies differ in that, too


@dataclass(frozen=True)
class Recording:
    """Episodes of one task.

    Attributes:
        name: `<dm_control task>_gray`, `<dm_control task>_rgb` or `atari_<game>`.
        episodes: (T, C, H, W) uint8 each.
    """

    name: str
    episodes: list[Frames]

    @property
    def frames(self) -> int:
        """Frames in all."""
        return sum(map(len, self.episodes))

    @property
    def frame_stack(self) -> int:
        """Frames in an observation: 4 for Atari, 3 for DeepMind Control."""
        return 4 if self.name.startswith("atari_") else 3

    @property
    def stacked_bytes(self) -> int:
        """Bytes of the observation that is stored without this library: RGB for DeepMind Control, as DrQ-v2's."""
        channels = 1 if self.name.startswith("atari_") else 3
        height, width = self.episodes[0].shape[2:]
        return self.frame_stack * channels * height * width


def load(name: str, folder: Path | None = None, frames: int = RECORDED_FRAMES) -> Recording:
    """The recording `name`: a file in `folder` (all of it) or, without one, of at most so many frames in CACHE.

    What CACHE lacks is recorded now.

    Raises:
        SystemExit: `folder` has no such file.
    """
    if folder is not None:
        found = [path for suffix in (".npz", ".npz.xz") if (path := folder / f"{name}{suffix}").exists()]
        if not found:
            raise SystemExit(
                f"expected {folder / name}.npz or .npz.xz, which are not there; choose among {names(folder)}"
            )
        return _read(name, found[0])
    path = CACHE / f"{name}_{frames}.npz"
    if not path.exists():
        print(f"recording {frames} frames of {name} to {path} ...", flush=True)
        _write(path, _record_atari(name, frames) if name.startswith("atari_") else _record_control(name, frames))
    return _read(name, path)


def names(folder: Path) -> list[str]:
    """Names of all recordings in a folder."""
    return sorted(path.name.removesuffix(".xz").removesuffix(".npz") for path in folder.glob("*.npz*"))


def _read(name: str, path: Path) -> Recording:
    raw = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    with np.load(io.BytesIO(raw)) as data:
        frames, starts = data["frames"], data["episode_start"]
    channels_first = frames[:, None] if frames.ndim == 3 else np.moveaxis(frames, -1, 1)
    return Recording(name, np.split(np.ascontiguousarray(channels_first), np.flatnonzero(starts)[1:]))


def _write(path: Path, episodes: list[Frames]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    starts = np.zeros(sum(map(len, episodes)), bool)
    starts[np.cumsum([0, *map(len, episodes[:-1])])] = True
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, frames=np.moveaxis(np.concatenate(episodes), 1, -1), episode_start=starts)
    os.replace(unfinished, path)


def _record_control(name: str, frames: int) -> list[Frames]:
    """A task of dm_control; gray frames are of the black floor, as full_compress sees them, RGB ones are unchanged."""
    from drqv2.environment import make

    task, _, colors = name.rpartition("_")
    if colors not in ("gray", "rgb"):
        raise SystemExit(f"expected a recording called TASK_gray, TASK_rgb or atari_GAME, got {name!r}")
    gray = colors == "gray"
    env = make(task, frame_stack=1, action_repeat=2, seed=1, grayscale=gray, black_floor=gray)
    rng = np.random.default_rng(1)
    dim = env.action_spec().shape[0]

    def play() -> Iterator[Frames]:
        persistence = rng.choice(PERSISTENCE)
        action = rng.uniform(-1, 1, dim)
        time_step = env.reset()
        yield time_step.observation
        while not time_step.last():
            action = persistence * action + (1 - persistence**2) ** 0.5 * rng.normal(size=dim) * 0.7
            time_step = env.step(np.clip(action, -1, 1).astype(np.float32))
            yield time_step.observation

    episodes = _collect(play, frames)
    env.close()
    return episodes


def _record_atari(name: str, frames: int) -> list[Frames]:
    """An Atari game as Stable-Baselines3 shows it to its agents, played with random actions."""
    import ale_py
    import gymnasium
    from stable_baselines3.common.atari_wrappers import AtariWrapper

    gymnasium.register_envs(ale_py)
    env = AtariWrapper(gymnasium.make(f"{name.removeprefix('atari_')}NoFrameskip-v4"))
    env.action_space.seed(1)
    seeds = iter([1])

    def play() -> Iterator[Frames]:
        observation, _ = env.reset(seed=next(seeds, None))
        over = False
        yield np.moveaxis(observation, -1, 0)
        while not over:
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            over = terminated or truncated
            yield np.moveaxis(observation, -1, 0)

    episodes = _collect(play, frames)
    env.close()
    return episodes


def _collect(play: Callable[[], Iterator[Frames]], frames: int) -> list[Frames]:
    """Whole episodes until there are `frames` frames; the last one is cut there."""
    episodes: list[Frames] = []
    missing = frames
    while missing > 0:
        episode: list[Frames] = []
        for frame in play():
            episode.append(np.array(frame))
            if len(episode) == missing:
                break
        missing -= len(episode)
        episodes.append(np.stack(episode))
    return episodes

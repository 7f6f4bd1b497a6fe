"""Atari through Stable-Baselines3: speed and buffer sizes with its own buffers, ours, and the paper's coding.

Reproduces Table II of Grossman and Plancher, "Differentially Encoded Observation Spaces for Perceptive Reinforcement
Learning" (ICRA 2024), with QR-DQN and PPO as cfgs/atari.yaml configures them. For every game and algorithm:

- speed: models that differ in nothing but their buffer train in turns, a slice each; the times of slices that do the
  same work are compared, and their weights must end identical;
- size: buffers are filled to the last step with one and the same play. A state of Stable-Baselines3's buffer is its
  stacked observation alone, though its replay buffer stores the next observation once more.

Run as `python -m benchmarks.atari_table Pong Breakout --alg qrdqn`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.base_class import BaseAlgorithm

from benchmarks.runner import Report, parser
from benchmarks.timing import Times, in_turns, quartiles
from diffreplay.sb3 import CompressedReplayBuffer, CompressedRolloutBuffer
from diffreplay.stats import ReplayStats
from sb3_atari.config import ALGORITHMS, GAMES, AtariConfig, parse_config
from sb3_atari.games import make_game
from sb3_atari.training import make_model

VARIANTS: dict[str, dict[str, Any]] = {
    "SB3": {},
    "delta": {"full_compress": True, "codec": "delta"},
    "sparse": {"full_compress": True, "codec": "sparse"},
}
OPTIONS = [option.name for option in fields(AtariConfig)]
STATE_BYTES = 4 * 84 * 84
PAPER = {  # average, lowest and highest total compression, and slow-down in percent
    "qrdqn": "9.9 (4.9 to 14.2), 29 %",
    "ppo": "8.9 (3.6 to 14.2), 5 %",
}


def configure(game: str, algorithm: str, variant: str, steps: int, device: str) -> AtariConfig:
    """Options of a run as the training command would make them."""
    loaded = OmegaConf.load("cfgs/atari.yaml")
    if not isinstance(loaded, DictConfig):
        raise TypeError(f"cfgs/atari.yaml: expected options by name, got {type(loaded).__name__}")
    options = OmegaConf.masked_copy(loaded, OPTIONS)
    changes = {"env": game, "alg": algorithm, "num_train_steps": steps, "device": device, **VARIANTS[variant]}
    options.update(changes)
    return parse_config(options)


def train_in_turns(
    game: str, algorithm: str, slices: int, steps: int, variants: list[str], device: str
) -> tuple[Times, dict[str, BaseAlgorithm]]:
    """Processor seconds and seconds passed of each slice of `steps` steps, (2, variants, slices); and the models."""
    models: dict[str, BaseAlgorithm] = {}
    for variant in variants:
        config = configure(game, algorithm, variant, steps, device)
        models[variant] = make_model(config, make_game(game, config.environments, config.seed))
    states: dict[str, RandomStates] = {}

    def learn(variant: str) -> None:
        if variant in states:
            states[variant].restore()
        else:
            models[variant].set_random_seed(1)
        models[variant].learn(steps, reset_num_timesteps=False, log_interval=1 << 30)
        if device == "cuda":
            torch.cuda.synchronize()
        states[variant] = RandomStates()

    calls = [partial(learn, variant) for variant in variants]
    seconds = in_turns(calls, slices, (time.process_time, time.perf_counter))
    for model in models.values():
        model.get_env().close()  # type: ignore[union-attr]
    return seconds, models


class RandomStates:
    """NumPy's and torch's global generators as they are now: each variant draws from its own state of them."""

    def __init__(self) -> None:
        self._numpy, self._torch = np.random.get_state(), torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore(self) -> None:
        """Go on from here."""
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        torch.cuda.set_rng_state_all(self._cuda)


def check_weights(models: dict[str, BaseAlgorithm]) -> None:
    """Compare what the first model has learnt with what the others have.

    Raises:
        RuntimeError: a weight differs.
    """
    (first, model), *others = models.items()
    expected = model.policy.state_dict()
    for variant, other in others:
        for name, value in other.policy.state_dict().items():
            if not torch.equal(value, expected[name]):
                raise RuntimeError(f"weights {name} with {variant} differ from those with {first}")


def fill_replay(game: str, capacity: int) -> dict[str, ReplayStats]:
    """Sizes of full replay buffers, by codec."""
    env = make_game(game, 1, 1)
    buffers = {
        codec: CompressedReplayBuffer(capacity, env.observation_space, env.action_space, codec=codec, device="cpu")
        for codec in ("delta", "sparse")
    }
    for obs, after, action, reward, done, infos in _play(env, capacity):
        for buffer in buffers.values():
            buffer.add(obs, after, action, reward, done, infos)
    return {codec: buffer.stats() for codec, buffer in buffers.items()}


def fill_rollouts(game: str, rollouts: int) -> dict[str, list[ReplayStats]]:
    """Sizes of each of a number of PPO's rollouts, by codec."""
    env, steps = make_game(game, 8, 1), 128
    options: dict[str, Any] = {"n_envs": 8, "device": "cpu"}
    buffers = {
        codec: CompressedRolloutBuffer(steps, env.observation_space, env.action_space, codec=codec, **options)
        for codec in ("delta", "sparse")
    }
    stats: dict[str, list[ReplayStats]] = {codec: [] for codec in buffers}
    starts, nothing = np.ones(8, bool), torch.zeros(8)
    for number, (obs, _, action, reward, done, _) in enumerate(_play(env, rollouts * steps)):
        for codec, buffer in buffers.items():
            if number % steps == 0:
                buffer.reset()
            buffer.add(obs, action, reward, starts, nothing, nothing)
            if buffer.full:
                stats[codec].append(buffer.stats())
        starts = done
    return stats


def _play(env: Any, steps: int) -> Iterator[tuple[Any, ...]]:
    """Random actions, each held for a while, as `ReplayBuffer.add` gets them."""
    rng = np.random.default_rng(0)
    obs = env.reset()
    action = np.zeros(env.num_envs, int)
    for _ in range(steps):
        new_action = rng.integers(env.action_space.n, size=env.num_envs)
        action = np.where(rng.random(env.num_envs) < 0.5, new_action, action)
        new, reward, done, infos = env.step(action)
        after = new.copy()
        for i in np.flatnonzero(done):
            after[i] = infos[i]["terminal_observation"]
        yield obs, after, action, reward, done, infos
        obs = new
    env.close()


def size_row(game: str, algorithm: str, capacity: int, rollouts: int) -> list[Any]:
    """Megabytes and compression of SB3's states, delta and sparse."""
    if algorithm == "qrdqn":
        sizes = fill_replay(game, capacity)
        states = capacity
        ours, paper = (float(sizes[codec].observation_bytes) for codec in ("delta", "sparse"))
    else:
        every = fill_rollouts(game, rollouts)
        states = 1024
        # The first rollout finds no reference frames yet, and counts.
        ours, paper = (float(np.mean([s.observation_bytes for s in every[codec]])) for codec in ("delta", "sparse"))
    stacked = states * STATE_BYTES
    return [stacked / 1e6, ours / 1e6, paper / 1e6, stacked / ours, stacked / paper]


def speed_row(game: str, algorithm: str, slices: int, steps: int, variants: list[str], device: str) -> list[Any]:
    """Steps a processor second of each variant, and how much slower all but the first are in percent.

    The slow-down is in processor time, then, on a GPU, in time passed.
    """
    (processor, passed), models = train_in_turns(game, algorithm, slices, steps, variants, device)
    check_weights(models)
    clocks = (processor, passed) if device == "cuda" else (processor,)
    slower = [quartiles(100 * (times[k] / times[0] - 1)) for times in clocks for k in range(1, len(variants))]
    return [*(steps / float(np.median(times)) for times in processor), *slower]


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("games", nargs="*", default=GAMES, help=", ".join(GAMES))
    options.add_argument("--alg", choices=ALGORITHMS, nargs="*", default=ALGORITHMS)
    options.add_argument("--buffers", choices=VARIANTS, nargs="+", default=list(VARIANTS), help="to train with")
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="to train on (%(default)s)")
    options.add_argument(
        "--capacity", type=int, default=100_000, help="steps of the replay buffer, 0 for speed alone (%(default)s)"
    )
    options.add_argument("--rollouts", type=int, default=20, help="of PPO, to average sizes over (%(default)s)")
    options.add_argument("--slices", type=int, default=5, help="of training, 0 for sizes alone (%(default)s)")
    options.add_argument("--steps", type=int, default=1024, help="of a slice (%(default)s)")
    options.add_argument("--threads", type=int, default=1, help="compute threads of PyTorch (%(default)s)")
    args = options.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.device == "cuda":  # so that weights end identical
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    header = ["game", "alg"]
    if args.capacity:
        header += ["MB SB3", "MB delta", "MB sparse", "x delta", "x sparse"]
    if args.slices:
        others = args.buffers[1:]
        header += [f"FPS {buffer}" for buffer in args.buffers] + [f"slower {buffer} %" for buffer in others]
        if args.device == "cuda":
            header += [f"slower {buffer} %, time passed" for buffer in others]

    def rows() -> Iterator[list[Any]]:
        for algorithm in args.alg:
            ratios = []
            for game in args.games:
                row: list[Any] = [game, algorithm]
                if args.capacity:
                    row += size_row(game, algorithm, args.capacity, args.rollouts)
                    ratios.append(row[5])
                if args.slices:
                    row += speed_row(game, algorithm, args.slices, args.steps, args.buffers, args.device)
                yield row
            if ratios:
                mean, least = float(np.mean(ratios)), float(np.min(ratios))
                paper = [f"{mean:.0f} ({least:.0f})", f"paper: {PAPER[algorithm]}"]
                yield ["mean (lowest)", algorithm, "", "", "", *paper, *[""] * (len(header) - 7)]

    with Report("benchmarks.atari_table", args, argv) as report:
        report.describe(f"{args.threads} compute threads")
        report.table(header, rows())


if __name__ == "__main__":
    main()

"""Training with either buffer ends with identical weights; replay buffers are saved within little memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import QRDQN
from sb3_games import make_game, one_thread
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from diffreplay.sb3 import CompressedReplayBuffer, CompressedRolloutBuffer

pytestmark = pytest.mark.usefixtures(one_thread.__name__)
SMALL = {"features_extractor_kwargs": {"features_dim": 16}}
OFF_POLICY = {"buffer_size": 300, "learning_starts": 100, "batch_size": 8, "target_update_interval": 50}


def trained(algorithm: type[BaseAlgorithm], n_envs: int, steps: int, **options: Any) -> BaseAlgorithm:
    env = make_game("Breakout", n_envs, seed=3)
    model = algorithm("CnnPolicy", env, seed=5, device="cpu", policy_kwargs=dict(SMALL), **options)
    model.learn(steps)
    env.close()
    return model


def assert_same_weights(ours: BaseAlgorithm, theirs: BaseAlgorithm) -> None:
    expected = theirs.policy.state_dict()
    weights = ours.policy.state_dict()
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert th.equal(weights[name], value), name


@pytest.mark.parametrize(("algorithm", "n_envs", "n_steps"), [(DQN, 1, 1), (DQN, 2, 3), (QRDQN, 1, 1)])
def test_off_policy(algorithm: type[BaseAlgorithm], n_envs: int, n_steps: int) -> None:
    theirs = trained(algorithm, n_envs, 450, **OFF_POLICY, n_steps=n_steps)
    options = {"n_steps": n_steps, "gamma": theirs.gamma}
    ours = trained(
        algorithm,
        n_envs,
        450,
        **OFF_POLICY,
        replay_buffer_class=CompressedReplayBuffer,
        replay_buffer_kwargs=options,
    )
    assert theirs.replay_buffer.full
    assert_same_weights(ours, theirs)
    untrained = trained(algorithm, n_envs, 0, **OFF_POLICY, n_steps=n_steps)
    with pytest.raises(AssertionError):
        assert_same_weights(untrained, theirs)


@pytest.mark.parametrize(("algorithm", "options"), [(PPO, {"batch_size": 32, "n_epochs": 2}), (A2C, {})])
def test_on_policy(algorithm: type[BaseAlgorithm], options: dict[str, Any]) -> None:
    options = {"n_steps": 32, **options}
    theirs = trained(algorithm, 4, 512, **options)
    assert_same_weights(trained(algorithm, 4, 512, **options, rollout_buffer_class=CompressedRolloutBuffer), theirs)


def test_save_and_load(tmp_path: Path) -> None:
    ours = trained(DQN, 1, 400, **OFF_POLICY, replay_buffer_class=CompressedReplayBuffer)
    ours.save_replay_buffer(tmp_path / "replay")
    buffer = ours.replay_buffer
    env = make_game("Breakout", 1, seed=3)
    again = DQN("CnnPolicy", env, device="cpu", policy_kwargs=dict(SMALL), **OFF_POLICY)
    again.load_replay_buffer(tmp_path / "replay")
    assert isinstance(again.replay_buffer, CompressedReplayBuffer)
    assert again.replay_buffer.stats() == buffer.stats()
    everything = np.arange(buffer.size()), np.zeros(buffer.size(), int)
    for name in ("observations", "next_observations"):
        assert np.array_equal(getattr(again.replay_buffer, name)[everything], getattr(buffer, name)[everything])
    again.learn(150)
    env.close()


def test_saving_and_loading_needs_little_memory(tmp_path: Path) -> None:
    """Frames of noise, so that the buffer is large; peaks are those of processes that do nothing else."""
    common = f"""
        import pickle
        import numpy as np
        import stable_baselines3.common.buffers
        from gymnasium import spaces
        from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
        from diffreplay.sb3 import CompressedReplayBuffer
        path = {str(tmp_path / "replay.pkl")!r}
        def peak():
            return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
    """
    save = """
        space, rng = spaces.Box(0, 255, (4, 84, 84), np.uint8), np.random.default_rng(0)
        buffer = CompressedReplayBuffer(20_000, space, spaces.Discrete(4), device="cpu")
        obs = rng.integers(0, 256, (1, 4, 84, 84), np.uint8)
        before = peak()
        for _ in range(20_000):
            after = np.concatenate([obs[:, 1:], rng.integers(0, 256, (1, 1, 84, 84), np.uint8)], axis=1)
            buffer.add(obs, after, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
            obs = after
        filled = peak()
        save_to_pkl(path, buffer)
        print(buffer.stats().total_bytes, filled - before, peak() - before)
    """
    load = """
        before = peak()
        buffer = load_from_pkl(path)
        print(buffer.stats().total_bytes, peak() - before)
        assert buffer.sample(4).observations.float().std() > 70
    """
    size, _filled, saving = _run(common + save)
    loaded, loading = _run(common + load)
    assert size == loaded > 140_000_000
    assert saving <= 1.2 * size
    assert loading <= 1.2 * size


def _run(script: str) -> list[int]:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [int(number) for number in output.split()]

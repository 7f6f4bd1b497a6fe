"""`python train.py --config-name=atari`: options, and short trainings with what they leave behind."""

from __future__ import annotations

import csv
import pickle
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from says import says
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runs.errors import OptionError
from sb3_atari.config import GAMES, AtariConfig, parse_config

ROOT = Path(__file__).resolve().parents[2]


def options(**changes: object) -> DictConfig:
    loaded = OmegaConf.load(ROOT / "cfgs" / "atari.yaml")
    assert isinstance(loaded, DictConfig)
    made = OmegaConf.masked_copy(loaded, [option.name for option in fields(AtariConfig)])
    made.merge_with(changes)
    return made


def train(folder: Path, *changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "train.py", "--config-name=atari", f"hydra.run.dir={folder}", "num_threads=1", *changes]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_defaults_are_the_papers() -> None:
    config = parse_config(options())
    assert (config.qrdqn.buffer_size, config.qrdqn.exploration_fraction, config.frame_stack) == (100_000, 0.025, 4)
    ppo = config.ppo
    assert (ppo.n_steps, ppo.n_epochs, ppo.batch_size, ppo.learning_rate) == (128, 4, 256, 2.5e-4)
    assert (ppo.clip_range, ppo.vf_coef, ppo.ent_coef) == (0.1, 0.5, 0.01)
    assert parse_config(options(alg="ppo")).environments == 8
    assert config.environments == 1
    assert len(GAMES) == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "Pung"}, "env=Pung: expected one of Asteroids"),
        ({"alg": "dqn"}, "alg=dqn: expected one of qrdqn, ppo"),
        ({"num_train_steps": 0}, "num_train_steps=0: expected at least 1"),
        ({"num_train_steps": "many"}, "option num_train_steps"),
        ({"half_compress": True, "full_compress": True}, "exclude each other"),
        ({"codec": "zst", "full_compress": True}, "codec=zst: expected one of delta, zstd, sparse, raw"),
        ({"device": "gpu"}, "expected auto, cpu, cuda"),
        ({"ppo": {"n_epochs": 0}}, "ppo.n_epochs=0: expected at least 1"),
        ({"alg": "ppo", "num_envs": 1, "ppo": {"n_steps": 1}}, "at least 2 steps a rollout"),
        ({"codec": "zstd"}, "add full_compress=true"),
        ({"buffer_max_bytes": 10_000_000}, "for compressed buffers"),
        ({"alg": "ppo", "save_replay_buffer": True}, "expected alg=qrdqn"),
    ],
)
def test_mistakes(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_config(options(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["env=Pung"], "env=Pung | one of | Pong"),
        (["full_compress=true", "buffer_max_bytes=1000"], "buffer_max_bytes: | more than"),
        (["num_train_step=9"], "'num_train_step' | did you mean num_train_steps"),
        (["qrdqn.bufer_size=9"], "'qrdqn.bufer_size' | did you mean qrdqn.buffer_size"),
        (["nothing=9"], "'nothing' | cfgs/atari.yaml"),
        (["task=walker_walk"], "'task' | `python train.py`"),
        (["--config-name=atri"], "--config-name=atri | did you mean atari?"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, changes: list[str], message: str) -> None:
    result = train(tmp_path / "run", *changes)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if "A.L.E" not in line and "Stella" not in line]
    assert len(lines) == 1 and lines[0].startswith("train.py: ")
    says(lines[0], message)


@pytest.mark.parametrize("compress", ["full_compress=true", "full_compress=false"])
def test_qrdqn(tmp_path: Path, compress: str) -> None:
    folder = tmp_path / "run"
    small = ["qrdqn.buffer_size=200", "qrdqn.learning_starts=240", "log_every_steps=100", "save_replay_buffer=true"]
    limits = ["num_train_steps=260", "eval_every_steps=250", "num_eval_episodes=1", "save_model=true"]
    result = train(folder, "alg=qrdqn", "env=Breakout", compress, *small, *limits)
    assert result.returncode == 0, result.stderr
    ratios = _progress(folder, "buffer/compression_ratio")
    assert len(ratios) == 4, "every 100 steps, and at the end"
    assert max(ratios) > 5 if compress.endswith("true") else set(ratios) == {1.0}
    assert (folder / "evaluations.npz").exists() and (folder / "model.zip").exists()
    buffer = pickle.loads((folder / "replay_buffer.pkl").read_bytes())
    assert buffer.full and type(buffer).__name__ == ("CompressedReplayBuffer" if max(ratios) > 1 else "ReplayBuffer")
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"buffer/total_megabytes", "buffer/compression_ratio", "eval/mean_reward"} <= set(events.Tags()["scalars"])


def test_ppo(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    small = ["num_train_steps=256", "num_envs=2", "ppo.n_steps=64", "ppo.n_epochs=1", "ppo.batch_size=32"]
    result = train(folder, "alg=ppo", "env=Pong", "half_compress=true", "eval_every_steps=0", "use_tb=false", *small)
    assert result.returncode == 0, result.stderr
    ratios = _progress(folder, "buffer/compression_ratio")
    assert "plain stacks of 4 gray frames of 28224 bytes; 128 transitions, " in result.stdout.splitlines()[-1]
    assert not (folder / "train.log").exists(), "it would be empty"
    assert 3 < max(ratios) < 4.1, "raw frames, stored once, are four times smaller than stacks of four"
    assert not list(folder.glob("events*"))


def _progress(folder: Path, name: str) -> list[float]:
    with open(folder / "progress.csv") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]

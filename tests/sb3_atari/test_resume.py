"""An Atari run that is killed and started again ends as one that was not. Real games, real SIGKILL."""

from __future__ import annotations

import csv
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
QRDQN = [
    "alg=qrdqn",
    "env=Breakout",
    "full_compress=true",
    "num_train_steps=320",
    "eval_every_steps=160",
    "log_every_steps=50",
    "qrdqn.buffer_size=150",
    "qrdqn.learning_starts=40",
    "qrdqn.target_update_interval=50",
    "qrdqn.batch_size=8",
    "qrdqn.exploration_fraction=1",
]
PPO = [
    "alg=ppo",
    "env=Breakout",
    "full_compress=true",
    "num_envs=2",
    "num_train_steps=448",
    "eval_every_steps=0",
    "ppo.n_steps=32",
    "ppo.n_epochs=1",
    "ppo.batch_size=32",
]
COMMON = ["device=cpu", "num_threads=1", "use_tb=false", "num_eval_episodes=1", "save_snapshot=true"]
# Times, and the sizes of a buffer, whose reference frames depend on when it was made.
LEFT_OUT = ("time/time_elapsed", "time/fps", "time/iterations", "buffer/total_megabytes", "buffer/compression_ratio")


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "train.py"), "--config-name=atari", f"hydra.run.dir={folder}"]
    command += [*COMMON, "snapshot_every_steps=60", *options]
    return subprocess.Popen(command, cwd=folder.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(folder: Path, *options: str) -> str:
    run = start(folder, *options)
    output, _ = run.communicate(timeout=800)
    assert run.returncode == 0, output
    return output


def kill_after_a_snapshot(folder: Path, delay: float, *options: str) -> None:
    """Start a run, and kill it some time after it has written a snapshot."""

    def written() -> float:
        return (folder / "snapshot.pt").stat().st_mtime if (folder / "snapshot.pt").exists() else 0.0

    before = written()
    run = start(folder, *options)
    while written() == before and run.poll() is None:
        time.sleep(0.02)
    time.sleep(delay)
    run.send_signal(signal.SIGKILL)
    run.communicate()


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "progress.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in LEFT_OUT and v} for row in csv.DictReader(file)]


def assert_same(a: object, b: object, path: str = "") -> None:
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor) and torch.equal(a, b), path
    elif isinstance(a, dict):
        assert isinstance(b, dict) and a.keys() == b.keys(), path
        for key in a:
            if key not in ("t_start", "episode_times", "checksum"):
                assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list):
        assert isinstance(b, list) and len(a) == len(b), path
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{k}]")
    else:
        assert a == b, f"{path}: {a} != {b}"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("options", [QRDQN, PPO], ids=["qrdqn", "ppo"])
def test_a_run_that_was_killed_twice_ends_like_an_undisturbed_one(tmp_path: Path, options: list[str]) -> None:
    calm, killed, rng = tmp_path / "calm", tmp_path / "killed", random.Random(0)
    finish(calm, *options)
    for _ in range(2):
        kill_after_a_snapshot(killed, rng.uniform(0, 0.2), *options)
    output = finish(killed, *options)
    assert "going on from" in output
    states = [torch.load(folder / "snapshot.pt", weights_only=True) for folder in (calm, killed)]
    assert states[0]["counters"]["num_timesteps"] == (320 if options is QRDQN else 448)
    assert_same(*states)
    ours, theirs = rows(calm), rows(killed)
    assert [row["time/total_timesteps"] for row in ours] == [row["time/total_timesteps"] for row in theirs]
    assert ours[-1] == theirs[-1] and "train/loss" in ours[-1]
    if options is QRDQN:
        assert [path.name for path in (killed / "buffer").iterdir()] == ["320.pkl"]
        evaluations = [np.load(folder / "evaluations.npz") for folder in (calm, killed)]
        assert evaluations[0]["timesteps"].tolist() == [160, 320]
        assert all(np.array_equal(evaluations[0][k], evaluations[1][k]) for k in ("timesteps", "results", "ep_lengths"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    finish(folder, *QRDQN, "num_train_steps=64", "eval_every_steps=0", "qrdqn.learning_starts=50")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and ".hydra" not in str(p)}


def test_a_finished_run_has_nothing_to_train_and_overwrites_nothing(finished: Path) -> None:
    before = contents(finished)
    output = finish(finished, *QRDQN, "num_train_steps=64", "eval_every_steps=0")
    assert "nothing to train" in output and "num_train_steps=64" in output
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["env=Pong"], "made with env=Breakout, this run has env=Pong"),
        (["qrdqn.buffer_size=149"], "qrdqn.buffer_size=150, this run has qrdqn.buffer_size=149"),
        (["codec=sparse"], "codec=delta, this run has codec=sparse"),
        (["full_compress=false"], "full_compress=true, codec=delta, this run has full_compress=false, codec=null"),
        (["buffer_max_bytes=40000000"], "buffer_max_bytes=null, this run has buffer_max_bytes=40000000"),
        (["frame_stack=3"], "frame_stack=4, this run has frame_stack=3"),
        (["seed=9"], "seed=1, this run has seed=9"),
    ],
)
def test_other_options_are_refused_in_one_line(finished: Path, options: list[str], message: str) -> None:
    before = contents(finished)
    run = start(finished, *QRDQN, *options)
    output, _ = run.communicate(timeout=800)
    assert run.returncode == 1
    (line,) = [line for line in output.splitlines() if "A.L.E" not in line and "Stella" not in line]
    assert line.startswith("train.py: ") and message in line and "hydra.run.dir" in line
    assert contents(finished) == before


@pytest.mark.parametrize("damaged", ["snapshot.pt", "buffer/64.pkl"])
def test_damage_is_one_line(finished: Path, damaged: str) -> None:
    path = finished / damaged
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
        run = start(finished, *QRDQN)
        output, _ = run.communicate(timeout=800)
        assert run.returncode == 1 and "not a readable snapshot (its checksum differs)" in output
        assert "Traceback" not in output and str(path) in output
    finally:
        path.write_bytes(whole)


def test_a_run_that_goes_on_forecasts_what_the_one_before_did(tmp_path: Path) -> None:
    options = ["alg=qrdqn", "env=Pong", "full_compress=true", "eval_every_steps=0", "qrdqn.learning_starts=5000"]
    said = [finish(tmp_path / "run", *options, f"num_train_steps={steps}") for steps in (300, 400)]
    units = {"MB": 1, "GB": 1000}
    full = [re.findall(r"about ([\d.]+) (MB|GB) with 100000 transitions", text)[-1] for text in said]
    first, later = (float(number) * units[unit] for number, unit in full)
    assert first / 2 < later < 2 * first, said


def test_a_run_without_snapshots_keeps_what_the_one_before_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ["save_snapshot=false", "alg=ppo", "num_train_steps=64", "num_envs=2", "ppo.n_steps=32", "ppo.n_epochs=1"]
    finish(folder, *options, "eval_every_steps=0", "save_model=true")
    first = {name: (folder / name).read_bytes() for name in ("progress.csv", "model.zip")}
    finish(folder, *options, "eval_every_steps=0", "save_model=true")
    assert (folder / "progress.old.csv").read_bytes() == first["progress.csv"]
    assert (folder / "model.old.zip").read_bytes() == first["model.zip"]
    assert not os.path.exists(folder / "snapshot.pt")

"""A run that is killed and resumed ends as one that was not: agent, replay, logs. Real walker, real SIGKILL."""

from __future__ import annotations

import csv
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training_options import TINY

import diffreplay

ROOT = Path(__file__).resolve().parents[2]
# Episodes of 20 agent steps: an action lasts 50 frames.
OPTIONS = [
    *TINY,
    "action_repeat=50",
    "num_train_frames=8000",
    "num_seed_frames=2000",
    "eval_every_frames=4000",
    "full_compress=true",
    "save_snapshot=true",
    "snapshot_every_frames=1000",
]
TIMES = ("total_time", "fps", "data_wait", "samples_per_second")


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "train.py"), *OPTIONS, f"hydra.run.dir={folder}"]
    return subprocess.Popen(command, cwd=folder.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(folder: Path) -> None:
    run = start(folder)
    output, _ = run.communicate(timeout=800)
    assert run.returncode == 0, output.decode()


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def assert_same(a: object, b: object, path: str = "state") -> None:
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor) and torch.equal(a, b), path
    elif isinstance(a, dict):
        assert isinstance(b, dict) and a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert isinstance(b, list | tuple) and len(a) == len(b), path
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{k}]")
    else:
        assert a == b or path.endswith(("total_time", "commit")), f"{path}: {a} != {b}"


@pytest.mark.timeout(1800)
def test_a_run_that_was_killed_five_times_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    begin = time.monotonic()
    finish(calm)
    took = time.monotonic() - begin
    rng = random.Random(0)
    for _ in range(5):
        run = start(killed)
        time.sleep(rng.uniform(0.35, 0.9) * took)
        run.send_signal(signal.SIGKILL)
        run.communicate()
    finish(killed)
    states = [torch.load(folder / "snapshot.pt", weights_only=True) for folder in (calm, killed)]
    assert states[0]["step"] == 8000 // 50
    assert_same(*states)
    for name in ("train.csv", "eval.csv"):
        assert table(calm / name) == table(killed / name)
    replays = [diffreplay.ReplayBuffer.load(folder / "buffer") for folder in (calm, killed)]
    assert not replays[1].verify()
    for _ in range(5):
        batches = [replay.sample(32) for replay in replays]
        assert all(torch.equal(x, y) for x, y in zip(*batches, strict=True))


def test_a_replay_of_other_options_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    short = ["num_train_frames=2000", "num_seed_frames=1000", "eval_every_frames=0"]
    command = [sys.executable, str(ROOT / "train.py"), *OPTIONS, *short, f"hydra.run.dir={folder}"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=800)
    again = subprocess.run([*command, "codec=sparse"], cwd=tmp_path, capture_output=True, text=True, timeout=800)
    assert again.returncode == 1
    assert "codec=delta" in again.stderr and "Traceback" not in again.stderr

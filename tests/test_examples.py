"""The examples: run as they stand, with a tiny budget; they are short, and the plain loop's update does learn."""

from __future__ import annotations

import copy
import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import diffreplay

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *arguments: str, by: tuple[str, ...] = ()) -> str:
    """What an example prints when it is run from another folder, by Python itself or by one of its modules."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # other tests have the other cores
    command = [sys.executable, *by, EXAMPLES / name, *arguments]
    result = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=800)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def dqn() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dqn_pong", EXAMPLES / "dqn_pong.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_plain_loop() -> None:
    printed = run("dqn_pong.py", "--steps", "300", "--device", "cpu")
    line = re.search(
        r"^step 300: score -?\d+, loss ([0-9.]+), observations [0-9.]+ [kM]B, (\d+)\.\dx smaller", printed, re.MULTILINE
    )
    assert line, printed
    assert 0 < float(line[1]) < 1
    assert int(line[2]) > 8, "stacks of four frames of which most are alike"


def test_prioritised_loop() -> None:
    printed = run("rainbow_pong.py", "--steps", "300", "--device", "cpu")
    line = re.search(r"^step 300: score -?\d+, error ([0-9.]+), replay [0-9.]+ MB", printed, re.MULTILINE)
    assert line, printed
    assert 0 < float(line[1]) < 1


def test_recurrent_loop() -> None:
    printed = run("recurrent_pong.py", "--steps", "300", "--device", "cpu")
    line = re.search(r"^step 300: score -?\d+, loss ([0-9.]+), replay [0-9.]+ MB", printed, re.MULTILINE)
    assert line, printed
    assert 0 < float(line[1]) < 1


@pytest.mark.parametrize(
    "name", ["dqn_pong.py", "rainbow_pong.py", "recurrent_pong.py", "robot_cameras.py", "two_ranks.py"]
)
def test_plain_loop_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 100


def test_robot_with_two_cameras() -> None:
    printed = run("robot_cameras.py", "--steps", "160", "--device", "cpu")
    line = re.search(r"^step 160: reward \d+, loss ([0-9.]+), ([0-9.]+)x smaller", printed, re.MULTILINE)
    assert line, printed
    assert float(line[2]) > 1


def test_two_ranks() -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    printed = run("two_ranks.py", "--steps", "300", by=torchrun)
    lines = re.findall(r"rank (\d), step 300: loss ([0-9.]+), weights (\S+), (\d+) transitions", printed)
    assert sorted(line[0] for line in lines) == ["0", "1"], printed
    assert lines[0][1] != lines[1][1], "each has a batch of its own"
    assert lines[0][2] == lines[1][2], "and the same weights"


def test_update_learns_what_a_batch_says(dqn: ModuleType) -> None:
    torch.manual_seed(0)
    env = dqn.make_env("Pong")
    replay = diffreplay.ReplayBuffer(200, (4, 84, 84), (), action_dtype="int64", frame_stack=4, nstep=3)
    obs, _ = env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(100):
        action = env.action_space.sample()
        next_obs, reward, terminated, truncated, _ = env.step(action)
        replay.add_transition(obs, action, reward, next_obs, terminated, truncated)
        obs = next_obs
    batch = replay.sample(32)
    assert set(batch.reward.flatten().tolist()) > {0.0}, "points are lost meanwhile"
    network = dqn.make_network(6)
    target = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-4)
    losses = [dqn.update(network, target, optimizer, batch) for _ in range(100)]
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0] / 10


def test_stable_baselines3_script() -> None:
    printed = run("sb3_dqn_pong.py", "--steps", "300", "--warmup", "200")
    sizes = re.search(r"^replay ([0-9.]+) MB, ([0-9.]+) MB as plain stacks", printed, re.MULTILINE)
    assert sizes, printed
    assert float(sizes[2]) == pytest.approx(300 * 4 * 84 * 84 / 1e6, abs=0.1)
    assert float(sizes[1]) < float(sizes[2])


def test_stable_baselines3_script_changes_two_lines() -> None:
    lines = (EXAMPLES / "sb3_dqn_pong.py").read_text().splitlines()
    assert sum("# changed" in line for line in lines) == 2


@pytest.mark.parametrize(
    ("program", "options", "last"),
    [
        (
            "from_drqv2.py",
            ["--seed-steps=200", "--batch-size=8"],
            r"ReplayBuffer\(210 of 1000000 transitions, delta: .*\)",
        ),
        ("from_sb3.py", [], r"\d+\.\dx smaller than stacks"),
        ("from_cleanrl.py", ["--learning-starts=200"], r"loss [0-9.]+, replay [0-9.]+ MB"),
        ("from_torchrl.py", ["--warmup=200"], r"loss [0-9.]+, \d+x smaller than stacks"),
    ],
)
def test_programs_that_moved_here(program: str, options: list[str], last: str) -> None:
    printed = run(f"moving/{program}", "--steps=210", *options)
    assert re.fullmatch(last, printed.splitlines()[-1]), printed


def test_missing_packages_are_named() -> None:
    code = "import sys; sys.modules['stable_baselines3'] = None; import diffreplay.sb3"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=800)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith("install it with pip install 'diffreplay[atari]'")

"""Whole runs that see through two cameras and observe the state: trained, killed, gone on with, read back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from training_options import TINY, assert_identical, tiny_config

import diffreplay
from drqv2.workspace import Workspace

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
BOTH = ("full_compress=true", "cameras=[0,1]", "proprioception=true")
# Episodes of 20 agent steps: an action lasts 50 frames.
SHORT = ("action_repeat=50", "num_seed_frames=500", "num_train_frames=2000", "save_snapshot=true")


def start(folder, *options):
    command = [sys.executable, str(TRAIN), *TINY, *SHORT, *BOTH, *options, f"hydra.run.dir={folder}"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command, cwd=folder.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(folder, *options):
    run = start(folder, *options)
    output, _ = run.communicate(timeout=800)
    assert run.returncode == 0, output
    return output


def test_a_run_that_was_killed_and_gone_on_with_ends_like_an_undisturbed_one(tmp_path):
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    output = finish(calm, "eval_every_frames=2000", "save_video=true")
    assert "compression ratio: " in output.splitlines()[-1]
    assert imageio.imread(calm / "eval_video" / "2000.mp4").shape == (21, 256, 256, 3)

    run = start(killed, "snapshot_every_frames=1000", "num_train_frames=1000000")
    deadline = time.monotonic() + 300
    while not (killed / "snapshot.pt").exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert torch.load(killed / "snapshot.pt", weights_only=True)["step"] == 20
    assert "going on from" in finish(killed)

    first, second = (torch.load(folder / "snapshot.pt", weights_only=True) for folder in (calm, killed))
    assert first["step"] == second["step"] == 40
    assert_identical(first["agent"], second["agent"])
    replays = [diffreplay.ReplayBuffer.load(folder / "buffer") for folder in (calm, killed)]
    assert not replays[1].verify()
    for one, other in zip(*(replay.sample(16) for replay in replays), strict=True):
        assert_identical(one, other)


GRAY, RGB, STATES = (3, 84, 84), (9, 84, 84), (72,)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (BOTH, {"camera0": GRAY, "camera1": GRAY, "state": STATES}),
        ((*BOTH, "replay_buffer_num_workers=1"), {"camera0": GRAY, "camera1": GRAY, "state": STATES}),
        (("half_compress=true", "cameras=[1,0]"), {"camera1": GRAY, "camera0": GRAY}),
        (("full_compress=true", "grayscale=false", "proprioception=true"), {"camera0": RGB, "state": STATES}),
    ],
)
def test_what_is_learned_from_is_what_was_observed(tmp_path, options, parts):
    config = tiny_config(*SHORT, *options, "nstep=3")
    with Workspace(config, tmp_path) as workspace:
        assert {name: spec.shape for name, spec in workspace.train_env.observation_spec().items()} == parts
        time_steps, add = [], workspace.replay.add

        def record(time_step):
            time_steps.append(time_step)
            add(time_step)

        workspace.replay.add = record
        batches, update = [], workspace.agent.update
        workspace.agent.update = lambda batch, step: (batches.append(batch), update(batch, step))[1]
        before = {name: weight.clone() for name, weight in workspace.agent.encoder.state_dict().items()}
        workspace.train()
        assert len(batches) == 15
        for name, weight in workspace.agent.encoder.state_dict().items():
            assert not torch.equal(weight, before[name]), f"{name} has learned nothing"

    known = {
        tuple(part.tobytes() for part in time_step.observation.values()): (k, time_step)
        for k, time_step in enumerate(time_steps)
    }
    assert len(known) == len(time_steps) == 42
    for batch in batches:
        obs, action, _, _, next_obs = batch
        assert list(obs) == list(next_obs) and set(obs) == set(parts)
        for row in range(len(action)):
            keys = [tuple(part[name][row].numpy().tobytes() for name in parts) for part in (obs, next_obs)]
            (start, _), (end, _) = (known[key] for key in keys)
            assert end - start == 3
            np.testing.assert_array_equal(action[row], time_steps[start + 1].action)


def test_a_camera_that_the_model_has_not_is_one_line(tmp_path):
    run = start(tmp_path / "run", "cameras=[0,2]")
    output, _ = run.communicate(timeout=800)
    assert run.returncode == 1
    assert output == "train.py: cameras=[0,2]: walker_walk has 0 (side), 1 (back), got 2\n"
    assert not (tmp_path / "run" / "train.csv").exists()

"""Actors on a real Ray: what they collect is learnt from bit for bit, also when they or the shard are killed."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import dm_env
import numpy as np
import psutil
import pytest
import torch
from numbered_actor import check_batch, frame
from training_options import TINY, tiny_config

from drqv2.actors import Actors
from drqv2.policy import make_policy
from drqv2.ray_cluster import connect
from drqv2.shared_replay import start
from drqv2.wrappers import ExtendedTimeStep
from runs.errors import OptionError

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # so that Ray keeps to 127.0.0.1; it is read at the import
pytest.importorskip("ray")
TRAIN = Path(__file__).resolve().parents[2] / "train.py"
SHAPE = (2, 36, 36)


class NumberedEnvironment:
    """Episodes of 30 steps, whose frames, actions and rewards carry the environment's number and their own."""

    def __init__(self, seed: int) -> None:
        self._writer, self._number = seed % 256, seed % 1000

    def reset(self) -> ExtendedTimeStep:
        self._stack, self._length = np.repeat(self._frame(), 2, axis=0), 0
        return self._time_step(dm_env.StepType.FIRST)

    def step(self, action: np.ndarray) -> ExtendedTimeStep:
        assert action.shape == (2,) and action.dtype == np.float32
        self._stack, self._length = np.concatenate([self._stack[1:], self._frame()]), self._length + 1
        return self._time_step(dm_env.StepType.LAST if self._length == 30 else dm_env.StepType.MID)

    def _frame(self) -> np.ndarray:
        self._number += 1
        return frame(self._writer, self._number)

    def _time_step(self, kind: dm_env.StepType) -> ExtendedTimeStep:
        action = np.array([self._writer, self._number], np.float32)
        return ExtendedTimeStep(kind, float(self._number), 1.0, self._stack, action)


def actors_of(process: int) -> list[psutil.Process]:
    """The processes of the actors that a process started."""
    found = []
    for child in psutil.Process(process).children(recursive=True):
        try:
            found += [child] if child.cmdline()[0].startswith("ray::EnvironmentActor") else []
        except (psutil.Error, IndexError):  # it has ended meanwhile
            continue
    return found


def test_every_batch_is_of_frames_that_were_seen_while_actors_and_the_shard_are_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    config = tiny_config("full_compress=true", "actors=2", "frame_stack=2", "nstep=1", "save_snapshot=true")
    replay = start(config, SHAPE, (2,), tmp_path, False, resumed=False)
    policy = partial(make_policy, SHAPE, (2,), config.agent)
    actors = Actors(2, NumberedEnvironment, policy, replay.service, 1)
    batches = replay.batches(torch.device("cpu"))
    kills = {200: lambda: actors_of(os.getpid())[0].kill(), 400: lambda: os.kill(replay.service.stats()[0]["pid"], 9)}
    step, episodes, messages, seen = 0, [], [], set()
    try:
        while step < 700:
            collected = actors.next(policy(0), step, 700)
            step += collected.steps
            episodes += collected.episodes
            messages += collected.messages
            if step >= 300 and not (tmp_path / "shard-0").exists():
                replay.save()
            for due in [due for due in kills if step >= due]:
                kills.pop(due)()
            for _ in range(5 if replay.ready else 0):
                seen |= check_batch(next(batches), may_repeat=True)
        assert step == 700 and not kills
        assert {episode.steps for episode in episodes} == {30} and len(episodes) >= 15
        assert sum("died and is started again" in message for message in messages) == 1
        assert any("its shard began anew and lost" in message for message in messages), messages
        assert len({writer for writer, _ in seen}) == 3, "two actors, and one in the place of the one that died"
        stats = replay.stats()
        assert stats.transitions == len(replay) > 300
    finally:
        actors.close()
        replay.close()


def run(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(TRAIN), f"hydra.run.dir={folder / 'run'}", *TINY, "full_compress=true", *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_run_with_actors_outlives_one_of_them_and_is_gone_on_with(tmp_path):
    options = ["actors=2", "save_snapshot=true", "eval_every_frames=1300", "evaluate_at_start=false"]
    first = run(tmp_path, *options, "num_train_frames=2600")
    while not (playing := actors_of(first.pid)) and first.poll() is None:
        time.sleep(0.2)
    told, errors = "", ""
    for line in first.stdout:
        told += line
        if line.startswith("| train |"):
            playing[0].kill()
            break
    rest, errors = first.communicate(timeout=300)
    assert first.returncode == 0, errors
    assert "died and is started again" in told + rest and "Traceback" not in errors
    second = run(tmp_path, *options, "num_train_frames=3000")
    told, errors = second.communicate(timeout=300)
    assert second.returncode == 0 and "at frame 2600" in told, told + errors
    evaluations, episodes = (
        list(csv.DictReader((tmp_path / "run" / name).read_text().splitlines())) for name in ("eval.csv", "train.csv")
    )
    assert [int(row["frame"]) for row in evaluations] == [1300, 2600]
    assert int(episodes[-1]["frame"]) <= 3000 and {float(row["episode_length"]) for row in episodes} == {1000}
    alone = run(tmp_path, "save_snapshot=true", "num_train_frames=3000")
    _, errors = alone.communicate(timeout=300)
    assert alone.returncode == 1 and "that actors share" in errors and errors.count("\n") == 1


def test_ctrl_c_ends_a_run_with_actors_in_one_line(tmp_path):
    started = run(tmp_path, "actors=1", "num_train_frames=1000000", "num_seed_frames=1000000")
    assert str(tmp_path / "run") in started.stdout.readline()
    while not (playing := actors_of(started.pid)) and started.poll() is None:
        time.sleep(0.2)
    started.send_signal(signal.SIGINT)
    _, told = started.communicate(timeout=200)
    assert started.returncode == 130 and "Traceback" not in told, told
    assert told.splitlines()[-1].startswith("train.py: interrupted; ")
    psutil.wait_procs(playing, timeout=30)
    assert not any(actor.is_running() for actor in playing)


WITHOUT_RAY = (
    "import runpy, sys; sys.modules['ray'] = None; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
)


def test_without_ray_a_run_says_what_to_install(tmp_path):
    command = [sys.executable, "-c", WITHOUT_RAY, str(TRAIN), f"hydra.run.dir={tmp_path / 'run'}", *TINY]
    settings = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 200}
    result = subprocess.run([*command, "full_compress=true", "actors=2"], **settings)
    expected = "train.py: actors=2: expected the package ray, which is not installed: pip install 'diffreplay[ray]'\n"
    assert result.returncode == 1 and result.stderr == expected
    result = subprocess.run([*command, "full_compress=true", "num_train_frames=20"], **settings)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "ray://127.0.0.1:10001", "127.0.0.1:99999999"])
def test_an_address_without_a_cluster_is_one_sentence(address):
    with pytest.raises(OptionError, match=f"ray_address={address}: expected the address of a Ray cluster that runs"):
        connect(1, address)

"""Actors on a real Ray: what they collect is learnt from bit for bit, also when they or the shard are killed."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import dm_env
import numpy as np
import psutil
import pytest
import torch
from numbered_actor import check_batch, frame
from training_options import TINY, tiny_config

from diffreplay import ReplayBuffer
from diffreplay.distributed import ReplayWriter, Shard
from diffreplay.distributed.shard import Answer
from diffreplay.errors import CorruptDataError
from drqv2.actors import Actors, EnvironmentActor
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
    batches = None
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
            ready, news = replay.ready, replay.news()
            messages += news
            batches = None if news else batches
            for _ in range(5 if ready else 0):
                batches = batches or replay.batches(torch.device("cpu"))
                seen |= check_batch(next(batches), may_repeat=True)
        assert step == 700 and not kills
        assert {episode.steps for episode in episodes} == {30} and len(episodes) >= 15
        assert sum("died and is started again" in message for message in messages) == 1
        assert any("its shard began anew and lost" in message for message in messages), messages
        assert any("the replay buffer's process died and began anew with" in message for message in messages), messages
        assert len({writer for writer, _ in seen}) == 3, "two actors, and one in the place of the one that died"
        stats = replay.stats()
        assert stats.transitions == len(replay) > 300
    finally:
        actors.close()
        replay.close()


def run(folder: Path, *options: str, **settings: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(TRAIN), f"hydra.run.dir={folder / 'run'}", *TINY, "full_compress=true", *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)


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
    options = ["actors=1", "num_train_frames=1000000", "num_seed_frames=500", "replay_buffer_num_workers=1"]
    started = run(tmp_path, *options, start_new_session=True)
    for line in started.stdout:
        if line.startswith("| train |"):
            break
    playing = actors_of(started.pid)
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does: the loader's worker gets it, too
    _, told = started.communicate(timeout=200)
    assert started.returncode == 130 and "Traceback" not in told, told
    assert told.splitlines()[-1].startswith("train.py: interrupted; ")
    assert playing
    psutil.wait_procs(playing, timeout=30)
    assert not any(actor.is_running() for actor in playing)


WITHOUT_RAY = """
import os, runpy, sys
sys.modules["ray"] = None
sys.argv.pop(0)
sys.path.insert(0, os.path.dirname(sys.argv[0]))  # as for a program that Python is given
runpy.run_path(sys.argv[0], run_name="__main__")
"""


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
    with pytest.raises(OptionError, match=f"ray_address={address}: expected the address of a Ray cluster that"):
        connect(1, address)


class Here:
    """A shard in this process, for one writer, as a service gives it."""

    def __init__(self) -> None:
        self.shard = Shard(1000, SHAPE, (2,), frame_stack=2)

    def writer(self, name: str) -> ReplayWriter:
        return ReplayWriter(name, ReplayBuffer(1000, SHAPE, (2,), frame_stack=2), lambda data: Taken(self.shard, data))


class Taken:
    def __init__(self, shard: Shard, data: bytes) -> None:
        self._answer = shard.take(data)

    def is_done(self) -> bool:
        return True

    def answer(self) -> Answer:
        return self._answer


class Watched(NumberedEnvironment):
    """Keeps what was observed, and the action that was taken for it."""

    taken: ClassVar[list[tuple[np.ndarray, np.ndarray]]] = []

    def step(self, action: np.ndarray) -> ExtendedTimeStep:
        self.taken.append((self._stack, action))
        return super().step(action)


def test_an_actor_acts_with_the_weights_of_each_round():
    config = replace(tiny_config("full_compress=true").agent, num_expl_steps=4, stddev_schedule="0.0")
    policy, service = partial(make_policy, SHAPE, (2,), config), Here()
    actor = EnvironmentActor(3, Watched, policy, 1)
    for begin, learner in ((0, policy(7)), (10, policy(8))):
        Watched.taken.clear()
        collected = actor.collect(service, begin, 10, learner.weights())
        expected = [learner.act(stack, 100, evaluate=True) for stack, _ in Watched.taken]
        same = [np.allclose(action, its, atol=1e-6) for (_, action), its in zip(Watched.taken, expected, strict=True)]
        assert same == [step >= 4 for step in range(begin, begin + 10)], "uniform at first, then as the learner would"
        assert collected.steps == 10 and service.shard.stats()["transitions"] == begin + 10


def test_a_damaged_snapshot_of_the_shard_is_refused(tmp_path):
    replay = ReplayBuffer(1000, SHAPE, (2,), frame_stack=2, nstep=1)
    environment = NumberedEnvironment(1)
    replay.add(environment.reset())
    for _ in range(20):
        replay.add(environment.step(np.zeros(2, np.float32)))
    replay.save(tmp_path / "shard-0")
    rows = next((tmp_path / "shard-0").glob("rows-*"))
    rows.write_bytes(rows.read_bytes()[:-1] + b"x")
    config = tiny_config("full_compress=true", "actors=1", "frame_stack=2", "nstep=1")
    with pytest.raises(CorruptDataError, match=rows.name):
        start(config, SHAPE, (2,), tmp_path, False, resumed=True)

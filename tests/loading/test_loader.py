"""The loader: order, waiting, resuming, and workers that die. Real processes, real signals."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import kill, left_of

import diffreplay
from diffreplay.loading.loader import ReplayLoader
from diffreplay.testing import TimeStep

SIDE = 24
ROOT = Path(__file__).resolve().parents[2]


def step(number: int, age: int, length: int) -> TimeStep:
    """A step whose frame, action and reward all tell its number."""
    observation = np.concatenate([frame(number - min(k, age)) for k in (2, 1, 0)])
    action = np.array([number, -number], np.float32)
    return TimeStep(observation, action, float(number), 1.0, age == 0, age == length - 1)


def frame(number: int) -> np.ndarray:
    """(1, SIDE, SIDE) whose first 8 bytes are `number`, on a background that compresses."""
    pixels = np.full((1, SIDE, SIDE), number % 7, np.uint8)
    pixels[0, number % SIDE] = 200
    pixels.reshape(-1)[:8] = np.frombuffer(np.int64(number).tobytes(), np.uint8)
    return pixels


def number_of(image: torch.Tensor) -> int:
    return int(np.frombuffer(image.numpy().tobytes()[:8], np.int64)[0])


def check(batch: diffreplay.ReplayBatch) -> None:
    """Every value of the batch belongs to the step that its frame names."""
    obs, action, reward, _, next_obs = batch
    for b in range(len(obs)):
        t = number_of(obs[b, 2])
        assert number_of(next_obs[b, 2]) == t + 1
        assert torch.equal(next_obs[b, :2], obs[b, 1:])
        np.testing.assert_array_equal(obs[b, 2:].numpy(), frame(t))
        assert reward[b, 0] == t + 1 and action[b, 0] == t + 1


def fill(replay: diffreplay.ReplayBuffer, steps: int, start: int = 0, length: int = 50) -> None:
    for number in range(start, start + steps):
        replay.add(step(number, number % length, length))


@pytest.fixture
def replay() -> diffreplay.ReplayBuffer:
    buffer = diffreplay.ReplayBuffer(2000, (3, SIDE, SIDE), (2,))
    fill(buffer, 1000)
    return buffer


def loader(replay: diffreplay.ReplayBuffer, **options: object) -> ReplayLoader:
    return diffreplay.make_replay_loader(replay, batch_size=32, seed=5, **options)  # type: ignore[arg-type]


def windows(batches: Iterator[diffreplay.ReplayBatch], count: int) -> list[torch.Tensor]:
    return [batch.window.clone() for batch in islice(batches, count)]


def pids(batches: Iterator[diffreplay.ReplayBatch]) -> list[int]:
    return [worker.process.pid for worker in batches._prefetcher._workers._workers]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": 1, "multiprocessing_context": "fork"},
        {"num_workers": 4, "multiprocessing_context": "fork", "prefetch_factor": 3},
        {"num_workers": 2, "multiprocessing_context": "spawn"},
        {"num_workers": 2, "multiprocessing_context": "forkserver"},
        {"num_workers": 2, "threads": True},
    ],
    ids=str,
)
def test_batch_k_does_not_depend_on_the_workers(replay: diffreplay.ReplayBuffer, options: dict[str, object]) -> None:
    expected = windows(iter(loader(replay, num_workers=0)), 30)
    batches = iter(loader(replay, **options))
    for batch in islice(batches, 5):
        check(batch)
    found = windows(iter(loader(replay, **options)), 30)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_plain_dataloader_over_the_dataset_gives_the_same_batches(replay: diffreplay.ReplayBuffer) -> None:
    dataset = diffreplay.ReplayDataset(replay, batch_size=32, seed=5)
    plain = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2)
    expected = windows(iter(loader(replay, num_workers=0)), 10)
    assert all(torch.equal(a, b) for a, b in zip(expected, windows(iter(plain), 10), strict=True))


def test_iterating_again_goes_on_and_a_saved_state_resumes(replay: diffreplay.ReplayBuffer) -> None:
    expected = windows(iter(loader(replay, num_workers=0)), 12)
    first = loader(replay, num_workers=2, threads=True)
    found = windows(iter(first), 4) + windows(iter(first), 4)
    resumed = loader(replay, num_workers=1, threads=True)
    resumed.load_state_dict(first.state_dict())
    found += windows(iter(resumed), 4)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_persistent_workers_serve_the_next_iterator(replay: diffreplay.ReplayBuffer) -> None:
    persistent = loader(replay, num_workers=2, multiprocessing_context="fork", persistent_workers=True)
    batches = iter(persistent)
    next(batches)
    before = pids(batches)
    del batches
    batches = iter(persistent)
    next(batches)
    assert pids(batches) == before


def test_no_more_workers_are_started_than_there_are_cores(replay: diffreplay.ReplayBuffer) -> None:
    cores = len(os.sched_getaffinity(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches = iter(loader(replay, num_workers=cores + 1, multiprocessing_context="fork"))
    for batch in islice(batches, 10):
        check(batch)
    assert len(pids(batches)) == cores


@pytest.mark.parametrize("options", [{"num_workers": 0}, {"num_workers": 2, "threads": True}, {"num_workers": 1}])
def test_an_empty_buffer_makes_the_loader_wait(options: dict[str, object]) -> None:
    replay = diffreplay.ReplayBuffer(100, (3, SIDE, SIDE), (2,))
    writer = threading.Timer(0.5, fill, (replay, 60))
    batches = iter(loader(replay, **options))
    writer.start()
    check(next(batches))
    writer.join()


def test_batches_that_are_kept_do_not_change(replay: diffreplay.ReplayBuffer) -> None:
    batches = iter(loader(replay, num_workers=2, multiprocessing_context="fork"))
    kept = [next(batches) for _ in range(25)]
    copies = [batch.window.clone() for batch in kept]
    for _ in range(25):
        next(batches)
    assert all(torch.equal(batch.window, copy) for batch, copy in zip(kept, copies, strict=True))
    for batch in kept:
        check(batch)


def test_slots_are_reused_once_their_batch_is_gone(replay: diffreplay.ReplayBuffer) -> None:
    batches = iter(loader(replay, num_workers=1, threads=True, prefetch_factor=2))
    addresses = {next(batches).window.data_ptr() for _ in range(30)}
    assert len(addresses) <= 4


def test_the_death_of_a_worker_costs_a_warning_and_no_batch(replay: diffreplay.ReplayBuffer) -> None:
    expected = windows(iter(loader(replay, num_workers=0)), 40)
    batches = iter(loader(replay, num_workers=2, multiprocessing_context="fork"))
    found = windows(batches, 3)
    kill(pids(batches)[0])
    start = time.monotonic()
    with pytest.warns(RuntimeWarning, match="died"):
        found += windows(batches, 37)
    assert time.monotonic() - start < 30, "nobody waits for a worker that is gone"
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_every_batch_is_right_while_workers_are_killed_and_the_writer_laps() -> None:
    replay = diffreplay.ReplayBuffer(300, (3, SIDE, SIDE), (2,))
    fill(replay, 300)
    rng = random.Random(0)
    batches = iter(loader(replay, num_workers=3, multiprocessing_context="fork"))
    written, kills = 300, 0
    with pytest.warns(RuntimeWarning, match="died"):
        while written < 15_000 or kills < 12:
            fill(replay, 20, start=written)
            written += 20
            check(next(batches))
            running = pids(batches)
            if running and rng.random() < 0.03:
                kill(rng.choice(running))
                kills += 1


def test_a_worker_that_cannot_start_says_what_to_do(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        textwrap.dedent(
            """
            import diffreplay
            replay = diffreplay.ReplayBuffer(100, (3, 24, 24), (2,))
            next(iter(diffreplay.make_replay_loader(replay, num_workers=1, multiprocessing_context="spawn")))
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=800, cwd=ROOT)
    assert done.returncode and 'under if __name__ == "__main__"' in done.stderr.splitlines()[-1]


TRAINER = """
import os, sys, time
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from tests.loading.test_loader import fill, loader, pids
import diffreplay
if __name__ == "__main__":
    replay = diffreplay.ReplayBuffer(2000, (3, 24, 24), (2,))
    fill(replay, 500)
    batches = iter(loader(replay, num_workers=2, multiprocessing_context={context!r}))
    next(batches)
    print(os.getpid(), *pids(batches), flush=True)
    {body}
"""


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("end", ["SIGINT", "SIGKILL", "exception", "empty"])
def test_no_process_outlives_the_trainer(tmp_path: Path, context: str, end: str) -> None:
    bodies = {
        "exception": "next(batches); raise RuntimeError('the update failed')",
        "empty": "waiting = iter(loader(diffreplay.ReplayBuffer(9, (3, 24, 24), (2,)), num_workers=1)); next(waiting)",
    }
    body = bodies.get(end, "for _ in batches: pass")
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER.format(root=str(ROOT), context=context, body=body))
    trainer = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert trainer.stdout is not None
    everyone = [int(pid) for pid in trainer.stdout.readline().split()]
    assert len(everyone) == 3
    if end != "exception":
        time.sleep(0.2)
        trainer.send_signal(signal.SIGKILL if end == "SIGKILL" else signal.SIGINT)
    trainer.communicate(timeout=800)
    assert not left_of(everyone)
    assert not [name for name in os.listdir("/dev/shm") if set(map(str, everyone)) & set(re.findall(r"\d+", name))]


def test_bad_arguments_are_refused(replay: diffreplay.ReplayBuffer) -> None:
    with pytest.raises(diffreplay.errors.InputError, match="num_workers"):
        diffreplay.make_replay_loader(replay, num_workers=-1)
    with pytest.raises(diffreplay.errors.InputError, match="batch_size"):
        diffreplay.make_replay_loader(replay, batch_size=0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_workers": "2"},
        {"num_workers": 1.5},
        {"prefetch_factor": 0},
        {"seed": -1},
        {"seed": 1.5},
        {"multiprocessing_context": "nope"},
        {"replay": "x"},
    ],
    ids=str,
)
def test_each_bad_argument_is_named(replay: diffreplay.ReplayBuffer, arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(diffreplay.errors.InputError, match=f"{name}: expected"):
        diffreplay.make_replay_loader(**{"replay": replay, **arguments})

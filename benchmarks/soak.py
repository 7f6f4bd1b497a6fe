"""Soak: threads add, loader workers read, all is saved and loaded beside that, workers are killed, alarms interrupt.

One process, for minutes. Its main thread adds to one stream and takes batches, and alarms raise out of both at random
moments; what an alarm cut short is tried again. A thread for each further stream adds, and one saves, loads and
verifies. Every pixel, action, reward and discount of every batch is compared with what was written. Prints what was
held, and ends with status 1 if anything was wrong. With `--saving`, instead: what it costs to save a buffer of 1 GB
again after 1 % new data, and to load it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import diffreplay
from benchmarks.processes import family_pss
from benchmarks.runner import BATCH, Ratio, Report, Share, parser
from diffreplay.testing import TimeStep

SIDE, STREAMS, STACK, NSTEP, GAMMA = 84, 3, 3, 3, 0.99
CAPACITY, WORKERS = 20_000, 4
PICTURES = 997  # a frame's picture is its number modulo this one
STEPS_A_BATCH = 8
SAVE_SECONDS, LOAD_EVERY, KILL_SECONDS = 4.0, 3, 2.0
PAUSE_SECONDS = 2e-3  # of the threads that add, between two steps
HANG_SECONDS = 60
ENOUGH_ERRORS = 20  # to stop at
MB = 1e6


class Alarm(Exception):
    """Raised by the signal, wherever the main thread is."""


class World:
    """Episodes of random length in several streams, whose every value follows from a step's number and age.

    Step n belongs to stream n % STREAMS. Each stream may be added to by a thread of its own.

    Args:
        seed: of the pictures and of the episodes' lengths.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        background = rng.integers(0, 200, (SIDE, SIDE), np.uint8)
        self._pictures = np.repeat(background[None], PICTURES, axis=0)
        for k, picture in enumerate(self._pictures):
            y, x = rng.integers(0, SIDE - 16, 2)
            picture[y : y + 16, x : x + 16] = 200 + k % 50
            if k % 53 == 0:  # now and then one that does not compress
                picture[:] = rng.integers(0, 256, (SIDE, SIDE), np.uint8)
        self._rngs = rng.spawn(STREAMS)
        self._ages, self._lengths = [0] * STREAMS, [1] * STREAMS
        self._ends = [bytearray() for _ in range(STREAMS)]  # of each stream's steps, whether it ends its episode

    @property
    def steps(self) -> int:
        """Added so far."""
        return sum(map(len, self._ends))

    def frames(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Frames (N, SIDE, SIDE) of steps: a picture whose first 8 bytes are the number."""
        frames = self._pictures[numbers % PICTURES]
        frames.reshape(len(numbers), -1)[:, :8] = np.ascontiguousarray(numbers, "<i8").view(np.uint8).reshape(-1, 8)
        return frames

    def observations(self, number: NDArray[np.int64], age: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Observations (N, STACK, SIDE, SIDE) of steps."""
        back = np.minimum(np.arange(STACK)[::-1], age[:, None])
        return self.frames((number[:, None] - STREAMS * back).reshape(-1)).reshape(len(number), STACK, SIDE, SIDE)

    def next_step(self, stream: int) -> TimeStep:
        """The step that a stream goes on with: the same until `added` is called."""
        ends, age = self._ends[stream], self._ages[stream]
        action = np.array([len(ends) * STREAMS + stream, age])
        last = age == self._lengths[stream] - 1
        observation = self.observations(action[:1], action[1:])[0]
        return TimeStep(observation, action, float(action[0] % 1000), float(not last), age == 0, last)

    def added(self, stream: int, step: TimeStep) -> None:
        """Note that the step is stored."""
        self._ages[stream] = 0 if step.last() else self._ages[stream] + 1
        if step.last():
            self._lengths[stream] = int(self._rngs[stream].integers(1, 400))
        self._ends[stream].append(step.last())

    def add(self, replay: Any, stream: int, count: int) -> None:
        """Add the next steps of a stream."""
        for _ in range(count):
            step = self.next_step(stream)
            # Noted first: a worker may sample it at once.
            self.added(stream, step)
            replay.add(step, stream)

    def check(self, batch: Any) -> None:
        """Compare every value of a batch.

        Raises:
            RuntimeError: one is wrong.
        """
        obs, action, reward, discount, next_obs = (np.asarray(value) for value in batch)
        number, age = action[:, 0] - STREAMS, action[:, 1] - 1
        rewards = [(number + STREAMS * (k + 1)) % 1000 * GAMMA**k for k in range(NSTEP)]
        last = number + STREAMS * NSTEP
        ends = np.array([self._ends[k % STREAMS][k // STREAMS] for k in last.tolist()], bool)
        right = {
            "obs": np.array_equal(obs, self.observations(number, age)),
            "next_obs": np.array_equal(next_obs, self.observations(last, age + NSTEP)),
            "reward": np.allclose(reward[:, 0], np.sum(rewards, axis=0), rtol=1e-5),
            "discount": np.allclose(discount[:, 0], np.where(ends, 0, GAMMA**NSTEP), rtol=1e-5),
        }
        if not all(right.values()):
            raise RuntimeError(f"wrong: {[name for name, value in right.items() if not value]}")


class Soak:
    """The run, and what it counted."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory, self.world, self.rng = directory, World(seed), random.Random(seed)
        self.replay = diffreplay.ReplayBuffer(
            CAPACITY, (STACK, SIDE, SIDE), (2,), action_dtype="int64", nstep=NSTEP, discount=GAMMA
        )
        names = ("batches checked", "additions interrupted", "batches interrupted", "kills survived", "saves")
        self.counts = dict.fromkeys((*names, "loads verified", "errors"), 0)
        self.slowest_save = 0.0
        self.most_memory = 0
        self._stopping = threading.Event()
        self._armed = False  # whether an alarm is to raise

    def run(self, seconds: float) -> None:
        """Write, read, save, load, kill and interrupt for so long."""
        for stream in range(STREAMS):
            self.world.add(self.replay, stream, 2000)
        loader = diffreplay.make_replay_loader(self.replay, batch_size=BATCH, num_workers=WORKERS)
        others = [threading.Thread(target=self._write, args=(stream,)) for stream in range(1, STREAMS)]
        others.append(threading.Thread(target=self._save_often))
        for thread in others:
            thread.start()
        before = signal.signal(signal.SIGALRM, self._on_alarm)
        try:
            self._read_and_write(iter(loader), time.monotonic(), seconds)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            self._stopping.set()
            for thread in others:
                thread.join()
        self._count("loads verified", self._load)

    def _read_and_write(self, batches: Any, start: float, seconds: float) -> None:
        next_kill, next_line = start + 5 * KILL_SECONDS, start
        while (now := time.monotonic()) < start + seconds and self.counts["errors"] < ENOUGH_ERRORS:
            for _ in range(STEPS_A_BATCH):
                self._count("additions interrupted", self._add_under_alarm)
            self._count("batches checked", lambda: self.world.check(self._batch_under_alarm(batches)))
            if now > next_kill:
                self._kill(batches._prefetcher._workers._workers)
                next_kill = now + self.rng.uniform(0.2, 2) * KILL_SECONDS
            if now > next_line:
                self.most_memory = max(self.most_memory, family_pss())
                print(f"{now - start:5.0f} s: {self.world.steps} steps, {self.counts}", file=sys.stderr, flush=True)
                next_line = now + 30

    def _on_alarm(self, *_: Any) -> None:
        if self._armed:  # else it comes late, as it was another thread that the system told
            raise Alarm

    def _add_under_alarm(self) -> int:
        """Add the main thread's next step, as often as an alarm cuts it short; how often that was."""
        step, interrupted = self.world.next_step(0), 0
        self.world.added(0, step)
        streams = self.replay.store.streams
        row = streams[0].row
        while streams[0].row == row:
            try:
                self._armed = True
                signal.setitimer(signal.ITIMER_REAL, self.rng.uniform(1e-5, 1e-3))
                self.replay.add(step, 0)
                self._armed = False
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Alarm:  # out of `add`, or right after it: the stream's row tells
                interrupted += 1
        return interrupted

    def _batch_under_alarm(self, batches: Any) -> Any:
        start = time.monotonic()
        while time.monotonic() < start + HANG_SECONDS:
            try:
                self._armed = True
                signal.setitimer(signal.ITIMER_REAL, self.rng.uniform(1e-4, 0.2))
                batch = next(batches)
                self._armed = False
                signal.setitimer(signal.ITIMER_REAL, 0)
                return batch
            except Alarm:
                self.counts["batches interrupted"] += 1
        raise RuntimeError(f"no batch came within {HANG_SECONDS} s")

    def _write(self, stream: int) -> None:
        while not self._stopping.is_set():
            self._count("", lambda: self.world.add(self.replay, stream, 1))
            time.sleep(PAUSE_SECONDS)

    def _save_often(self) -> None:
        while not self._stopping.wait(SAVE_SECONDS):
            start = time.monotonic()
            self._count("saves", self._save)
            self.slowest_save = max(self.slowest_save, time.monotonic() - start)

    def _kill(self, workers: list[Any]) -> None:
        with contextlib.suppress(ProcessLookupError):  # it was killed before, and that was not noticed yet
            os.kill(self.rng.choice(workers).process.pid, signal.SIGKILL)
            self.counts["kills survived"] += 1  # the batches that follow show it

    def _save(self) -> None:
        commit = self.replay.save(self.directory)
        if self.counts["saves"] % LOAD_EVERY == 0:
            self._count("loads verified", lambda: self._load(commit))

    def _load(self, commit: str | None = None) -> None:
        if commit is None:
            self.replay.save(self.directory)
        loaded = diffreplay.ReplayBuffer.load(self.directory, commit=commit)
        problems = loaded.verify()
        if problems:
            raise RuntimeError(f"what was loaded is damaged: {problems}")
        self.world.check(loaded.sample(BATCH))
        loaded.check_invariants()
        if commit is None:  # nothing is added any more
            self.replay.check_invariants()
            found, saved = (replace(one.stats(), total_bytes=0) for one in (loaded, self.replay))
            if found != saved:
                raise RuntimeError(f"what was loaded is not what was saved: {found}, {saved}")

    def _count(self, name: str, action: Any) -> None:
        try:
            times = action()
            if name:
                self.counts[name] += 1 if times is None else times
        except Exception as error:
            self.counts["errors"] += 1
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


def soak(report: Report, directory: Path, minutes: float, seed: int) -> bool:
    """Run, print what was held; whether all was right."""
    run = Soak(directory, seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "worker process", RuntimeWarning)  # that it died: it was killed
        run.run(60 * minutes)
    stats = run.replay.stats()
    rows = [("minutes", minutes), ("steps", run.world.steps), *run.counts.items()]
    rows += [("transitions checked", run.counts["batches checked"] * BATCH)]
    rows += [("slowest save, s", run.slowest_save), ("buffer, MB", stats.total_bytes / MB)]
    rows += [("snapshot, MB", sum(path.stat().st_size for path in directory.iterdir()) / MB)]
    rows += [("all processes, most, MB (PSS)", run.most_memory / MB)]
    report.table((f"{WORKERS} workers, batch {BATCH}, {CAPACITY} transitions", "value"), rows)
    return not run.counts["errors"]


PEAK = """
import sys
from diffreplay import ReplayBuffer
def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
ReplayBuffer.load(sys.argv[1])
print(status("VmHWM") - before)
"""


def saving(report: Report, directory: Path, gigabytes: float, seed: int) -> None:
    """What saving and loading a large buffer of noise costs."""
    count = int(gigabytes * 1e9 / SIDE**2)
    replay = diffreplay.ReplayBuffer(count, (1, SIDE, SIDE), (1,), frame_stack=1, codec="raw")
    rng = np.random.default_rng(seed)

    def add(steps: int) -> None:
        for t in range(steps):
            frame = rng.integers(0, 256, (1, SIDE, SIDE), np.uint8)
            replay.add(TimeStep(frame, np.zeros(1, np.int64), 0.0, 1.0, t == 0, t == steps - 1))

    def save() -> tuple[float, int]:
        before = {path.name for path in directory.iterdir()}
        start = time.monotonic()
        replay.save(directory)
        new = [p for p in directory.iterdir() if p.name not in before or p.name.endswith(".json")]
        return time.monotonic() - start, sum(path.stat().st_size for path in new)

    add(count)
    first_seconds, first_bytes = save()
    add(count // 100)
    again_seconds, again_bytes = save()
    size = replay.stats().total_bytes
    start = time.monotonic()
    command = [sys.executable, "-c", PEAK, str(directory)]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    rows = [
        ("buffer, MB", size / MB),
        ("first save: s", first_seconds),
        ("first save: MB written", first_bytes / MB),
        ("after 1 % new data: s", again_seconds),
        ("after 1 % new data: MB written", again_bytes / MB),
        ("share of the buffer", Share(again_bytes / size)),
        ("loading in a new process: s, start of Python included", time.monotonic() - start),
        ("loading: peak / buffer", Ratio(peak / size)),
    ]
    report.table(("saving and loading noise", "value"), rows)


def main(argv: list[str] | None = None) -> int:
    """Run from the command line."""
    options = parser(__doc__)
    options.add_argument("--minutes", type=float, default=10.0, help="how long (%(default)s)")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--directory", type=Path, help="where a folder for the snapshot is made (the system's choice)")
    options.add_argument("--saving", type=float, metavar="GB", help="instead: the cost of saving and loading so much")
    args = options.parse_args(argv)
    with Report("benchmarks.soak", args, argv) as report, tempfile.TemporaryDirectory(dir=args.directory) as made:
        report.describe()
        if args.saving is not None:
            saving(report, Path(made), args.saving, args.seed)
            return 0
        return 0 if soak(report, Path(made), args.minutes, args.seed) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Workers that draw batches into slots: processes or threads behind one small interface.

A worker is given the number of a batch and a slot, and answers with the number of frames a transition of the
batch takes. Batch k is drawn with the generator of (seed, k), so that it does not matter who draws it.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import queue
import signal
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import NamedTuple, Protocol

import numpy as np

from diffreplay.errors import EmptyBufferError, WorkerError
from diffreplay.sampling import Sampler
from diffreplay.slots import BatchPlace, BatchSpec, Slots

POLL_SECONDS = 0.01
PARENT_CHECK_SECONDS = 1.0


class Task(NamedTuple):
    """Draw batch `number` into `slot`."""

    number: int
    slot: int


class Result(NamedTuple):
    """Batch `number` lies in `slot`, `length` frames a transition; or drawing it failed."""

    number: int
    slot: int
    length: int
    error: Exception | None = None


class Stopped(Exception):
    """The loader that the batch was for is gone."""


def draw_when_filled(
    replay: Sampler,
    spec: BatchSpec,
    seed: int,
    number: int,
    place_for: Callable[[int], BatchPlace],
    pause: Callable[[], None],
) -> tuple[BatchPlace, int]:
    """Draw batch `number`, waiting with `pause` while the buffer holds no complete window."""
    while True:
        try:
            return replay.draw_into(spec, np.random.default_rng([seed, number]), place_for)
        except EmptyBufferError:
            pause()


class Workers(Protocol):
    """What the loader asks of its workers."""

    def submit(self, task: Task) -> None:
        """Have a batch drawn."""

    def collect(self, timeout: float) -> list[Result]:
        """Results that came in, after waiting at most so many seconds for the first."""

    def stop(self) -> None:
        """End all workers; they are gone on return."""


class ThreadWorkers:
    """Workers in this process: nothing to start, to copy or to lose, and decoding does not hold the GIL."""

    def __init__(self, count: int, replay: Sampler, slots: Slots, seed: int) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._stopping = threading.Event()
        arguments = (replay, slots, seed, self._tasks, self._results, self._stopping)
        self._threads = [
            threading.Thread(target=_run_thread, args=arguments, name=f"diffreplay-{k}", daemon=True)
            for k in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Task) -> None:
        """Have a batch drawn."""
        self._tasks.put(task)

    def collect(self, timeout: float) -> list[Result]:
        """Results that came in, after waiting at most so many seconds for the first."""
        try:
            return [self._results.get(timeout=timeout)]
        except queue.Empty:
            return []

    def stop(self) -> None:
        """End all threads."""
        self._stopping.set()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()


def _run_thread(
    replay: Sampler,
    slots: Slots,
    seed: int,
    tasks: queue.SimpleQueue[Task | None],
    results: queue.SimpleQueue[Result],
    stopping: threading.Event,
) -> None:
    def pause() -> None:
        if stopping.wait(POLL_SECONDS):
            raise Stopped

    while (task := tasks.get()) is not None and not stopping.is_set():
        try:
            results.put(_perform(task, replay, slots, seed, pause))
        except Stopped:
            return


def _perform(task: Task, replay: Sampler, slots: Slots, seed: int, pause: Callable[[], None]) -> Result:
    place = slots.place(task.slot)
    try:
        _, length = draw_when_filled(replay, slots.spec, seed, task.number, lambda _: place, pause)
    except Stopped:
        raise
    except Exception as error:  # whatever it is, it is raised where the batch is asked for
        return Result(task.number, task.slot, 0, error)
    return Result(task.number, task.slot, length)


class ProcessWorkers:
    """Worker processes, each with a pipe; batches stay in the slots.

    When one dies, its unfinished batches go to another, a new process takes its place, and a warning says so.
    """

    def __init__(self, count: int, replay: Sampler, slots: Slots, seed: int, context: BaseContext) -> None:
        self._context = context
        self._arguments = (replay, slots, seed)
        self._workers = [self._start() for _ in range(count)]

    def _start(self) -> Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(  # type: ignore[attr-defined]
            target=_run_process, args=(theirs, *self._arguments), name="diffreplay-worker", daemon=True
        )
        process.start()
        theirs.close()
        return Worker(process, ours)

    def submit(self, task: Task) -> None:
        """Have a batch drawn by the worker that has the least to do."""
        worker = min(self._workers, key=lambda worker: len(worker.tasks))
        worker.tasks[task.number] = task
        with contextlib.suppress(OSError):  # it has died: `collect` finds its pipe closed and passes its tasks on
            worker.pipe.send(task)

    def collect(self, timeout: float) -> list[Result]:
        """Results that came in, after waiting at most so many seconds for the first."""
        results = []
        by_pipe = {worker.pipe: worker for worker in self._workers}
        for pipe in wait(list(by_pipe), timeout):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                result = worker.pipe.recv()
            except (EOFError, OSError):
                self._replace(worker)
                continue
            worker.has_worked = True
            if result is not None:
                del worker.tasks[result.number]
                results.append(result)
        return results

    def _replace(self, dead: Worker) -> None:
        dead.process.join(1)
        code = dead.process.exitcode
        # Killed before it was ready, it says nothing about the others; ended by itself, it never will be ready.
        if not dead.has_worked and not (code is not None and code < 0 and any(w.has_worked for w in self._workers)):
            raise WorkerError(
                f"a worker process ended with exit code {code} before it was ready: run the program from under "
                'if __name__ == "__main__", or use threads=True or num_workers=0'
            )
        warnings.warn(
            f"worker process {dead.process.pid} died (exit code {code}); its {len(dead.tasks)} unfinished batches are "
            "drawn by another and a new process is started",
            RuntimeWarning,
            stacklevel=4,
        )
        dead.pipe.close()
        self._workers[self._workers.index(dead)] = self._start()
        for task in dead.tasks.values():
            self.submit(task)

    def stop(self) -> None:
        """End all processes: closing its pipe ends an idle one, a signal the others."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(2)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


class Worker:
    """A worker process as the loader sees it."""

    def __init__(self, process: BaseProcess, pipe: Connection) -> None:
        self.process, self.pipe = process, pipe
        self.tasks: dict[int, Task] = {}
        self.has_worked = False


def _run_process(pipe: Connection, replay: Sampler, slots: Slots, seed: int) -> None:
    """A worker's life: until its pipe is closed, or the process that started it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which then ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # a collector that visits what was there before the fork makes a private copy of it
    trainer, parent = multiprocessing.parent_process(), os.getppid()

    def check_parent() -> None:
        # Under fork, workers forked later hold copies of the pipes that would tell of the trainer's end, but its
        # children get another parent; under spawn and forkserver it is the other way round.
        if os.getppid() != parent or trainer is None or not trainer.is_alive():
            raise Stopped

    def pause() -> None:
        time.sleep(POLL_SECONDS)
        check_parent()

    try:
        pipe.send(None)  # ready
        while True:
            while not pipe.poll(PARENT_CHECK_SECONDS):
                check_parent()
            pipe.send(_perform(pipe.recv(), replay, slots, seed, pause))
    except (EOFError, OSError, Stopped):
        return

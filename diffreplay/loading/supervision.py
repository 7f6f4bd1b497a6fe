"""The workers of a loader as the trainer sees them: processes or threads that start, ring, die and are replaced."""

from __future__ import annotations

import _thread
import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Protocol

from diffreplay.errors import WorkerError
from diffreplay.loading.serving import DONE, READY, STOP, TASK, Stopped, Work, hear, ring, serve
from diffreplay.loading.slots import WORKER_MASK
from diffreplay.loading.warn import warn
from diffreplay.loading.worker_process import INSTEAD

END_SECONDS = 2.0
DEATHS = 3  # for each worker, in a row and without a batch between, after which no more are started


class Worker(Protocol):
    """A process or a thread that draws batches, and our end of its pipe."""

    name: str
    number: int
    pipe: Connection

    def is_alive(self) -> bool:
        """Whether it runs."""

    def ask_to_end(self) -> None:
        """Have it end."""

    def end(self, seconds: float) -> int | None:
        """Wait for its end; a process's exit code."""


class ThreadWorker:
    """A worker in this process: nothing to start, to copy or to lose, and decoding does not hold the GIL."""

    def __init__(self, number: int, work: Work) -> None:
        self.number, self.name = number, f"thread {number}"
        self.pipe, theirs = Pipe()
        for end in (self.pipe, theirs):
            os.set_blocking(end.fileno(), False)
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(number, theirs, work, self._stopping), name=f"diffreplay-{number}", daemon=True
        )
        self._thread.start()

    @staticmethod
    def _run(number: int, pipe: Connection, work: Work, stopping: threading.Event) -> None:
        def check() -> None:
            if stopping.is_set():
                raise Stopped

        with pipe:
            serve(number, pipe, work, check)

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._thread.is_alive()

    def ask_to_end(self) -> None:
        """Have it end."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            ring(self.pipe, STOP)

    def end(self, seconds: float) -> None:
        """Wait for its end."""
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)


class Workers:
    """As many workers as are wanted; one that died is replaced, and a warning says so.

    They are started in a thread, where no interrupt lands: it would lose a process that has just begun.

    Args:
        count: how many.
        start: starts the worker of a number.
        why_not_ready: what to say of an exit code, where the first ones ended before they were ready.
    """

    def __init__(
        self, count: int, start: Callable[[int], Worker], why_not_ready: Callable[[int | None], str] = str
    ) -> None:
        self._count, self._start_one, self._why_not_ready = count, start, why_not_ready
        self._workers: list[Worker] = []
        self._numbers = itertools.cycle(range(1, WORKER_MASK + 1))
        self._starting = threading.Lock()
        self._bell, self._button = Pipe(duplex=False)
        for end in (self._bell, self._button):
            os.set_blocking(end.fileno(), False)
        self._failure: Exception | None = None
        self._owner, self._stopped = os.getpid(), False
        self._were_ready, self._deaths = False, 0
        self._forgiven: set[int] = set()

    def numbers(self) -> list[int]:
        """Of those that run, the oldest first."""
        return [worker.number for worker in self._workers]

    def forgive(self) -> None:
        """Expect that the interrupt which just came may have ended workers that had just begun."""
        self._forgiven.update(self.numbers())

    def ensure(self) -> None:
        """Have all workers run, and wait until they are started.

        Raises:
            WorkerError: one could not be started.
        """
        while len(self._workers) < self._count:
            failure, self._failure = self._failure, None
            if failure is not None:
                if isinstance(failure, WorkerError):
                    raise failure
                raise WorkerError(f"a worker could not be started ({failure}): {INSTEAD}") from failure
            if not self._starting.locked():  # two at once would take turns
                _thread.start_new_thread(self._start, ())  # in one go, unlike Thread.start, which may be interrupted
            wait([self._bell], 1.0)
            hear(self._bell)

    def _start(self) -> None:
        with self._starting:
            try:
                while len(self._workers) < self._count and not self._stopped:
                    self._workers.append(self._start_one(next(self._numbers)))
            except Exception as error:  # it is raised where the workers are needed
                self._failure = error
            if self._stopped:
                self._end(list(self._workers))
            ring(self._button, READY)

    def ring(self, number: int) -> None:
        """Tell a worker to look for its tasks; one that has died is found by `wait`."""
        for worker in self._workers:
            if worker.number == number:
                with contextlib.suppress(OSError):
                    ring(worker.pipe, TASK)

    def wait(self, seconds: float) -> bool:
        """Wait until something was drawn, at most so long; whether a worker died and another took its place.

        Raises:
            WorkerError: the first workers ended before they were ready, or workers die one after the other.
        """
        by_pipe = {worker.pipe: worker for worker in self._workers}
        dead = []
        ready = wait(list(by_pipe), seconds)
        for pipe in ready:
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                heard = hear(worker.pipe)
            except EOFError:
                dead.append(worker)
                continue
            self._were_ready = True
            if DONE in heard:
                self._deaths = 0
        if not ready:  # a pipe does not tell where a process that was forked at the wrong moment holds its other end
            dead = [worker for worker in self._workers if not worker.is_alive()]
        for worker in dead:
            self._bury(worker)
        if dead:
            self.ensure()
        return bool(dead)

    def _bury(self, dead: Worker) -> None:
        code = dead.end(END_SECONDS)
        self._workers.remove(dead)
        dead.pipe.close()  # not before, as an interrupt leaves it among those that `wait` asks
        self._deaths += 1
        # Killed before it was ready, it says nothing about the others; ended by itself, it never will be ready.
        if not self._were_ready and dead.number not in self._forgiven and (code is None or code >= 0):
            others = list(self._workers)
            self._workers.clear()
            self._end(others)  # they would fail likewise, each with a message of its own
            raise WorkerError(self._why_not_ready(code))
        ending = _ending(code)
        if self._deaths >= DEATHS * self._count:
            deaths, self._deaths = self._deaths, 0
            raise WorkerError(
                f"{deaths} workers died in a row and drew no batch, the last one {ending}: start fewer workers, or "
                f"{INSTEAD}"
            )
        warn(f"worker {dead.name} died ({ending}); another draws its unfinished batches, and a new one is started")

    def stop(self) -> None:
        """End all workers; they are gone on return. A process that was forked from theirs leaves them alone."""
        if os.getpid() != self._owner:
            return
        self._stopped = True  # one that is being started is ended by who starts it
        self._end(list(self._workers))

    @staticmethod
    def _end(workers: list[Worker]) -> None:
        for worker in workers:
            worker.ask_to_end()
        for worker in workers:
            worker.end(END_SECONDS)
            worker.pipe.close()


def _ending(code: int | None) -> str:
    """How a worker ended, in words."""
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "an unnamed signal"
    memory = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
    return f"exit code {code}: killed by {name}{memory}"

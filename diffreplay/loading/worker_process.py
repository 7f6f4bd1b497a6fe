"""A loader's worker as a process: how it starts, what it needs for that, and how it ends."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import weakref
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from diffreplay.errors import WorkerError
from diffreplay.loading.serving import Stopped, Work, serve

INSTEAD = "use threads=True or num_workers=0"
GUARD = 'if __name__ == "__main__"'


class ProcessWorker:
    """A worker process as its loader sees it."""

    def __init__(self, number: int, work: Work, context: BaseContext) -> None:
        self.number = number
        self.pipe, theirs = context.Pipe()
        for end in (self.pipe, theirs):
            os.set_blocking(end.fileno(), False)
        self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=_run, args=(number, theirs, work), name="diffreplay-worker", daemon=True
        )
        self.process.start()
        self.name = f"process {self.process.pid}"
        _started.add(self.process)
        theirs.close()

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process.is_alive()

    def ask_to_end(self) -> None:
        """Have it end: a signal does, and closing its pipe."""
        self.pipe.close()
        with contextlib.suppress(OSError):
            self.process.terminate()

    def end(self, seconds: float) -> int | None:
        """Wait for its end, and kill it if that takes longer; its exit code, None where nobody knows it."""
        self.process.join(seconds)
        if self.process.is_alive():
            with contextlib.suppress(OSError):
                self.process.kill()
            self.process.join(1)
        return self.process.exitcode


# When a process ends, multiprocessing ends the daemons in its list. One that was forked without multiprocessing, as by
# os.fork, has a copy of that list, with the workers of the process it comes from. So they are taken out of it there.
_started: weakref.WeakSet[BaseProcess] = weakref.WeakSet()
os.register_at_fork(after_in_child=lambda: multiprocessing.process._children.difference_update(_started))  # type: ignore[attr-defined]


def default_context() -> BaseContext:
    """The start method that the program has chosen, else forkserver.

    A fork of a process that renders, uses CUDA or runs threads may hang. Whatever asks multiprocessing for a lock or a
    queue sets the platform's default for good, so this one does not count as chosen.
    """
    chosen, (default, *_) = multiprocessing.get_start_method(allow_none=True), multiprocessing.get_all_start_methods()
    if chosen not in (None, default, "forkserver"):
        return multiprocessing.get_context(chosen)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diffreplay"])
    return context


def check_start(context: BaseContext) -> None:
    """Refuse to start worker processes where that cannot work.

    Raises:
        WorkerError: says why, and what to do.
    """
    current = multiprocessing.current_process()
    if current.daemon:
        raise WorkerError(
            "a loader cannot start worker processes in a daemonic process, such as a worker of a DataLoader or a Pool: "
            + INSTEAD
        )
    if getattr(current, "_inheriting", False):
        raise WorkerError(
            "a process that is being started imports the program's main file, which starts a loader's worker processes "
            f"right away: run the program from under {GUARD}, or {INSTEAD}"
        )
    if _method(context) == "fork":
        return
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None) if main.__spec__ is None else None
    if file is not None and not Path(file).exists():
        raise WorkerError(
            f"worker processes import the program's main file, and {file} is none that they could import, as for a "
            f"program from standard input: save it as a file, or {INSTEAD}"
        )


def why_not_ready(work: Work, context: BaseContext, code: int | None) -> str:
    """What to tell of a worker that ended by itself, before it was ready, where none ever was."""
    told = f"a worker process ended with exit code {code} before it was ready"
    if _method(context) == "fork":
        return f"{told}: see its own message above, or {INSTEAD}"
    with contextlib.suppress(Exception):
        codecs = [reader.frames.codec for reader in work.batches.readers]
        if b"__main__" in pickle.dumps(codecs) and not hasattr(sys.modules["__main__"], "__file__"):
            return (
                f"{told}: worker processes cannot import the codec, which is defined in a notebook or a command: put "
                f"it in a module of its own, or {INSTEAD}"
            )
    return f"{told}: run the program from under {GUARD}, or {INSTEAD}"


def _method(context: BaseContext) -> str | None:
    return context.get_start_method() or "fork"


def _run(number: int, pipe: Connection, work: Work) -> None:
    """Until the pipe is closed, or the process that started this one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which then ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # else the collector writes to what was there before the fork, and so copies it
    trainer, parent = multiprocessing.parent_process(), os.getppid()

    def check_parent() -> None:
        # Under fork, workers forked later hold copies of the pipes that would tell of the trainer's end, but its
        # children get another parent; under spawn and forkserver it is the other way round.
        if os.getppid() != parent or trainer is None or not trainer.is_alive():
            raise Stopped

    serve(number, pipe, work, check_parent)

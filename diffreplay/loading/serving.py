"""What a worker does, be it a process or a thread: it draws the batches that it is given into their slots.

Batch k is drawn with a generator of its own, so that it does not matter who draws it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from diffreplay.errors import WorkerError
from diffreplay.loading.batches import Batches
from diffreplay.loading.drawing import GoneError
from diffreplay.loading.requests import request_in
from diffreplay.loading.slots import Slots, Task

POLL_SECONDS = 0.01
GONE = 0  # the length of a batch for which another request is needed
CHECK_SECONDS = 1.0  # after which a worker that hears nothing looks for itself
READY, DONE, TASK, STOP = b"r", b"d", b"t", b"s"  # bytes that only wake up whoever waits


class Stopped(Exception):
    """The loader that the batch was for is gone."""


class Work(NamedTuple):
    """What all workers of a loader share.

    Attributes:
        batches: that they draw.
        slots: where to.
        decided: whether slots tell what was decided of a batch.
    """

    batches: Batches
    slots: Slots
    decided: bool


def serve(worker: int, pipe: Connection, work: Work, check: Callable[[], None]) -> None:
    """A worker's life: until its pipe is closed or says so, or `check` raises Stopped."""

    def pause() -> None:
        time.sleep(POLL_SECONDS)
        check()

    with contextlib.suppress(EOFError, OSError, Stopped):
        ring(pipe, READY)
        while True:
            while (task := work.slots.next_task(worker)) is None:
                if not pipe.poll(CHECK_SECONDS):
                    check()
                elif STOP in hear(pipe):
                    return
            work.slots.finish(task, _perform(task, work, pause))
            ring(pipe, DONE)


def ring(pipe: Connection, sound: bytes) -> None:
    """Wake up whoever waits at the other end of a pipe that does not block; a full one is heard anyway."""
    with contextlib.suppress(BlockingIOError):
        os.write(pipe.fileno(), sound)


def hear(pipe: Connection) -> bytes:
    """What was rung since the last time.

    Whole bytes from a file, not a Connection's messages, which an interrupt would leave half read.

    Raises:
        EOFError: the other end is gone.
    """
    try:
        heard = os.read(pipe.fileno(), 4096)
    except BlockingIOError:
        return b""
    except OSError:
        heard = b""
    if not heard:
        raise EOFError
    return heard


def _perform(task: Task, work: Work, pause: Callable[[], None]) -> int:
    """Do a task; for `Slots.finish`."""
    place = work.slots.place(task.slot)
    try:
        request = request_in(place, len(work.batches.readers)) if work.decided else None
        _, length = work.batches.draw(task.number, request, lambda length: place, pause)
    except Stopped:
        raise
    except GoneError:
        return GONE
    except BaseException as error:  # whatever it is, SystemExit included, it is raised where the batch is asked for
        return -_write_report(work.slots.memory(task.slot), task.number, error)
    return length


def _write_report(memory: np.ndarray, number: int, error: BaseException) -> int:
    """Leave in a slot why its batch could not be drawn; the bytes taken."""
    summary = f"drawing batch {number} failed in a worker with {type(error).__qualname__}: {_text_of(error)}"
    told = "".join(traceback.format_exception(error))
    room = len(memory) // 4 - 256  # characters, of which UTF-8 makes four bytes at most
    report = pickle.dumps((_pickled(error), summary[: room // 2], told[-room // 2 :]))
    if len(report) > len(memory):
        report = pickle.dumps((None, summary[: room // 2], told[-room // 2 :]))
    memory[: len(report)] = np.frombuffer(report, np.uint8)
    return len(report)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception class of the user's own may not even do that
        return "(its text cannot be had)"


def _pickled(error: BaseException) -> bytes | None:
    """The exception, where it is one that comes out of pickle again."""
    if not isinstance(error, Exception):
        return None
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:  # anything may come out of code of the user's own
        return None
    return data


def read_report(memory: np.ndarray) -> Exception:
    """The exception that a worker left in `memory`: of its own type where it can be pickled, else a WorkerError."""
    data, summary, told = pickle.loads(memory.tobytes())
    error: Exception = WorkerError(summary)
    if data is not None:
        with contextlib.suppress(Exception):  # it came out of pickle in the worker, but this is another process
            error = pickle.loads(data)
    error.add_note(f"In the worker:\n{told}")
    return error

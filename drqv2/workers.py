"""How the loader's worker processes start, and when they end."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess


def start_server(preload: str) -> BaseContext:
    """Start the server that workers are forked from, whatever start method the program or a progress bar has set.

    Forking this process, with its graphics and compute threads, could hang the workers.

    Args:
        preload: module that the server imports, once for all workers; started now, it does so while the first episodes
            are played.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    forkserver.ensure_running()
    return context


def end_with_trainer() -> None:
    """Have this worker process end when the one that started it has ended, however that came about.

    PyTorch's workers watch their parent process. That is the server here, which lives for as long as its workers do.
    """
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        threading.Thread(target=_end_after, args=(trainer,), name="end-with-trainer", daemon=True).start()


def _end_after(trainer: BaseProcess) -> None:
    trainer.join()
    os._exit(1)

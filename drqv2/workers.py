"""How the loader's worker processes start."""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import BaseContext


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

"""Page-locked memory: a GPU copies from it by itself, while this process goes on."""

from __future__ import annotations

import contextlib
import os
import weakref

import numpy as np
import torch
from numpy.typing import NDArray


def lock_pages(memory: NDArray[np.uint8], owner: object, device: torch.device) -> bool:
    """Page-lock memory that is there already, for as long as `owner` lives; whether that was possible.

    Args:
        memory: stays mapped until it is unlocked, whoever else lets go of it: CUDA does not see that it is gone.
        owner: has the memory.
        device: a GPU that copies from it.
    """
    runtime = torch.cuda.cudart()
    unlock = weakref.finalize(owner, _unlock, memory, device, os.getpid())
    if runtime.cudaHostRegister(memory.ctypes.data, memory.nbytes, 0) == runtime.cudaError.success:
        return True
    unlock.detach()
    _forget_error(device)
    return False


def _unlock(memory: NDArray[np.uint8], device: torch.device, process: int) -> None:
    if os.getpid() != process:  # one that was forked cannot use CUDA
        return
    with contextlib.suppress(RuntimeError):  # of a GPU that is out of order, which whoever uses it is told
        torch.cuda.synchronize(device)  # a last copy may be under way
    runtime = torch.cuda.cudart()
    if runtime.cudaHostUnregister(memory.ctypes.data) != runtime.cudaError.success:
        _forget_error(device)


def _forget_error(device: torch.device) -> None:
    """CUDA remembers a call that failed, and PyTorch raises that at whatever it starts on the GPU next."""
    with contextlib.suppress(RuntimeError):
        torch.ones(1, device=device).add_(1)

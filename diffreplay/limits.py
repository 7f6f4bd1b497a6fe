"""What the system allows: cores, memory, and why it refused a file in memory."""

from __future__ import annotations

import errno
import os
import resource
import warnings


def usable_cores() -> int:
    """Cores that this process may use; all there are where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_bytes() -> int | None:
    """Memory that can be taken without swapping; None where the system does not tell."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def warn_if_too_large(nbytes: int, stacklevel: int) -> None:
    """Warn when a buffer that will take `nbytes` for sure does not fit into memory."""
    available = available_bytes()
    if available is not None and nbytes > available:
        warnings.warn(
            f"the full buffer takes {nbytes / 1e9:.1f} GB, but only {available / 1e9:.1f} GB of memory are available; "
            "lower the capacity, set max_bytes, or let another codec than raw code the frames",
            stacklevel=stacklevel + 1,
        )


def why_no_memory_file(nbytes: int, error: Exception) -> str:
    """Why there is no shared memory file of `nbytes`, and what the user can do about it."""
    code, smaller = getattr(error, "errno", None), "lower the capacity, set max_bytes"
    if code in (errno.EMFILE, errno.ENFILE):
        return f"could not open a shared memory file ({error}); close files, or allow more open ones (ulimit -n)"
    if code in (errno.ENOSYS, errno.EPERM, errno.EACCES):
        return f"could not open a shared memory file ({error}); allow the system call memfd_create"
    for limit, refusal, what in (
        (resource.RLIMIT_FSIZE, errno.EFBIG, "the size of files (ulimit -f)"),
        (resource.RLIMIT_AS, errno.ENOMEM, "address space (ulimit -v)"),
    ):
        most = resource.getrlimit(limit)[0]
        if code == refusal and most != resource.RLIM_INFINITY:
            return (
                f"could not map {nbytes / 1e9:.2f} GB of shared memory, as the limit on {what} is {most / 1e9:.2f} GB; "
                f"{smaller}, or raise the limit"
            )
    return f"could not map {nbytes / 1e9:.2f} GB of shared memory ({error}); {smaller}, or take a system that maps more"

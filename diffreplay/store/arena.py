"""Shared memory that is not limited by /dev/shm, and rings of recycled extents inside it.

An `Arena` is one anonymous memory file (memfd) that the writer and every reader map as a whole. It is as
large as its worst case from the start, but a page takes memory only once it is written, and a page that is
given back with `Ring.release` takes none again. It may be a file on disk instead, without a name: then the system
writes pages out, and `Arena.page_out` has the process hold none of them.

Nothing here locks. One process writes; readers copy first and check afterwards (see docs/concurrency.md), which
needs the order of memory accesses that `fence` gives.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
import threading
from multiprocessing import reduction
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import DTypeLike, NDArray

from diffreplay.errors import CopyError, SharedMemoryError
from diffreplay.limits import why_no_memory_file

PAGE = mmap.PAGESIZE
_local = threading.local()


def fence() -> None:
    """Keep every memory access before this call before every access after it, as other processes see them.

    Releasing a lock orders what came before it, and acquiring one what follows; a release and an acquire of
    one lock by one thread stay in their order on x86 and on ARMv8. The lock is the thread's own: nothing waits.
    """
    try:
        lock = _local.lock
    except AttributeError:
        lock = _local.lock = threading.Lock()
    lock.acquire(False)  # held already, unless an interrupt came between the next two calls of another time
    lock.release()
    lock.acquire()


def trim_heap() -> None:
    """Give memory that was used for a moment back to the system, where the C library keeps it (glibc does)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def round_up(value: int, unit: int = PAGE) -> int:
    """The smallest multiple of `unit` that is at least `value`."""
    return -(-value // unit) * unit


def refuse_copy(_: Any) -> NoReturn:
    """Refuse to pickle or copy what stands for shared memory, which would be a handle that nobody can open."""
    raise CopyError(
        "a replay buffer is shared memory, which cannot be pickled or copied: write it with save(directory) and make "
        "another with ReplayBuffer.load(directory); other processes share it when it is an argument of "
        "multiprocessing.Process, or goes through a multiprocessing Queue or Pipe"
    )


class Arena:
    """A shared memory file of `nbytes` bytes, mapped; multiprocessing passes it on as its file descriptor.

    Args:
        nbytes: of it.
        fd: of one that is there.
        directory: on whose disk it lies; None for memory.
    """

    def __init__(self, nbytes: int, *, fd: int | None = None, directory: Path | None = None) -> None:
        self.nbytes = round_up(nbytes)
        self.fd = -1 if fd is None else fd
        self._on_disk = directory is not None
        try:
            if fd is None:
                self.fd = _new_file(directory)
                os.ftruncate(self.fd, self.nbytes)
            elif os.fstat(fd).st_size != self.nbytes:
                found = os.fstat(fd).st_size
                raise SharedMemoryError(f"expected a shared memory file of {self.nbytes} bytes, got one of {found}")
            self.map = mmap.mmap(self.fd, self.nbytes)
        except (OSError, OverflowError) as error:
            raise SharedMemoryError(why_no_memory_file(self.nbytes, error)) from error
        self.bytes = memoryview(self.map)

    def array(
        self, dtype: DTypeLike, shape: tuple[int, ...], offset: int, strides: tuple[int, ...] | None = None
    ) -> NDArray[Any]:
        """A view of the shared bytes from `offset` on."""
        return np.ndarray(shape, dtype, buffer=self.map, offset=offset, strides=strides)

    def release(self, offset: int, nbytes: int) -> None:
        """Give whole pages back to the system; they read as zeros from now on."""
        self.map.madvise(mmap.MADV_REMOVE, offset, nbytes)

    def page_out(self) -> None:
        """Hold no page in this process where the arena lies on disk; one that is used again comes back by itself."""
        if self._on_disk:
            self.map.madvise(mmap.MADV_DONTNEED)

    __reduce__ = refuse_copy

    def __del__(self) -> None:
        # Views of the map may outlive this object and keep the mapping; the descriptor is not needed for that.
        if getattr(self, "fd", -1) >= 0:
            os.close(self.fd)
            self.fd = -1


def _new_file(directory: Path | None) -> int:
    """An empty file without a name, which goes with its last descriptor."""
    if directory is None:
        return os.memfd_create("diffreplay", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(dir=directory) as file:
        return os.dup(file.fileno())


def _reduce(arena: Arena) -> tuple[Any, ...]:
    return _attach, (arena.nbytes, reduction.DupFd(arena.fd))


def _attach(nbytes: int, duplicate: Any) -> Arena:
    return Arena(nbytes, fd=duplicate.detach())


reduction.ForkingPickler.register(Arena, _reduce)  # the pickler of multiprocessing alone: it starts processes with it


class Ring:
    """The writer's account of a ring of equal extents inside an arena.

    Extents are numbered for ever; number i lies at `offset + i % extents * extent_bytes`. Those in
    [first, end) take memory.
    """

    def __init__(self, arena: Arena, offset: int, extent_bytes: int, extents: int) -> None:
        self.arena, self.offset = arena, offset
        self.extent_bytes, self.extents = extent_bytes, extents
        self.first = self.end = 0

    @property
    def allocated(self) -> int:
        """Bytes that the ring takes now."""
        return (self.end - self.first) * self.extent_bytes

    def release(self, first: int) -> None:
        """Give back the memory of all extents before number `first`."""
        while self.first < first:
            place = self.first % self.extents
            count = min(first - self.first, self.extents - place)
            self.arena.release(self.offset + place * self.extent_bytes, count * self.extent_bytes)
            self.first += count
        self.end = max(self.end, self.first)

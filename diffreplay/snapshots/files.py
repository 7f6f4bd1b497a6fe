"""Files that are safely on disk once written, files that are read as far as they are files, and locks."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import time
import weakref
from errno import EINVAL
from pathlib import Path
from typing import BinaryIO

from diffreplay.codecs import Buffer
from diffreplay.errors import InUseError

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_locks: weakref.WeakSet[Lock] = weakref.WeakSet()  # all of this process


class Lock:
    """Sole use of a directory or file, among processes and within this one.

    The system keeps it (`flock`) and drops it when the process ends, however that happens; nothing is left on disk.
    It does not pass to a forked child: a child that outlives this process keeps nobody out. Holds until `release`,
    until a `with` block ends, or until the object goes. A file system without such locks (NFS has none on
    directories) keeps nobody out, and nobody is told.

    Args:
        path: of what is locked; it is neither read nor changed.
        patience: seconds to wait while another holds it.

    Raises:
        InUseError: another process, or something else in this one, holds it.
        OSError: there is nothing there, or it cannot be opened.
    """

    place = (-1, -1)  # device and inode of what is locked
    _fd = -1

    def __init__(self, path: Path, patience: float = 0.0) -> None:
        _locks.add(self)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.place = _place(os.fstat(self._fd))
        deadline = time.monotonic() + patience
        while not self._try():
            if time.monotonic() >= deadline:
                self.release()
                raise InUseError(
                    f"{path}: expected to be alone in using it, but a running process does already (or this one, a "
                    "second time): use another directory, or end the other one first"
                )
            time.sleep(0.005)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # no locks here
        return True

    def release(self) -> None:
        """Let others have it; at most once counts."""
        self.place = (-1, -1)
        if self._fd >= 0:
            # In one line, as an interrupt between two would close it twice or never.
            self._fd = os.close(self._fd) or -1  # type: ignore[func-returns-value]

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


def used_elsewhere(path: Path) -> bool:
    """Whether another process holds a `Lock` on a file; not where there is no file."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or any(lock.place == _place(found) for lock in _locks):
            return False
        Lock(path).release()
    except InUseError:
        return True
    except OSError:
        pass
    return False


def _place(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _drop_inherited() -> None:
    """In a forked child: close the copies of the parent's locks, so that these end with the parent."""
    for lock in _locks:
        lock.release()


os.register_at_fork(after_in_child=_drop_inherited)


def checksum(*parts: Buffer) -> str:
    """BLAKE2b of the parts, end to end: 16 bytes as 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def open_regular(path: Path) -> BinaryIO:
    """Open a file, or a link to one, to read; whatever else is there is refused and never waited for.

    Raises:
        OSError: it cannot be opened, or is a FIFO, a socket, a directory or a device.
    """
    _check_regular(os.stat(path))  # before it is opened, as that alone can do something to a device
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_regular(os.fstat(fd))
    except OSError:
        os.close(fd)
        raise
    return os.fdopen(fd, "rb")


def _check_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(EINVAL, f"it is {KINDS.get(stat.S_IFMT(found.st_mode), 'something else')}, not a file")


def write_durably(path: Path, *parts: Buffer) -> None:
    """Write a file; its bytes are on disk when this returns, its name once the directory is synced."""
    with open(path, "wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def make_directory(directory: Path) -> None:
    """Make a directory and its parents where they are missing; their names are on disk when this returns."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Bring the names in a directory to disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

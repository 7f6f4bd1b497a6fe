"""Gives a file descriptor to processes of the same user, over a Unix socket that they find by its path.

Nothing but the descriptor and one byte crosses the socket. The giver reads nothing, so that nobody who connects keeps
it waiting. Both ask the system whose process is at the other end.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from multiprocessing.util import Finalize
from typing import NamedTuple

from diffreplay.errors import SharedMemoryError

ANSWER_SECONDS = 60.0  # after which a process that does not answer is given up, such as one that is stopped
RETRY_SECONDS = 0.01
DESCRIPTOR, CREDENTIALS = struct.Struct("i"), struct.Struct("iII")  # as the system passes them
NAME = "socket"

_lock = threading.RLock()  # held while a descriptor is open that a child forked meanwhile would keep
_servers: set[DescriptorServer] = set()


class Address(NamedTuple):
    """Where a descriptor is given away, and by whom."""

    folder: str
    process: int
    user: int


class DescriptorServer:
    """Gives away a descriptor until its owner goes or the process ends. A child that is forked has no part in it.

    Args:
        fd: duplicated.
        owner: what the descriptor is given away for.

    Raises:
        SharedMemoryError: the system gives no socket.
    """

    def __init__(self, fd: int, owner: object) -> None:
        self.address = Address("", os.getpid(), os.geteuid())
        self._open, self._closed = contextlib.ExitStack(), False
        self._listener: socket.socket | None = None
        # Not weakref.finalize, which a process of multiprocessing does not run when it ends. A number below 0 is for
        # what comes after its children have ended: until then they may use a handle for the first time.
        Finalize(owner, self.close, exitpriority=-1)
        ready: Future[None] = Future()
        try:
            threading.Thread(target=self._run, args=(fd, ready), name="diffreplay-handle", daemon=True).start()
            ready.result()
        except (OSError, RuntimeError) as error:
            raise SharedMemoryError(
                "handle: expected the system to give a socket in a folder for temporary files, and a thread that "
                f"serves it, got {type(error).__name__}: {error}; let TMPDIR name a folder that can be written to"
            ) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give nothing away any more, and remove the socket; without effect in a forked child."""
        if os.getpid() == self.address.process:
            self._closed = True
            if self._listener is not None:
                with contextlib.suppress(OSError):
                    self._listener.shutdown(socket.SHUT_RDWR)  # which the thread hears
            self.leave()
            shutil.rmtree(self.address.folder, ignore_errors=True)

    def leave(self) -> None:
        """Let go of the descriptors; where this is a child that was forked, all else is its parent's."""
        with _lock:
            self._closed = True
            _servers.discard(self)
            self._open.close()

    def _run(self, fd: int, ready: Future[None]) -> None:
        """The thread's life. It opens all, too: an interrupt would land in the thread that waits for that."""
        try:
            with _lock:
                listener = self._listen(fd)
        except Exception as error:
            self.close()
            ready.set_exception(error)
            return
        ready.set_result(None)
        waiting = select.poll()
        waiting.register(listener, select.POLLIN)
        while not self._closed:
            waiting.poll()
            try:
                with _lock:
                    self._give(listener)
            except BlockingIOError:
                pass  # whoever came has gone
            except OSError:  # no descriptor is free, for one
                time.sleep(RETRY_SECONDS)
        self.close()

    def _listen(self, fd: int) -> socket.socket:
        _servers.add(self)
        self._fd = os.dup(fd)
        self._open.callback(os.close, self._fd)
        self._listener = listener = self._open.enter_context(socket.socket(socket.AF_UNIX))
        folder = os.path.abspath(tempfile.mkdtemp(prefix="diffreplay-handle-"))  # for this user alone: 0700
        self.address = self.address._replace(folder=folder)
        with _short(folder) as path:
            listener.bind(path)
            os.chmod(path, 0o600)
        listener.setblocking(False)
        listener.listen(socket.SOMAXCONN)
        return listener

    def _give(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):  # whoever came may go at any time
            connection.setblocking(False)
            if _user_of(connection) == os.geteuid():
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, DESCRIPTOR.pack(self._fd))
                connection.sendmsg([b"\0"], [rights], socket.MSG_NOSIGNAL)  # socket.send_fds drops its flags


def take(address: Address) -> int:
    """The descriptor that is given away at an address; the caller's to close.

    Raises:
        SharedMemoryError: there is none, or it is another user's.
    """
    folder, process, user = address
    if user != (own := os.geteuid()):
        raise SharedMemoryError(f"handle: expected a process of user {user}, who alone may use it, got user {own}")
    try:
        with socket.socket(socket.AF_UNIX) as client:
            _connect(client, folder)
            if (found := _user_of(client)) != user:
                raise SharedMemoryError(f"handle: expected user {user}'s process at {folder}, got user {found}'s")
            # Not socket.recv_fds, which drops its flags, so that children would inherit the descriptor.
            _, rights, flags, _ = client.recvmsg(1, socket.CMSG_LEN(DESCRIPTOR.size), socket.MSG_CMSG_CLOEXEC)
    except TimeoutError as error:
        raise SharedMemoryError(
            f"handle: expected process {process}, which made it, to answer within {ANSWER_SECONDS:.0f} seconds, got "
            "nothing: it is stopped or too busy; try again"
        ) from error
    except (FileNotFoundError, NotADirectoryError, ConnectionError) as error:
        raise _gone(address) from error
    except OSError as error:
        raise SharedMemoryError(f"handle: could not connect to process {process}, which made it ({error})") from error
    fds = [fd for *_, data in rights for (fd,) in DESCRIPTOR.iter_unpack(data)]
    if fds and not flags & socket.MSG_CTRUNC:
        return int(fds[0])
    for fd in fds:
        os.close(fd)
    if flags & socket.MSG_CTRUNC:
        raise SharedMemoryError("handle: could not open another file; close some, or allow more open ones (ulimit -n)")
    raise _gone(address)


def _gone(address: Address) -> SharedMemoryError:
    return SharedMemoryError(
        f"handle: expected process {address.process}, which made it, to run on this machine and to have the buffer, "
        f"got nobody at {address.folder}: it has ended, has let go of the buffer, or runs on another machine or in "
        "another container; use a handle for the first time while that process runs"
    )


def _connect(client: socket.socket, folder: str) -> None:
    """Connect, also where so many others do at once that the queue is full."""
    client.settimeout(ANSWER_SECONDS)
    deadline = time.monotonic() + ANSWER_SECONDS
    with _short(folder) as path:
        while True:
            try:
                return client.connect(path)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError from None
                time.sleep(RETRY_SECONDS)


def _user_of(connection: socket.socket) -> int:
    """Whose process is at the other end."""
    _, user, _ = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return int(user)


@contextlib.contextmanager
def _short(folder: str) -> Iterator[str]:
    """A path to the socket in a folder that fits into 107 bytes, as a socket's must, wherever the folder is."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield f"/proc/self/fd/{fd}/{NAME}"
    finally:
        os.close(fd)


def _leave_all() -> None:
    for server in list(_servers):
        server.leave()
    _lock.release()


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_leave_all)

"""ReplayHandle: a buffer as any process can have it, also one that was not started by this one."""

from __future__ import annotations

import io
import pickle
from typing import Any, NoReturn, Self

from diffreplay.errors import InputError, ReadOnlyError, ReplayError, SharedMemoryError
from diffreplay.loading import Readable, ReplayReader
from diffreplay.sharing.descriptors import Address, DescriptorServer, take
from diffreplay.store import MAGIC, VERSION, Arena, Counter, FrameStore


class ReplayHandle(Readable):
    """A replay buffer for any process of the same user on this machine: `ReplayBuffer.handle()` makes it.

    It pickles to a few kilobytes, by `pickle` and all that builds on it, such as
    `torch.distributed.broadcast_object_list`. Where it is used first, it connects to the process that made it and maps
    the memory of the buffer: from then on it is a reader of the one copy, and keeps that as long as it lives, even when
    the process that wrote it has ended. It samples, counts, and never writes; `make_replay_loader` and `ReplayDataset`
    take it. It may be pickled again anywhere, and be used by threads and in forked processes.

    Like any pickle, one of a handle is to be loaded only where it comes from somebody whom you trust.

    Args:
        address: where the memory is given away.
        pickled: a `ReplayReader` without the memory.
        reader: the same one, where it is at hand.

    Examples:
        >>> handle = replay.handle()
        >>> len(handle), handle.sample(32).reward.shape
        (100, torch.Size([32, 1]))
    """

    def __init__(self, address: Address, pickled: bytes, reader: ReplayReader | None = None) -> None:
        self._address, self._pickled, self._reader = address, pickled, reader

    def __reduce__(self) -> tuple[Any, ...]:
        return ReplayHandle, (self._address, self._pickled)

    @property
    def reader(self) -> ReplayReader:
        """The reader of the buffer in this process.

        Raises:
            SharedMemoryError: the process that made the handle has ended before it was used here, has let go of the
                buffer, or is not of this user or not on this machine; or the codec's class is not to be had here.
        """
        if self._reader is None:
            self._reader = _load(self._pickled, self._address)
        return self._reader

    def handle(self) -> Self:
        """Itself, so that what takes a buffer and asks it for its handle takes a handle, too."""
        return self

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Say that a handle does not write."""
        raise ReadOnlyError(
            "expected the ReplayBuffer, in the process that made it, to add to or save, got a ReplayHandle, which "
            "samples from it and never writes: send there what is to be added"
        )

    add = add_transition = add_batch = save = _refuse


class Shared:
    """The half of `ReplayBuffer` that lets other processes in."""

    reader: ReplayReader
    store: FrameStore
    _server: DescriptorServer | None = None

    def handle(self) -> ReplayHandle:
        """What any process of this user on this machine samples from this buffer with, whoever started it.

        The handle pickles to a few kilobytes, and connects where it is used first: a thread of this process gives the
        memory away on a Unix socket in a folder of its own below `TMPDIR`, which is there as long as the buffer.

        Raises:
            InputError: the codec, one of your own, cannot be pickled.
            ReadOnlyError: this is a process that was forked from the one that made the buffer.
            SharedMemoryError: the system gives no socket.
        """
        pickled = _dump(self.reader)
        return ReplayHandle(self._serving().address, pickled, self.reader)

    def _serving(self) -> DescriptorServer:
        if self._server is not None:
            return self._server
        try:
            self.store.check_owner()
        except ReadOnlyError as error:
            raise ReadOnlyError(
                "handle: expected the process that made the buffer, got one that was forked from it, which serves "
                "nobody: make the handle there, before the fork"
            ) from error
        server = DescriptorServer(self.store.arena.fd, self.store.arena)
        first: DescriptorServer = self.__dict__.setdefault("_server", server)
        if first is not server:  # another thread's
            server.close()
        return first


class _Pickler(pickle.Pickler):
    """Leaves the memory out, but for its size."""

    def persistent_id(self, value: Any) -> int | None:
        return value.nbytes if isinstance(value, Arena) else None


class _Unpickler(pickle.Unpickler):
    """Has the memory given where it was left out."""

    def __init__(self, pickled: bytes, address: Address) -> None:
        super().__init__(io.BytesIO(pickled))
        self._address = address

    def persistent_load(self, nbytes: int) -> Arena:
        return Arena(nbytes, fd=take(self._address))


def _dump(reader: ReplayReader) -> bytes:
    file = io.BytesIO()
    try:
        _Pickler(file).dump(reader)
    except Exception as error:  # anything may come out of code of the user's own
        raise InputError(
            "codec: expected one that can be pickled, as other processes read with it, got "
            f"{reader.frames.codec!r:.200} ({type(error).__name__}: {error}); define its class at the top of a module"
        ) from error
    return file.getvalue()


def _load(pickled: bytes, address: Address) -> ReplayReader:
    try:
        reader: ReplayReader = _Unpickler(pickled, address).load()
    except ReplayError:
        raise
    except Exception as error:
        raise SharedMemoryError(
            "handle: expected this process to import the buffer's codec, and diffreplay of the same version, got "
            f"{type(error).__name__}: {error}; put a codec of your own into a module that both processes can import"
        ) from error
    found = reader.frames.counter(Counter.MAGIC), reader.frames.counter(Counter.VERSION)
    if found != (MAGIC, VERSION):
        raise SharedMemoryError(
            f"handle: expected memory of a buffer of format {VERSION}, got format {found[1]}, magic number {found[0]}"
        )
    return reader

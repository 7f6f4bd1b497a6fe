"""Reaches shards that are Ray actors: calls, chunks under way, and where a shard is by now."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import zstandard

from diffreplay.batch import ReplayBatch
from diffreplay.distributed.coded_windows import CodedWindows
from diffreplay.distributed.mixed import Source
from diffreplay.distributed.shard import Answer
from diffreplay.distributed.writer import ShardGoneError
from diffreplay.errors import EmptyBufferError, InputError, ReplayError, SharedMemoryError
from diffreplay.sharing import ReplayHandle

POLL_SECONDS = 0.05
PATIENCE = 120.0  # seconds to wait for a shard that is being started again
LOOK_SECONDS = 2.0  # between two looks at whether a shard began anew


def ray_module() -> Any:
    """The module `ray`.

    Raises:
        ReplayError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ReplayError(
            "diffreplay.distributed: expected the package ray, which is not installed: pip install 'diffreplay[ray]'"
        ) from error
    return ray


def connected(caller: str) -> Any:
    """The module `ray`, connected to a cluster.

    Raises:
        ReplayError: it is not installed, or not connected.
    """
    ray = ray_module()
    if not ray.is_initialized():
        raise ReplayError(f"{caller}: expected a connection to a Ray cluster, got none: call ray.init() first")
    return ray


class MovingSource:
    """A shard as a source of transitions, wherever it is by now."""

    def __init__(self, shard: SeenShard, local: Source, remote: Source) -> None:
        self._shard, self._local, self._remote = shard, local, remote

    def transitions(self) -> int:
        """How many it holds."""
        self._shard.look()
        return (self._local if self._shard.is_here else self._remote).transitions()

    def draw(self, count: int) -> ReplayBatch | None:
        """So many of them."""
        return (self._local if self._shard.is_here else self._remote).draw(count)


class SentChunk:
    """A chunk that is under way in Ray."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def is_done(self) -> bool:
        """Whether the shard has answered, or will not."""
        return bool(ray_module().wait([self._reference], timeout=0)[0])

    def answer(self) -> Answer:
        """What the shard says.

        Raises:
            ShardGoneError: it does not answer.
        """
        answer: Answer = get(self._reference)
        return answer


def get(reference: Any) -> Any:
    """What an actor's method returns.

    Raises:
        ShardGoneError: it does not, as the actor is not there now.
        ReplayError, OSError: as the method does.
    """
    ray = ray_module()
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, ReplayError | OSError) else error) from None
    except ray.exceptions.RayError as error:
        raise ShardGoneError(str(error).splitlines()[0]) from error


def ask(actor: Any, method: str, *arguments: Any) -> Any:
    """What a method of an actor returns; one that is being started again is waited for.

    Raises:
        ReplayError: it does not come back.
    """
    began = time.monotonic()
    while True:
        try:
            return get(getattr(actor, method).remote(*arguments))
        except ShardGoneError as error:
            if time.monotonic() > began + PATIENCE:
                raise ReplayError(
                    f"service: expected an answer of each shard, got none from one for {PATIENCE:.0f} s ({error}); "
                    "look into Ray's logs for why it does not come back"
                ) from error
            time.sleep(POLL_SECONDS)


def ask_all(actors: list[Any], method: str) -> list[Any]:
    """What a method returns of each actor."""
    return [ask(actor, method) for actor in actors]


class SeenShard:
    """A shard as a learner sees it, again and again when it begins anew, here or elsewhere."""

    def __init__(self, actor: Any) -> None:
        self._actor, self._looked = actor, time.monotonic()
        self._here = ray_module().get_runtime_context().get_node_id()
        self._look: Any = None
        self.is_here = False
        self._life = ""
        self._see(*ask(actor, "here"))

    def _see(self, life: str, node: str, handle: ReplayHandle) -> None:
        """Have the shard be where it was seen; its memory is mapped at once, and stays so when it dies."""
        if life == self._life:
            return
        is_here = node == self._here
        if is_here:
            try:
                handle.can_sample()
            except SharedMemoryError:  # it has died since
                return
        self.is_here, self._life, self._handle = is_here, life, handle

    def look(self) -> None:
        """From time to time, look where the shard is."""
        if self._look is None and time.monotonic() > self._looked + LOOK_SECONDS:
            self._look = self._actor.here.remote()
        if self._look is not None and ray_module().wait([self._look], timeout=0)[0]:
            with suppress(ShardGoneError):
                self._see(*get(self._look))
            self._look, self._looked = None, time.monotonic()

    def replay(self) -> ReplayHandle | None:
        """The handle of a shard on this machine; None while there is none that can be mapped."""
        return self._handle if self._life else None

    def wait(self) -> ReplayHandle:
        """The handle, of a shard that may be starting anew just now.

        Raises:
            ReplayError: it does not come back.
        """
        began = time.monotonic()
        while (handle := self.replay()) is None:
            if time.monotonic() > began + PATIENCE:
                raise ReplayError(
                    f"loader: expected a shard that runs, got one that is away for {PATIENCE:.0f} s; look into Ray's "
                    "logs for why it does not come back"
                )
            time.sleep(POLL_SECONDS)
            self.look()
        return handle

    def windows(self, count: int) -> Any:
        """Ask for so many windows; what is returned waits for them."""
        reference = self._actor.windows.remote(count)

        def arrived() -> CodedWindows | None:
            try:
                found: CodedWindows | None = get(reference)
            except (ShardGoneError, EmptyBufferError):
                return None
            return found

        return arrived

    def reference_set(self, image: int, number: int, life: str) -> bytes | None:
        """The frames of a reference set; None where it has left."""
        try:
            return zstandard.decompress(get(self._actor.reference_set.remote(image, number, life)).frames)
        except (ShardGoneError, InputError):
            return None

"""Adds in an actor's process: frames are coded here, and go to a shard in chunks."""

from __future__ import annotations

import secrets
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import zstandard

from diffreplay.distributed.shard import Answer, NewSet
from diffreplay.distributed.wire import Chunk, pack
from diffreplay.errors import ReplayError
from diffreplay.replay import ReplayBuffer
from diffreplay.snapshots import checksum
from diffreplay.store import NO_ROW, adopt_set, check_origin, export_rows, stream_ends

NEVER = 1 << 60
KEPT_TRANSITIONS = 1 << 15  # of its own store; more than chunks that are under way, and streams that pause
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0  # seconds between two attempts
WARN_AFTER = 15.0  # seconds without an answer


class ShardGoneError(ReplayError):
    """A shard does not answer now, and may do so again."""


class Ticket(Protocol):
    """A chunk that is under way."""

    def is_done(self) -> bool:
        """Whether `answer` returns at once."""

    def answer(self) -> Answer:
        """What the shard says, when it does.

        Raises:
            ShardGoneError: it does not answer; the chunk may be there or not.
        """


class NotSent:
    """A chunk that has yet to be sent."""

    def is_done(self) -> bool:
        """It will not be."""
        return True

    def answer(self) -> Answer:
        """None comes.

        Raises:
            ShardGoneError: always.
        """
        raise ShardGoneError("not sent")


class ReplayWriter:
    """Adds to a shard from another process: made by `Service.writer`, used as a `ReplayBuffer` is.

    Steps are coded in this process, against the reference frames that the shard gave, and sent in chunks, of which few
    are under way at a time: then adding waits. A chunk that was sent twice is stored once. What was added since the
    last chunk is lost when the process dies; `flush` sends it.

    Args:
        name: of the writer, which no other one has; a new process that takes the place of one that died has its name.
        replay: an empty buffer like the shard's, which this one has for itself.
        send: sends the bytes of a chunk.
        chunk_steps: steps in a chunk.
        unacknowledged: chunks that may be under way.
        patience: seconds to wait for a shard that does not answer.

    Examples:
        With Ray running:

        >>> writer = service.writer("actor-3")  # doctest: +SKIP
        >>> writer.add_transition(obs, action, reward, next_obs, terminated, truncated)  # doctest: +SKIP
        >>> writer.flush()  # doctest: +SKIP
    """

    def __init__(
        self,
        name: str,
        replay: ReplayBuffer,
        send: Callable[[bytes], Ticket],
        *,
        chunk_steps: int = 200,
        unacknowledged: int = 3,
        patience: float = 120.0,
    ) -> None:
        self._name, self._replay, self._store, self._send = name, replay, replay.store, send
        check_origin(self._store)
        self._store.planning.check_next([NEVER] * len(self._store.sets))
        self._chunk_steps, self._most, self._patience = chunk_steps, unacknowledged, patience
        self._life, self._lock = secrets.token_hex(8), threading.RLock()
        self._stored = 0  # rows that the shard has told to have
        self._under_way: list[tuple[int, int, Ticket]] = []  # first row, end and ticket of each chunk
        self._ends: dict[int, list[Any]] = {}  # of chunks that are under way, by their first row
        self._sets: list[dict[int, tuple[int, str]]] = [{} for _ in self._store.sets]
        self._newest = [""] * len(self._store.sets)  # digests of the sets that frames are coded against
        self._begins_anew = False
        self.bytes_sent = self.lost_rows = 0

    def add(self, *arguments: Any, **options: Any) -> None:
        """As `ReplayBuffer.add`."""
        self._add(self._replay.add, arguments, options)

    def add_transition(self, *arguments: Any, **options: Any) -> None:
        """As `ReplayBuffer.add_transition`."""
        self._add(self._replay.add_transition, arguments, options)

    def add_batch(self, *arguments: Any, **options: Any) -> None:
        """As `ReplayBuffer.add_batch`."""
        self._add(self._replay.add_batch, arguments, options)

    def flush(self) -> None:
        """Send what was added, and wait until the shard has all of it.

        Raises:
            ReplayError: it does not answer for `patience` seconds.
        """
        with self._lock:
            self._send_rest()
            self._settle(0)

    def _add(self, add: Callable[..., None], arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        with self._lock:
            if len(self._under_way) > self._most:  # a shard was away, and may be so still: then nothing is added
                self._settle(self._most)
            before = self._store.head
            add(*arguments, **options)
            if self._store.head - self._sent() >= self._chunk_steps:
                self._send_rest()
                many = (self._store.head - before) * (self._most + 2) > self._replay.capacity
                self._settle(0 if many else self._most)  # what is under way must not leave our own store

    def _sent(self) -> int:
        """The row after the last one that is in a chunk."""
        return self._under_way[-1][1] if self._under_way else self._stored

    def _send_rest(self) -> None:
        first, end = self._sent(), self._store.head
        if first == end:
            return
        self._ends[first] = stream_ends(self._store, first)
        self._under_way.append((first, end, NotSent()))  # which an interrupt may leave there: then it is sent anew
        self._under_way[-1] = (first, end, self._send_rows(first, end))

    def _send_rows(self, first: int, end: int, missing: tuple[tuple[int, int], ...] = ()) -> Ticket:
        rows = export_rows(self._store, first, end)
        sets = [
            {number: known[number] for number in np.unique(its).tolist() if number != NO_ROW}
            for known, its in zip(self._sets, rows.named.T, strict=True)
        ]
        frames = {(image, own): bytes(self._store.sets[image].frames(own)) for image, own in missing}
        oldest = self._under_way[0][0] if self._under_way else first
        chunk = Chunk(self._name, self._life, oldest, rows, self._ends[first], sets, [*self._newest], frames)
        data = pack(self._store.layout, chunk)
        self.bytes_sent += len(data)
        return self._send(data)

    def _settle(self, most: int) -> None:
        """Hear of chunks until at most so many are under way, and of those that are done."""
        while self._under_way:
            if len(self._under_way) <= (0 if self._begins_anew else most) and not self._under_way[0][2].is_done():
                break
            first, end, ticket = self._under_way[0]
            self._under_way[0] = (first, end, NotSent())  # unless it is stored, it is sent anew, whatever is raised
            try:
                answer = ticket.answer()
            except ShardGoneError:
                answer = None
            if answer is None or not answer.stored:
                self._send_anew(() if answer is None else answer.missing)
            else:
                self._hear(answer)
        if self._begins_anew and not self._under_way:
            # What the shard lost is not known to it: so the next steps come with all of their stacks.
            if self._sent() < self._store.head:
                self._send_rest()
                self._settle(0)
            self._begins_anew = False
            self._store.evict_before(self._store.head)

    def _hear(self, answer: Answer) -> None:
        """Have the oldest chunk under way be the shard's."""
        first, end, _ = self._under_way[0]
        self._stored = end
        del self._under_way[0]
        self._ends.pop(first, None)
        self._begins_anew = self._begins_anew or answer.lost > 0 or answer.cut > 0
        if answer.lost:
            self.lost_rows += answer.lost
            warnings.warn(
                f"writer {self._name!r}: its shard began anew and lost the {answer.lost} steps before step {first} of "
                "this writer, which came after its last snapshot",
                RuntimeWarning,
                stacklevel=5,
            )
        needed = [min(stream.needed) for stream in self._store.streams.values() if stream.is_open and stream.needed]
        self._store.evict_before(min([end, *needed]))
        for image, new in enumerate(answer.sets):
            if new is not None:
                self._learn(image, new)

    def _learn(self, image: int, new: NewSet) -> None:
        """Code an image against a set of the shard's from now on."""
        room = not self._store.sets[image].is_full and self._store.index.has_range(self._store.rows.next)
        if new.digest == self._newest[image] or not room:
            return
        frames = zstandard.decompress(new.frames)
        if checksum(frames) != new.digest:
            return  # damaged on the way: it comes again with the next answer

        def learn() -> None:
            self._store.rows.touched = True
            adopt_set(self._store, frames, self._store.rows.next, image)
            self._store.planning.code_against_newest(image)

        numbers = self._store.sets[image].numbers()
        kept = {own: there for own, there in self._sets[image].items() if own in numbers}
        self._sets[image] = kept | {numbers.stop: (new.number, new.digest)}
        self._store.change(learn, None)
        self._newest[image] = new.digest

    def _send_anew(self, missing: tuple[tuple[int, int], ...]) -> None:
        """Send all chunks that are under way once more, one after the other, until the shard has them."""
        began, wait, warned = time.monotonic(), FIRST_WAIT, False
        while self._under_way:
            first, end, _ = self._under_way[0]
            try:
                answer = self._send_rows(first, end, missing).answer()
            except ShardGoneError as error:
                waited = time.monotonic() - began
                if waited > self._patience:
                    raise ReplayError(
                        f"writer {self._name!r}: expected an answer of its shard, got none for {waited:.0f} s "
                        f"({error}); what was added is kept: go on adding, or call flush, when it is back"
                    ) from error
                if waited > WARN_AFTER and not warned:
                    warned = True
                    warnings.warn(f"writer {self._name!r} waits for its shard: {error}", RuntimeWarning, stacklevel=4)
                time.sleep(wait)
                wait, missing = min(2 * wait, LONGEST_WAIT), ()
                continue
            began, wait = time.monotonic(), FIRST_WAIT
            if answer.stored:
                missing = ()
                self._hear(answer)
            elif answer.missing:
                missing = (*{*missing, *answer.missing},)
            else:
                raise ReplayError(
                    f"writer {self._name!r}: expected its shard to go on at row {first}, got one that expects row "
                    f"{answer.next}"
                )

"""A shard: a buffer that takes in what writers elsewhere coded, each step once."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard

from diffreplay.distributed.coded_windows import CodedWindows, coded_windows
from diffreplay.distributed.wire import Chunk, unpack
from diffreplay.errors import CorruptDataError, InputError, ReplayError
from diffreplay.replay import ReplayBuffer
from diffreplay.sharing import ReplayHandle
from diffreplay.snapshots import MANIFEST, checksum
from diffreplay.store import NO_ROW, Origin, StoredRows, check_origin, close_streams, recode, take_in

SAVED_RUNS = 16  # of each writer, into which it may link when the shard begins anew
TELL_AGAIN = 8  # chunks after which a set is sent once more, where the writer does not know of it
SETS_LEVEL = 9  # of zstd, in which reference sets travel: their frames are much alike


class NewSet(NamedTuple):
    """A reference set on its way to a writer or a learner: frames end to end, in zstd."""

    number: int
    digest: str
    frames: bytes


class Answer(NamedTuple):
    """What a writer is told of a chunk.

    Attributes:
        stored: whether the shard holds its rows now, or held them already.
        next: the writer's row that the shard expects next.
        lost: rows of the writer before these that the shard held once, and holds no more.
        cut: streams whose episode was cut before these rows, as the step before is not there or too far back.
        missing: (image, set as the writer numbers it) of the sets whose frames must come with the rows.
        sets: of each image a newer set than the writer knows, or None.
    """

    stored: bool
    next: int
    lost: int = 0
    cut: int = 0
    missing: tuple[tuple[int, int], ...] = ()
    sets: tuple[NewSet | None, ...] = ()


class Known(NamedTuple):
    """What a shard knows of a writer."""

    life: str
    origin: Origin


class Shard:
    """A buffer, and how far each of its writers is.

    Args:
        capacity: as of `ReplayBuffer`.
        observation_shape: likewise.
        action_shape: likewise.
        directory: of its snapshots; where there is one, it begins with that.
        save_every: seconds between two snapshots; None to save when told alone.
        shards: how many there are.
        options: others of `ReplayBuffer`.

    Examples:
        >>> shard = diffreplay.distributed.Shard(1000, (9, 84, 84), (6,))
        >>> shard.stats()["transitions"]
        0
    """

    def __init__(
        self,
        capacity: int,
        observation_shape: Any,
        action_shape: tuple[int, ...],
        *,
        directory: str | None = None,
        save_every: float | None = None,
        shards: int = 1,
        **options: Any,
    ) -> None:
        self.life = secrets.token_hex(8)
        self._described = shards, (observation_shape, action_shape), options
        self._directory, self._save_every, self._saved = directory, save_every, time.monotonic()
        self._counts = {
            "chunks": 0,
            "bytes_in": 0,
            "bytes_out": 0,
            "lost_rows": 0,
            "cut_streams": 0,
            "recoded_rows": 0,
            "failed_saves": 0,
        }
        self.replay = ReplayBuffer(capacity, observation_shape, action_shape, **options)
        if directory is not None and (Path(directory) / MANIFEST).exists():
            self.replay = _loaded(directory, self.replay)
        check_origin(self.replay.store)
        self._writers = {
            name: Known(life, Origin(after, tuple((a, b, c) for a, b, c in runs)))
            for name, (life, after, runs) in self.replay.notes.get("writers", {}).items()
        }
        self._digests: dict[tuple[int, int], str] = {}
        self._told: dict[tuple[str, int], list[Any]] = {}  # by writer and image: a set, and chunks since it was sent
        self._past: set[str] = set()  # lives of writers that were made anew
        self._rng = np.random.default_rng()

    def take(self, data: bytes) -> Answer:
        """Take in a chunk, unless it is here already.

        Raises:
            CorruptDataError: it was damaged on the way, or is none of a buffer like this one.
            InputError: it holds more rows than the shard does, or the writer of that name was made anew elsewhere.
        """
        chunk = unpack(self.replay.store.layout, data)
        self._counts["chunks"] += 1
        self._counts["bytes_in"] += len(data)
        answer = self._take(chunk)
        self._counts["bytes_out"] += sum(len(each.frames) for each in answer.sets if each)
        if self._save_every is not None and time.monotonic() > self._saved + self._save_every:
            try:
                self.save()
            except (OSError, ReplayError) as error:  # the chunk is stored, and its writer can do nothing about this
                self._counts["failed_saves"] += 1
                warnings.warn(f"shard: a snapshot could not be saved: {error}", RuntimeWarning, stacklevel=2)
        return answer

    def _take(self, chunk: Chunk) -> Answer:
        origin, first = self._origin(chunk), chunk.rows.first
        if chunk.end <= origin.next:
            return Answer(True, origin.next, sets=self._newer_sets(chunk))
        if first < origin.next:
            raise CorruptDataError(f"expected rows from row {origin.next} on, got those from {first} to {chunk.end}")
        if first > origin.next and first > chunk.oldest:
            return Answer(False, origin.next)
        rows, missing = self._numbered(chunk)
        if missing:
            return Answer(False, origin.next, missing=missing)
        ends = [(json.dumps([chunk.writer, name]), row, is_open) for name, row, is_open in chunk.streams]
        lost = first - origin.next
        origin, cut = take_in(self.replay.store, origin, rows, ends, self.replay.capacity)
        self._counts["lost_rows"] += lost
        self._counts["cut_streams"] += cut
        self._writers[chunk.writer] = Known(chunk.life, origin)
        return Answer(True, origin.next, lost, cut, sets=self._newer_sets(chunk))

    def _origin(self, chunk: Chunk) -> Origin:
        """How far the writer is; one that was made anew begins anew, and the episodes of the one before are over."""
        known = self._writers.get(chunk.writer)
        if known is None:
            return Origin()
        if known.life != chunk.life:
            if chunk.life in self._past:
                raise InputError(
                    f"writer: expected one of the name {chunk.writer!r}, got two: one was made after this one; give "
                    "every actor a name of its own"
                )
            self._past.add(known.life)
            names = list(self.replay.store.streams)
            close_streams(self.replay.store, [name for name in names if json.loads(name)[0] == chunk.writer])
            self._writers[chunk.writer] = Known(chunk.life, Origin())
            return Origin()
        return known.origin

    def _numbered(self, chunk: Chunk) -> tuple[StoredRows, tuple[tuple[int, int], ...]]:
        """The rows with the sets as they are numbered here; and which sets are not here, nor in the chunk.

        Frames that are coded against one that is not here are coded anew.
        """
        store, rows, missing = self.replay.store, chunk.rows, []
        given, named = rows.named, np.full(rows.lengths.shape, NO_ROW)
        foreign = []
        pairs = [(k, own) for k, column in enumerate(given.T) for own in np.unique(column).tolist() if own != NO_ROW]
        for image, own in pairs:
            if own not in chunk.sets[image]:
                raise CorruptDataError(f"expected a chunk that says which sets its rows name, got none for set {own}")
            number, of = chunk.sets[image][own]
            which = given[:, image] == own
            if number in store.sets[image].numbers() and self._digest(image, number) == of:
                named[which, image] = number
            elif (image, own) in chunk.frames:
                foreign.append((image, own, which))
            else:
                missing.append((image, own))
        rows = rows._replace(sets=named)
        for image, own, which in () if missing else foreign:
            opened = store.codec.open_set(chunk.frames[image, own], store.layout.images[image].frame_shape)
            rows = recode(store, image, rows, which, opened, store.sets[image].coding_set)
            self._counts["recoded_rows"] += int(which.sum())
        return rows, tuple(missing)

    def _digest(self, image: int, number: int) -> str:
        found = self._digests.get((image, number))
        if found is None:
            found = self._digests[image, number] = checksum(self.replay.store.sets[image].frames(number))
        return found

    def _newer_sets(self, chunk: Chunk) -> tuple[NewSet | None, ...]:
        """The sets that the writer should code against from now on, where it does not know of them."""
        found: list[NewSet | None] = []
        for image, sets in enumerate(self.replay.store.sets):
            numbers, told = sets.numbers(), self._told.setdefault((chunk.writer, image), ["", 0])
            newest = self._digest(image, numbers[-1]) if numbers else ""
            told[1] += 1
            # Chunks that were under way when the writer was told do not say so yet.
            is_told = newest == told[0] and told[1] < TELL_AGAIN
            if not numbers or newest == chunk.known[image] or is_told:
                found.append(None)
                continue
            told[:] = newest, 0
            found.append(self.reference_set(image, numbers[-1]))
        return tuple(found)

    def reference_set(self, image: int, number: int, life: str | None = None) -> NewSet:
        """A reference set of an image; with `life`, as it was numbered then.

        Raises:
            InputError: it has left.
        """
        sets = self.replay.store.sets[image]
        if life not in (None, self.life):
            raise InputError(f"life: expected {self.life}, as the shard began anew, got {life}")
        if number not in sets.numbers():
            raise InputError(f"number: expected one of the sets {sets.numbers()}, got {number}")
        frames = bytes(sets.frames(number))
        return NewSet(number, checksum(frames), zstandard.compress(frames, SETS_LEVEL))

    def windows(self, count: int) -> CodedWindows | None:
        """Transitions drawn uniformly, with their frames as they are stored; None while there is none."""
        if not self.replay.can_sample():
            return None
        return coded_windows(self.replay.reader, count, self._rng, self.life)

    def save(self, directory: str | Path | None = None) -> str | None:
        """Save a snapshot, to the shard's own directory by default; the commit that holds it, or None without one."""
        target = directory if directory is not None else self._directory
        if target is None:
            return None
        self._saved, tail = time.monotonic(), self.replay.store.tail
        saved = {}
        for writer, (life, origin) in self._writers.items():
            runs = [run for run in origin.runs if run[2] + run[1] - run[0] > tail]
            saved[writer] = [life, origin.next, runs[-SAVED_RUNS:]]
        self.replay.notes["writers"] = saved
        return self.replay.save(target)

    def here(self) -> tuple[str, str, ReplayHandle]:
        """Its life, the node of the cluster that it is on, and what processes of that machine sample with."""
        return self.life, _node(), self.replay.handle()

    def stats(self) -> dict[str, Any]:
        """Counts and bytes of the buffer, as of `ReplayStats`, and what came over the network."""
        process = {"life": self.life, "writers": len(self._writers), "pid": os.getpid()}
        return asdict(self.replay.stats()) | self._counts | process | {"can_sample": self.replay.can_sample()}

    def described(self) -> tuple[int, tuple[Any, tuple[int, ...]], dict[str, Any]]:
        """How many shards there are, and the arguments of their buffers besides capacity."""
        return self._described

    def writers(self) -> list[str]:
        """The names of all that have sent something."""
        return list(self._writers)


def _loaded(directory: str, like: ReplayBuffer) -> ReplayBuffer:
    """The buffer that was saved; what is damaged is left out, with a warning.

    Raises:
        InputError: it holds other things than a buffer like this one.
    """
    replay = ReplayBuffer.load(directory, codec=like.codec, skip_damaged=True, max_bytes=like.max_bytes)
    for name in ("capacity", "parts", "action_shape", "action_dtype", "extras", "nstep", "discount", "shorter_at_end"):
        saved, wanted = getattr(replay, name), getattr(like, name)
        if saved != wanted:
            raise InputError(
                f"{name}: expected {saved!r}, with which {directory} was saved, got {wanted!r}; give another directory "
                "to begin anew"
            )
    return replay


def _node() -> str:
    """The node of the cluster that this process is on; "" outside of one."""
    ray = sys.modules.get("ray")
    return str(ray.get_runtime_context().get_node_id()) if ray is not None and ray.is_initialized() else ""

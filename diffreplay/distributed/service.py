"""Shards as Ray actors: started, found by name, added to, sampled from."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffreplay import checks
from diffreplay.batch import ReplayBatch, SequenceBatch
from diffreplay.distributed.coded_windows import WindowDecoder
from diffreplay.distributed.mixed import LocalSource, MixedBatches, RemoteSource, Source
from diffreplay.distributed.reaching import (
    POLL_SECONDS,
    MovingSource,
    SeenShard,
    SentChunk,
    ask,
    ask_all,
    connected,
    ray_module,
)
from diffreplay.distributed.shard import Shard
from diffreplay.distributed.writer import KEPT_TRANSITIONS, ReplayWriter
from diffreplay.errors import InputError, ReplayError
from diffreplay.loading import make_replay_loader
from diffreplay.replay import ReplayBuffer
from diffreplay.snapshots import checksum

CLOSE_SECONDS = 5.0  # for a shard to end by itself


def start(
    capacity: int,
    observation_shape: Any,
    action_shape: tuple[int, ...],
    *,
    shards: int = 1,
    name: str | None = None,
    directory: str | Path | None = None,
    save_every: float | None = None,
    **options: Any,
) -> Service:
    """Start shards on the Ray cluster that this process is connected to: one on this machine, then one on each other.

    Args:
        capacity: transitions kept, by all shards together.
        observation_shape: as of `ReplayBuffer`.
        action_shape: likewise.
        shards: how many.
        name: to find them by, see `connect`; they outlive this process then, until `Service.close`.
        directory: for snapshots, a folder of each shard in it; on a file system that all machines see, where a shard
            may begin anew on another one. Shards that find a snapshot there go on from it.
        save_every: seconds between two snapshots; None to save when `Service.save` is called alone.
        options: others of `ReplayBuffer`.

    Raises:
        InputError: an argument makes no sense.
        ReplayError: Ray is not installed, or not connected to, or a shard does not start.

    Examples:
        With Ray running:

        >>> ray.init()  # doctest: +SKIP
        >>> service = diffreplay.distributed.start(1000, (9, 84, 84), (6,), shards=2)  # doctest: +SKIP
    """
    ray = connected("distributed.start")
    capacity, shards = checks.positive("capacity", capacity), checks.positive("shards", shards)
    each = -(-capacity // shards)
    ReplayBuffer(each, observation_shape, action_shape, **options)  # so that what makes no sense is refused here
    here = ray.get_runtime_context().get_node_id()
    nodes = [here, *(node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here)]
    actors = []
    for k in range(shards):
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(nodes[k % len(nodes)], soft=True)
        # An actor that takes nothing would be put anywhere, whatever is asked for.
        remote: dict[str, Any] = {"scheduling_strategy": affinity, "num_cpus": 0.01}
        if name is not None:
            remote |= {"name": f"{name}/{k}", "namespace": "diffreplay", "lifetime": "detached"}
        own = None if directory is None else str(Path(directory).absolute() / f"shard-{k}")
        actor = ray.remote(Shard).options(max_restarts=-1, **remote)
        placed = {"directory": own, "save_every": save_every, "shards": shards}
        actors.append(actor.remote(each, observation_shape, action_shape, **placed, **options))
    try:
        ray.get([actor.stats.remote() for actor in actors])
    except ray.exceptions.RayError as error:
        told = str(error).strip().splitlines() or [repr(error)]
        raise ReplayError(
            f"distributed.start: expected shards that start, got one that does not: {told[-1]}"
        ) from error
    return Service(actors, ((observation_shape, action_shape), options))


def connect(name: str) -> Service:
    """The shards that were started with a name, by any process of the cluster.

    Raises:
        ReplayError: there are none.

    Examples:
        With Ray running:

        >>> service = diffreplay.distributed.connect("my-replay")  # doctest: +SKIP
    """
    ray = connected("distributed.connect")
    try:
        actors = [ray.get_actor(f"{name}/0", namespace="diffreplay")]
        shards, *arguments = ask(actors[0], "described")
        actors += [ray.get_actor(f"{name}/{k}", namespace="diffreplay") for k in range(1, shards)]
    except ValueError as error:
        raise ReplayError(f"name: expected that of shards which are running, got {name!r}: {error}") from error
    return Service(actors, (arguments[0], arguments[1]))


class Service:
    """Shards, for whoever adds to them or samples: `start` makes it. It pickles small, to any process of the cluster.

    Examples:
        With Ray running:

        >>> writer = service.writer("actor-3")  # doctest: +SKIP
        >>> batch = next(service.loader(batch_size=256))  # doctest: +SKIP
    """

    def __init__(self, actors: list[Any], arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        self._actors, self._arguments = actors, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return Service, (self._actors, self._arguments)

    def writer(
        self, name: str, *, chunk_steps: int = 200, unacknowledged: int = 3, patience: float = 120.0
    ) -> ReplayWriter:
        """Adds to one of the shards, from any process of the cluster.

        Args:
            name: which no other writer has; of a process that takes the place of one that died, the name of that.
            chunk_steps: steps in a chunk: what an actor that dies loses, at most.
            unacknowledged: chunks that may be under way.
            patience: seconds to wait for a shard that does not answer.

        Raises:
            InputError: an argument makes no sense.
        """
        chunk_steps = checks.positive("chunk_steps", chunk_steps)
        unacknowledged = checks.positive("unacknowledged", unacknowledged)
        if 2 * chunk_steps * (unacknowledged + 1) > KEPT_TRANSITIONS:
            raise InputError(
                f"chunk_steps: expected at most {KEPT_TRANSITIONS // (2 * unacknowledged + 2)} with {unacknowledged} "
                f"chunks under way, got {chunk_steps}"
            )
        actor = self._actors[_shard_for(name, ask_all(self._actors, "writers"))]
        return ReplayWriter(
            name,
            self._empty(KEPT_TRANSITIONS),
            lambda data: SentChunk(actor.take.remote(data)),
            chunk_steps=chunk_steps,
            unacknowledged=unacknowledged,
            patience=patience,
        )

    def loader(
        self, batch_size: int = 256, *, num_workers: int = 0, seed: int = 0, **options: Any
    ) -> Iterator[ReplayBatch | SequenceBatch]:
        """Endless batches of the transitions of all shards, of each shard in proportion to what it holds.

        Shards on this machine are mapped: nothing of what is sampled goes through Ray. Of shards elsewhere coded
        windows come, and are decoded here. A shard that began anew is found again, but for the options below.

        Args:
            batch_size: transitions in a batch.
            num_workers: as of `make_replay_loader`; of one shard, on this machine.
            seed: of the draws.
            options: others of `make_replay_loader`, such as sequence_length or priorities; likewise.

        Raises:
            InputError: the options take one shard on this machine, and there are others.
        """
        size = checks.positive("batch_size", batch_size)
        shards = [SeenShard(actor) for actor in self._actors]
        if num_workers or options:
            handle = shards[0].wait()
            if len(shards) > 1 or not shards[0].is_here:
                named = ", ".join([*(["num_workers"] if num_workers else []), *options])
                raise InputError(
                    f"{named}: expected one shard, on the learner's machine, got {len(shards)}; start "
                    "with shards=1, or leave these out"
                )
            return iter(make_replay_loader(handle, size, num_workers, seed=seed, **options))
        rng = np.random.default_rng(seed)
        sources: list[Source] = []
        for k, shard in enumerate(shards):
            decoder = WindowDecoder(self._empty(1 << 10).reader)
            remote = RemoteSource(shard.windows, shard.reference_set, decoder, k, size)
            sources.append(MovingSource(shard, LocalSource(shard.replay, k, rng), remote))
        return MixedBatches(sources, size, rng, lambda: time.sleep(POLL_SECONDS))

    def stats(self) -> list[dict[str, Any]]:
        """Of each shard the fields of `ReplayStats`, `can_sample`, and what was counted since it began.

        These are `chunks` that came, `bytes_in` and `bytes_out`, `recoded_rows` that did not fit a reference set,
        `lost_rows` and `cut_streams` of a shard that began anew, `failed_saves`, and `writers`. `life` differs each
        time it begins; `pid` is its process.
        """
        found: list[dict[str, Any]] = ask_all(self._actors, "stats")
        return found

    def save(self, directory: str | Path | None = None) -> None:
        """Save a snapshot of each shard, to a folder of its own in `directory`, or in that of `start`."""
        folder = None if directory is None else Path(directory).absolute()
        for k, actor in enumerate(self._actors):
            ask(actor, "save", None if folder is None else str(folder / f"shard-{k}"))

    def close(self) -> None:
        """End the shards; what was not saved is gone."""
        ray = ray_module()
        # A process that is killed leaves the folder of its handle behind.
        ray.wait([actor.__ray_terminate__.remote() for actor in self._actors], timeout=CLOSE_SECONDS)
        for actor in self._actors:
            ray.kill(actor)

    def _empty(self, capacity: int) -> ReplayBuffer:
        """An empty buffer like the shards'."""
        (observation_shape, action_shape), options = self._arguments
        return ReplayBuffer(capacity, observation_shape, action_shape, **{**options, "max_bytes": None})


def _shard_for(writer: str, known: list[list[str]]) -> int:
    """The shard that knows a writer, else one of those with the fewest: many writers ask at the same time."""
    for number, names in enumerate(known):
        if writer in names:
            return number
    fewest = min(map(len, known))
    among = [number for number, names in enumerate(known) if len(names) == fewest]
    numbered = re.search(r"\d+$", writer)  # actor-0, actor-1, ... go to the shards in turns
    return among[(int(numbered[0]) if numbered else int(checksum(writer.encode()), 16)) % len(among)]

"""What a shard takes in, and what crosses the network for it: coded steps of recordings, without a network between.

    python -m benchmarks.shard

Two writers play a recording into a shard; then the chunks that they sent are taken in once more by a fresh one, timed,
alone and while another process samples from it. A second table multiplies the measured figures: what a run of many
actors and shards would need.
"""

from __future__ import annotations

import multiprocessing
import time
from itertools import islice
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np

from benchmarks.playback import ACTION_DIM, Playback
from benchmarks.recordings import Recording
from benchmarks.runner import BATCH, Report, chosen, parser
from diffreplay.distributed import ReplayWriter, Shard

STEPS = 60_000  # of both writers
ACTORS, FRAMES, SHARDS, STEPS_A_SECOND = 10_000, 10_000_000_000, 100, 60


class Direct:
    """An answer that is there at once."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def is_done(self) -> bool:
        return True

    def answer(self) -> Any:
        return self._answer


def record(playback: Playback, steps: int) -> tuple[list[bytes], dict[str, Any]]:
    """The chunks of two writers, and what the shard that took them in says."""
    shard, chunks = make_shard(playback), []

    def send(data: bytes) -> Direct:
        chunks.append(data)
        return Direct(shard.take(data))

    writers = [ReplayWriter(f"actor-{k}", playback.buffer(1 << 15), send) for k in range(2)]
    plays = [islice(playback.steps(k), steps) for k in range(2)]
    for pair in zip(*plays, strict=True):
        for writer, step in zip(writers, pair, strict=True):
            writer.add(step)
    for writer in writers:
        writer.flush()
    playback.check(shard.replay.sample(BATCH))
    return chunks, shard.stats()


def make_shard(playback: Playback) -> Shard:
    """An empty shard for the steps of a recording."""
    shape, stack = playback.observation_shape, playback.recording.frame_stack
    return Shard(2 * STEPS, shape, (ACTION_DIM,), frame_stack=stack)


def take_in(playback: Playback, chunks: list[bytes], sampling: bool) -> tuple[float, float, float]:
    """Steps a second of the shard's processor time; batches a second of another process before and meanwhile."""
    shard = make_shard(playback)
    half = len(chunks) // 2
    for data in chunks[:half]:
        shard.take(data)
    rates = multiprocessing.SimpleQueue()  # type: ignore[var-annotated]
    busy, over = multiprocessing.Event(), multiprocessing.Event()
    process = multiprocessing.get_context("fork").Process(target=_sample, args=(shard.replay, rates, busy, over))
    if sampling:
        process.start()
        time.sleep(2)
        busy.set()
    rows, began = len(shard.replay), time.process_time()
    for data in chunks[half:]:
        shard.take(data)
    speed = (len(shard.replay) - rows) / (time.process_time() - began)
    over.set()
    before, meanwhile = rates.get() if sampling else (0.0, 0.0)
    if sampling:
        process.join()
    return speed, before, meanwhile


def _sample(replay: Any, rates: Any, busy: Event, over: Event) -> None:
    """Sample until it is over; batches a second of processor time before `busy` and after."""
    rng, found = np.random.default_rng(0), []
    for until in (busy, over):
        count, began = 0, time.process_time()
        while not until.is_set() or not count:
            replay.reader.sample(BATCH, rng)
            count += 1
        found.append(count / (time.process_time() - began))
    rates.put(tuple(found))


def measure(recording: Recording) -> dict[str, float]:
    """All figures of a recording, by name."""
    playback = Playback(recording)
    chunks, stats = record(playback, STEPS // 2)
    steps = STEPS
    stack = recording.frame_stack * recording.episodes[0][0].nbytes  # of the same images
    crossed = stats["bytes_in"] + stats["bytes_out"]
    coded = stats["payload_bytes"] + stats["scalar_bytes"] + stats["index_bytes"] + stats["reference_bytes"]
    alone = [take_in(playback, chunks, False)[0] for _ in range(3)]
    beside = [take_in(playback, chunks, True) for _ in range(3)]
    return {
        "bytes a step on the network": crossed / steps,
        "bytes a step as stacks": float(stack),
        "times smaller": stack * steps / crossed,
        "network / stored": crossed / coded,
        "steps a second": float(np.median(alone)),
        "sampling meanwhile / alone": float(np.median([meanwhile / before for _, before, meanwhile in beside])),
        "stored bytes a step": stats["total_bytes"] / steps,
    }


def sized(figures: dict[str, float]) -> list[tuple[str, float]]:
    """What a run of many actors would need, from the measured figures."""
    steps = ACTORS * STEPS_A_SECOND
    return [
        ("steps a second, all actors", float(steps)),
        ("Gbit/s into a shard", 8e-9 * steps * figures["bytes a step on the network"] / SHARDS),
        ("Gbit/s into a shard, as stacks", 8e-9 * steps * figures["bytes a step as stacks"] / SHARDS),
        ("cores of a shard that take in", steps / SHARDS / figures["steps a second"]),
        ("GB of a shard", 1e-9 * FRAMES * figures["stored bytes a step"] / SHARDS),
        ("GB of a shard, as stacks", 1e-9 * FRAMES * figures["bytes a step as stacks"] / SHARDS),
    ]


def main(argv: list[str] | None = None) -> None:
    """Measure the recordings that the command line names."""
    args = parser(__doc__, "walker_walk_gray").parse_args(argv)
    with Report("benchmarks.shard", args, argv) as report:
        report.describe()
        for recording in chosen(args):
            figures = measure(recording)
            report.table((recording.name, "value"), figures.items())
            report.table((f"{ACTORS} actors, {FRAMES:.0e} frames, {SHARDS} shards", "value"), sized(figures))


if __name__ == "__main__":
    main()

"""What a buffer really takes: growth of the process's proportional set size (PSS) beside `stats().total_bytes`.

Every case runs in a new process, and growth counts from before the buffer was made: everything that the library
allocates is in it.

- No option: a table for each codec, and where the bytes are; noise; and ten times the capacity.
- `--million`: one million transitions of recorded and mirrored frames.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import Any

import numpy as np

import diffreplay
from benchmarks.common import BATCH, chosen, machine, mapped_pss, parser, print_table, process_ms, pss
from benchmarks.playback import Playback
from benchmarks.recordings import Recording

MB = 1e6
NAMES = ("walker_walk_gray", "walker_walk_rgb", "atari_Pong")
PARTS = ("payload", "references", "index", "scalars", "slack and writer's copies")
HEADER = ("ratio", "total_bytes MB", "PSS growth MB", "growth / total", "after 200 batches MB", *PARTS)
NOISE_FRAMES = 2_000
SMALL = 10_000  # transitions of the buffer that sampling from a large one is compared with
ARENA = "memfd:diffreplay"


def in_new_process(call: Callable[..., Any], *args: Any) -> Any:
    """The result of a call in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *args).result()


def warm(playback: Playback, steps: int) -> int:
    """Let the source of steps take the memory that it needs; the PSS of the process then."""
    for _ in islice(playback.steps(), steps):
        pass
    gc.collect()
    return pss()


def fill(recording: Recording, codec: str, transitions: int) -> tuple[Any, ...]:
    """The values of HEADER, sizes in MB; parts as shares of total_bytes."""
    playback = Playback(recording)
    before = warm(playback, 2 * recording.frames)
    replay = playback.buffer(transitions, codec)
    for step in islice(playback.steps(), transitions):
        replay.add(step)
    gc.collect()
    grown = pss() - before
    for _ in range(200):
        replay.sample(BATCH)
    sampled = pss() - before
    playback.check(replay.sample(BATCH))
    stats = replay.stats()
    parts = [stats.payload_bytes, stats.reference_bytes, stats.index_bytes, stats.scalar_bytes]
    parts.append(stats.total_bytes - sum(parts))
    shares = [f"{part / stats.total_bytes:.1%}" for part in parts]
    ratio = stats.transitions * recording.stacked_bytes / stats.observation_bytes
    total = stats.total_bytes
    return ratio, total / MB, grown / MB, f"{grown / total:.3f}", sampled / MB, *shares


def lap(recording: Recording, codec: str, capacity: int) -> tuple[float, ...]:
    """PSS growth and total_bytes in MB when full for the first time, and the largest later, up to 10 x capacity."""
    playback = Playback(recording)
    before = warm(playback, 2 * recording.frames)
    replay = playback.buffer(capacity, codec)
    sizes = []
    steps = playback.steps()
    for _ in range(10):
        for step in islice(steps, capacity):
            replay.add(step)
        gc.collect()
        sizes.append(((pss() - before) / MB, replay.stats().total_bytes / MB))
    playback.check(replay.sample(BATCH))
    (grown, total), later = sizes[0], np.max(sizes[1:], axis=0)
    return grown, float(later[0]), total, float(later[1])


def noise(channels: int, codec: str) -> tuple[float, float]:
    """Bytes that frames of noise take, as multiples of their raw bytes: coded, and all that the buffer allocated."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (NOISE_FRAMES, channels, 84, 84), np.uint8)
    playback = Playback(Recording("noise_gray", [frames]))
    replay = playback.buffer(NOISE_FRAMES, codec)
    for step in islice(playback.steps(), NOISE_FRAMES):
        replay.add(step)
    playback.check(replay.sample(BATCH))
    stats = replay.stats()
    return stats.payload_bytes / frames.nbytes, stats.total_bytes / frames.nbytes


def million(recording: Recording, transitions: int, shifts: int) -> Iterator[tuple[str, Any]]:
    """What filling and sampling a large buffer costs."""
    playback = Playback(recording, shifts)
    costs = np.zeros(transitions + transitions // 10)
    before = warm(playback, 2 * recording.frames)
    replay = playback.buffer(transitions)
    added = 0
    for step in playback.steps():
        start = time.process_time()
        replay.add(step)
        costs[added] = time.process_time() - start
        added += 1
        if len(replay) >= transitions:
            break
    gc.collect()
    grown, arena = pss() - before, mapped_pss(ARENA)
    stats = replay.stats()
    yield "transitions", stats.transitions
    yield "PSS growth, GB", f"{grown / 1e9:.3f}"
    yield "of it shared memory, GB", f"{arena / 1e9:.3f}"
    yield "stats().total_bytes, GB", f"{stats.total_bytes / 1e9:.3f}"
    yield "PSS growth / total_bytes", f"{grown / stats.total_bytes:.3f}"
    yield "bytes a frame, references and index included", stats.observation_bytes / stats.frames
    yield "of them references", stats.reference_bytes / stats.frames
    yield "ratio to stacks", stats.transitions * recording.stacked_bytes / stats.observation_bytes
    yield "add us, mean", 1e6 * float(costs[:added].mean())
    yield "add us, 99th percentile", 1e6 * float(np.percentile(costs[:added], 99))
    yield "add ms, largest", 1e3 * float(costs[:added].max())
    # A buffer that is full of the same last steps, sampled in turns with the large one.
    few = min(SMALL, transitions)
    small = playback.buffer(few)
    for step in islice(playback.steps(), 2 * few):
        small.add(step)
    large_ms, small_ms = process_ms([lambda: replay.sample(BATCH), lambda: small.sample(BATCH)], repeats=100)
    for _ in range(4):
        playback.check(replay.sample(BATCH))
    yield f"batch ms at {transitions} transitions", large_ms
    yield f"batch ms at {few} transitions", small_ms
    yield "their quotient", f"{large_ms / small_ms:.2f}"


def fill_million(recording: Recording, transitions: int, shifts: int) -> list[tuple[str, Any]]:
    """`million`, as a list that can be sent between processes."""
    return list(million(recording, transitions, shifts))


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    options = parser(__doc__, *NAMES)
    options.add_argument("--transitions", type=int, help="to fill with (20,000; with --million 1,000,000)")
    options.add_argument("--million", action="store_true", help="only the large buffer, of the first recording")
    options.add_argument("--shifts", type=int, default=1, help="with --million: row shifts of the frames (%(default)s)")
    options.add_argument("--codecs", nargs="*", default=sorted(diffreplay.codecs.REGISTRY))
    args = options.parse_args(argv)
    print(f"{machine()}\n")
    recordings = list(chosen(args))
    transitions = args.transitions or (1_000_000 if args.million else 20_000)
    if args.million:
        rows = in_new_process(fill_million, recordings[0], transitions, args.shifts)
        print_table((f"{recordings[0].name}, {args.shifts} row shift(s)", "value"), rows)
        return
    cases = [(recording, codec) for recording in recordings for codec in args.codecs]
    print_table(
        (f"{transitions} transitions", *HEADER),
        ((f"{r.name}, {codec}", *in_new_process(fill, r, codec, transitions)) for r, codec in cases),
    )
    capacity = max(transitions // 4, 2)
    print()
    print_table(
        (
            f"capacity {capacity}",
            "PSS, full once, MB",
            "at most until 10 x, MB",
            "total_bytes, once",
            "at most until 10 x",
        ),
        ((f"{r.name}, {codec}", *in_new_process(lap, r, codec, capacity)) for r, codec in cases),
    )
    print()
    print_table(
        (f"{NOISE_FRAMES} frames of noise", "coded / raw", "total_bytes / raw"),
        ((f"{c} channel(s), {codec}", *map("{:.4f}".format, noise(c, codec))) for c in (1, 3) for codec in args.codecs),
    )


if __name__ == "__main__":
    main()

"""What a buffer really takes: growth of the process's proportional set size (PSS) beside `stats().total_bytes`.

Every case runs in a new process, and growth counts from before the buffer was made: everything that the library
allocates is in it.

- No option: a table for each codec, and where the bytes are; noise; and ten times the capacity.
- `--million`: one million transitions of recorded and mirrored frames.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

import diffreplay
from benchmarks.playback import Playback
from benchmarks.processes import in_new_process, pss
from benchmarks.recordings import Recording
from benchmarks.runner import BATCH, Ratio, Report, Share, chosen, parser
from benchmarks.timing import in_turns, quartiles, timed_adds

MB, GB = 1e6, 1e9
NAMES = ("walker_walk_gray", "walker_walk_rgb", "atari_Pong")
PARTS = ("payload", "references", "index", "scalars", "slack and writer's copies")
HEADER = ("ratio", "total_bytes MB", "PSS growth MB", "growth / total", "after 200 batches MB", *PARTS)
NOISE_FRAMES = 2_000
SMALL = 10_000  # transitions of the buffer that sampling from a large one is compared with
ARENA = "memfd:diffreplay"


def fill(recording: Recording, codec: str, transitions: int) -> tuple[Any, ...]:
    """The values of HEADER, sizes in MB; parts as shares of total_bytes."""
    playback = Playback(recording)
    playback.warm()
    before = pss()
    replay = playback.filled(transitions, codec)
    gc.collect()
    grown = pss() - before
    for _ in range(200):
        replay.sample(BATCH)
    sampled = pss() - before
    playback.check(replay.sample(BATCH))
    stats = replay.stats()
    parts = [stats.payload_bytes, stats.reference_bytes, stats.index_bytes, stats.scalar_bytes]
    parts.append(stats.total_bytes - sum(parts))
    shares = [Share(part / stats.total_bytes) for part in parts]
    ratio = stats.transitions * recording.stacked_bytes / stats.observation_bytes
    total = stats.total_bytes
    return ratio, total / MB, grown / MB, Ratio(grown / total), sampled / MB, *shares


def lap(recording: Recording, codec: str, capacity: int) -> tuple[float, ...]:
    """PSS growth and total_bytes in MB when full for the first time, and the largest later, up to 10 x capacity."""
    playback = Playback(recording)
    playback.warm()
    before = pss()
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
    replay = playback.filled(NOISE_FRAMES, codec)
    playback.check(replay.sample(BATCH))
    stats = replay.stats()
    return stats.payload_bytes / frames.nbytes, stats.total_bytes / frames.nbytes


def million(recording: Recording, transitions: int, shifts: int, repeats: int) -> list[tuple[str, Any]]:
    """What filling and sampling a large buffer costs."""
    playback = Playback(recording, shifts)
    costs = np.ones(transitions + transitions // 10)  # not what the buffer takes: written before
    playback.warm()
    before = pss()
    replay = playback.buffer(transitions)
    steps, added = playback.steps(), 0
    while (missing := transitions - len(replay)) > 0:  # an episode's first step makes no transition
        some = timed_adds(replay, islice(steps, min(missing, 1000)))
        costs[added : added + len(some)] = some
        added += len(some)
    gc.collect()
    grown, arena = pss() - before, pss(part=ARENA)
    stats, spent = replay.stats(), costs[:added]
    # A buffer that is full of the same last steps, sampled in turns with the large one.
    few = min(SMALL, transitions)
    small = playback.buffer(few)
    for step in islice(playback.steps(), 2 * few):
        small.add(step)
    (large_s, small_s), *_ = in_turns([lambda: replay.sample(BATCH), lambda: small.sample(BATCH)], repeats)
    for _ in range(4):
        playback.check(replay.sample(BATCH))
    return [
        ("transitions", stats.transitions),
        ("PSS growth, GB", Ratio(grown / GB)),
        ("of it shared memory, GB", Ratio(arena / GB)),
        ("stats().total_bytes, GB", Ratio(stats.total_bytes / GB)),
        ("PSS growth / total_bytes", Ratio(grown / stats.total_bytes)),
        ("bytes a frame, references and index included", stats.observation_bytes / stats.frames),
        ("of them references", stats.reference_bytes / stats.frames),
        ("ratio to stacks", stats.transitions * recording.stacked_bytes / stats.observation_bytes),
        ("add us, mean", 1e6 * float(spent.mean())),
        ("add us, 99th percentile", 1e6 * float(np.percentile(spent, 99))),
        ("add ms, largest", 1e3 * float(spent.max())),
        ("batch ms at full size", quartiles(1e3 * large_s)),
        (f"batch ms at {few} transitions", quartiles(1e3 * small_s)),
        ("their quotient", quartiles(large_s / small_s)),
    ]


def million_rows(recordings: list[Recording], transitions: int, shifts: int, repeats: int) -> Iterator[list[Any]]:
    """The values of `million`, a column for each recording."""
    columns = [in_new_process(million, recording, transitions, shifts, repeats) for recording in recordings]
    for rows in zip(*columns, strict=True):
        yield [rows[0][0], *(value for _, value in rows)]


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    options = parser(__doc__, *NAMES, repeats=100)
    options.add_argument("--transitions", type=int, help="to fill with (20,000; with --million 1,000,000)")
    options.add_argument("--million", action="store_true", help="only the large buffer, a column for each recording")
    options.add_argument("--shifts", type=int, default=1, help="with --million: row shifts of the frames (%(default)s)")
    options.add_argument("--codecs", nargs="*", default=sorted(diffreplay.codecs.REGISTRY))
    args = options.parse_args(argv)
    recordings = list(chosen(args))
    transitions = args.transitions or (1_000_000 if args.million else 20_000)
    with Report("benchmarks.memory", args, argv) as report:
        report.describe()
        if args.million:
            header = (f"{args.shifts} row shift(s)", *(recording.name for recording in recordings))
            report.table(header, million_rows(recordings, transitions, args.shifts, args.repeats))
            return
        cases = [(recording, codec) for recording in recordings for codec in args.codecs]
        report.table(
            (f"{transitions} transitions", *HEADER),
            ((f"{r.name}, {codec}", *in_new_process(fill, r, codec, transitions)) for r, codec in cases),
        )
        capacity = max(transitions // 4, 2)
        report.table(
            (
                f"capacity {capacity}",
                "PSS, full once, MB",
                "at most until 10 x, MB",
                "total_bytes, once",
                "at most until 10 x",
            ),
            ((f"{r.name}, {codec}", *in_new_process(lap, r, codec, capacity)) for r, codec in cases),
        )
        report.table(
            (f"{NOISE_FRAMES} frames of noise", "coded / raw", "total_bytes / raw"),
            ((f"{c} channel(s), {codec}", *map(Ratio, noise(c, codec))) for c in (1, 3) for codec in args.codecs),
        )


if __name__ == "__main__":
    main()

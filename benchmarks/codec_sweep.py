"""Options of the zstd codec, one at a time around the defaults: size against the time to add and to sample.

Columns are those of `benchmarks.codec`. `refresh_interval` acts only in long runs, so its table comes from
`--refresh` frames: the recording, mirrored and moved by a row more and more, which ages a reference set.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

from benchmarks.codec import HEADER, NAMES, measure
from benchmarks.common import BATCH, chosen, machine, parser, print_table, process_ms
from benchmarks.playback import Playback
from benchmarks.recordings import Recording
from diffreplay.codecs import ZstdCodec

LEVELS = (1, 3, 5, 6, 7, 9, 12)
SET_FRAMES = (4, 8, 16, 32, 64, 128, 256)
INTERVALS = (3_000, 6_000, 12_500, 25_000, 50_000)
SHIFTS = 8
REFRESH_HEADER = ("ratio", "bytes a frame", "of them references", "add us", "batch ms")


def sweep(recording: Recording, levels: list[int], set_frames: list[int]) -> Iterator[tuple[Any, ...]]:
    """A row for each option value, the defaults first."""
    yield f"{recording.name}: defaults", *measure(recording, ZstdCodec())
    for level in levels:
        yield f"level {level}", *measure(recording, ZstdCodec(level=level))
    for count in set_frames:
        yield f"set_frames {count}", *measure(recording, ZstdCodec(set_frames=count))


def refresh(recording: Recording, frames: int, intervals: list[int]) -> Iterator[tuple[Any, ...]]:
    """A row for each interval between two checks for new reference frames, over all `frames`."""
    playback = Playback(recording, SHIFTS)
    for interval in intervals:
        replay = playback.buffer(frames, ZstdCodec(refresh_interval=interval))
        spent = 0.0
        for step in islice(playback.steps(), frames):
            start = time.process_time()
            replay.add(step)
            spent += time.process_time() - start
        playback.check(replay.sample(BATCH))
        stats = replay.stats()
        size, references = stats.observation_bytes / stats.frames, stats.reference_bytes / stats.frames
        (batch,) = process_ms([partial(replay.sample, BATCH)])
        ratio = recording.stacked_bytes / size
        yield f"{recording.name}: {interval}", ratio, size, references, 1e6 * spent / frames, batch


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    options = parser(__doc__, *NAMES)
    options.add_argument("--levels", type=int, nargs="*", default=LEVELS)
    options.add_argument("--set-frames", type=int, nargs="*", default=SET_FRAMES)
    options.add_argument("--intervals", type=int, nargs="*", default=INTERVALS)
    options.add_argument("--refresh", type=int, default=60_000, help="frames for the table of intervals (%(default)s)")
    args = options.parse_args(argv)
    print(f"{machine()}\n")
    recordings = list(chosen(args))
    sweeps = (sweep(recording, args.levels, args.set_frames) for recording in recordings)
    print_table(("options", *HEADER), (row for rows in sweeps for row in rows))
    if args.intervals:
        print()
        aged = (refresh(recording, args.refresh, args.intervals) for recording in recordings)
        print_table(("refresh_interval", *REFRESH_HEADER), (row for rows in aged for row in rows))


if __name__ == "__main__":
    main()

"""Options of the zstd codec, one at a time around the defaults: size against the time to add and to sample.

Columns are those of `benchmarks.codec`. `refresh_interval` acts only in long runs, so its rows come from `--refresh`
frames: the recording, mirrored and moved by a row more and more, which ages a reference set; their ratio is that of the
whole buffer. `--csv` writes all values; `benchmarks.charts codec-options` draws them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.codec import HEADER, NAMES, measure
from benchmarks.playback import Playback
from benchmarks.recordings import Recording
from benchmarks.runner import BATCH, Report, chosen, parser
from benchmarks.timing import Quartiles, in_turns, quartiles, timed_adds
from diffreplay.codecs import ZstdCodec

LEVELS = (1, 3, 5, 6, 7, 9, 12)
SET_FRAMES = (4, 8, 16, 32, 64, 128, 256)
INTERVALS = (3_000, 6_000, 12_500, 25_000, 50_000)
SHIFTS = 8
CASE = ("recording", "option", "value")
COLUMNS = (*CASE, *HEADER, "references, bytes a frame")


def sweep(recording: Recording, levels: list[int], set_frames: list[int], repeats: int) -> Iterator[tuple[Any, ...]]:
    """A row for each option value, the defaults first."""
    yield recording.name, "defaults", "", *measure(recording, ZstdCodec(), repeats), ""
    for level in levels:
        yield recording.name, "level", level, *measure(recording, ZstdCodec(level=level), repeats), ""
    for count in set_frames:
        yield recording.name, "set_frames", count, *measure(recording, ZstdCodec(set_frames=count), repeats), ""


def refresh(recording: Recording, frames: int, intervals: list[int], repeats: int) -> Iterator[tuple[Any, ...]]:
    """A row for each interval between two checks for new reference frames, over all `frames`."""
    playback = Playback(recording, SHIFTS)
    for interval in intervals:
        replay = playback.buffer(frames, ZstdCodec(refresh_interval=interval))
        spent = timed_adds(replay, islice(playback.steps(), frames))
        playback.check(replay.sample(BATCH))
        stats = replay.stats()
        size, references = stats.observation_bytes / stats.frames, stats.reference_bytes / stats.frames
        ((batch,),) = in_turns([partial(replay.sample, BATCH)], repeats)
        costs = (1e6 * float(spent.mean()), "", quartiles(1e3 * batch), "", "")
        yield recording.name, "refresh_interval", interval, recording.stacked_bytes / size, size, *costs, references


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """All rows under COLUMNS, of quartiles the median."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            values = (value.median if isinstance(value, Quartiles) else value for value in row)
            writer.writerow(f"{value:.6g}" if isinstance(value, float) else value for value in values)


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    options = parser(__doc__, *NAMES, repeats=40)
    options.add_argument("--levels", type=int, nargs="*", default=LEVELS)
    options.add_argument("--set-frames", type=int, nargs="*", default=SET_FRAMES)
    options.add_argument("--intervals", type=int, nargs="*", default=INTERVALS)
    options.add_argument("--refresh", type=int, default=60_000, help="frames for the rows of intervals (%(default)s)")
    options.add_argument("--csv", type=Path, metavar="FILE", help="write the rows to this file, too")
    args = options.parse_args(argv)
    recordings, kept = list(chosen(args)), []

    def rows() -> Iterator[tuple[Any, ...]]:
        for recording in recordings:
            yield from sweep(recording, args.levels, args.set_frames, args.repeats)
        for recording in recordings:
            yield from refresh(recording, args.refresh, args.intervals, args.repeats)

    def keep() -> Iterator[tuple[Any, ...]]:
        for row in rows():
            kept.append(row)
            yield row

    with Report("benchmarks.codec_sweep", args, argv) as report:
        report.describe()
        report.table(COLUMNS, keep())
    if args.csv is not None:
        write_csv(args.csv, kept)


if __name__ == "__main__":
    main()

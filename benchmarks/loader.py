"""Batches a second of the loader beside DrQ-v2's disk baseline, over the same episodes in the same run; or its memory.

All loaders are open at once, and measured in turns, when the others have prepared what they may: first each delivers
what it had prepared while it waited, which does not count, then `--batches` are timed. Batch 256, n = 1. A trainer that
computes nothing takes the batches, so these are rates at which the loader itself is the limit. Processor time is of the
trainer and all workers together; on a machine that is busy with other things it says more than time passed.

`--memory` fills a buffer while worker processes sample from it, and reports the proportional set size (PSS) of the
trainer and all its processes together.
"""

from __future__ import annotations

import gc
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import diffreplay
from benchmarks.playback import DISCOUNT, Playback
from benchmarks.processes import family, family_pss, pss
from benchmarks.recordings import Recording
from benchmarks.runner import BATCH, Ratio, Report, chosen, parser
from benchmarks.timing import Times, in_turns, processor_seconds, quartiles, settle
from drqv2.disk_replay import DiskReplay

NAMES = ("walker_walk_gray", "walker_walk_rgb")
KINDS = (
    *("disk 4", "disk 2", "disk 1", "disk 0"),
    *("none 0", "forkserver 1", "forkserver 2", "forkserver 4", "fork 4", "thread 1", "thread 2"),
)
BASELINE = "disk 4"
PREFETCH = 2
CHECKED = 4  # batches of each loader that are compared with the recording, before any is timed
MB = 1e6
PRELOADED = ["diffreplay", "drqv2.disk_replay"]  # what every worker process imports, so that all share it

Batches = Iterator[Any]


def prepare() -> None:
    """Start the server that worker processes are forked from, and wait until it has imported what they need."""
    torch.set_num_threads(1)
    # More workers than processors are what is to be measured, too.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    idle = context.Process(target=gc.collect)
    idle.start()
    idle.join()


def open_disk(
    playback: Playback, folder: Path, workers: int, batch: int = BATCH, pin_memory: bool = False
) -> DiskReplay:
    """DrQ-v2's replay over the episode files in `folder`."""
    return DiskReplay(
        folder,
        playback.observation_shape,
        capacity=100 * playback.recording.frames,
        batch_size=batch,
        nstep=playback.nstep,
        discount=DISCOUNT,
        num_workers=workers,
        pin_memory=pin_memory,
        keep_files=True,
        seed=0,
    )


def open_ours(replay: Any, kind: str, workers: int) -> Batches:
    """An iterator of our loader; `kind` is "thread", or how worker processes start."""
    options = {"threads": True} if kind == "thread" else {"multiprocessing_context": kind}
    if not workers:
        options = {}
    return iter(diffreplay.make_replay_loader(replay, BATCH, workers, PREFETCH, **options))


def measure(
    open_loader: dict[str, Callable[[], Batches]],
    check: Callable[[str, Any], None],
    count: int,
    repeats: int,
    turn_begins: Callable[[], None] = lambda: None,
) -> Times:
    """Processor seconds of all processes and seconds passed for a batch of each loader, (2, loaders, repeats).

    Args:
        open_loader: by kind, which ends with the number of workers, as "disk 4" does.
        check: raises if the batch of a loader of this kind is wrong.
        count: batches in a turn.
        repeats: turns.
        turn_begins: called before each turn.
    """
    loaders = {kind: opened() for kind, opened in open_loader.items()}
    for kind, batches in loaders.items():
        for _ in range(CHECKED):
            check(kind, next(batches))
    pids, kinds = family(), list(loaders)

    def take(kind: str, number: int) -> None:
        for _ in range(number):
            next(loaders[kind])

    def before(k: int) -> None:
        if k == 0:
            turn_begins()
        settle(pids)
        take(kinds[k], PREFETCH * int(kinds[k].split()[1]) + 1)

    clocks = (partial(processor_seconds, pids), time.perf_counter)
    return in_turns([partial(take, kind, count) for kind in kinds], repeats, clocks, before) / count


def compare(recording: Recording, kinds: list[str], count: int, repeats: int) -> list[tuple[Any, ...]]:
    """A row for each kind of loader: rate and processor time, and both against BASELINE's."""
    playback = Playback(recording)
    with tempfile.TemporaryDirectory(prefix="diffreplay-") as temporary:
        folder = Path(temporary)
        replay = playback.buffer(recording.frames)
        playback.play(recording.frames, open_disk(playback, folder, 0), replay)
        opening: dict[str, Callable[[], Batches]] = {}
        for kind in kinds:
            start, _, workers = kind.partition(" ")
            if start == "disk":
                disk = open_disk(playback, folder, int(workers))
                opening[kind] = partial(disk.batches, torch.device("cpu"))
            else:
                opening[kind] = partial(open_ours, replay, start, int(workers))
        processor, passed = measure(opening, lambda _, batch: playback.check(batch), count, repeats)
    # The quotient of each turn, as the machine's other load is much the same for both.
    base = kinds.index(BASELINE) if BASELINE in kinds else 0
    return [
        (
            f"{recording.name}, {kind}",
            quartiles(1 / passed[k]),
            quartiles(passed[base] / passed[k]),
            quartiles(1e3 * processor[k]),
            quartiles(processor[base] / processor[k]),
        )
        for k, kind in enumerate(kinds)
    ]


def memory(recording: Recording, transitions: int, batches: int, workers: int) -> Iterator[tuple[str, Any]]:
    """Growth of the PSS of all processes while a buffer fills, and while batches are drawn after that."""
    playback = Playback(recording)
    replay = playback.buffer(transitions)
    steps = playback.steps()
    start = recording.frames // 2
    for step in islice(steps, start):
        replay.add(step)
    loader = open_ours(replay, "forkserver", workers)
    for number in range(200):  # so that every slot has been used
        batch = next(loader)
        if number < CHECKED:
            playback.check(batch)
    del batch
    gc.collect()
    before, total_before = family_pss(), replay.stats().total_bytes
    yield f"{workers} workers, {len(replay)} transitions: PSS of all processes, MB", before / MB
    for number, step in enumerate(islice(steps, transitions)):
        replay.add(step)
        if number % 100 == 0:
            next(loader)
    gc.collect()
    full, total = family_pss(), replay.stats().total_bytes
    yield f"{transitions} transitions added: PSS growth, MB", (full - before) / MB
    yield "total_bytes, MB", total / MB
    yield "PSS growth / total_bytes", Ratio((full - before) / total)
    yield "PSS growth / growth of total_bytes", Ratio((full - before) / (total - total_before))
    yield "shared memory's part of the trainer's PSS, MB", pss(part="memfd:diffreplay") / MB
    # What a process takes once, when it first does something, is gone by the first tenth; a leak is not.
    drawn = 0
    for goal in (batches // 10, batches):
        for _ in range(goal - drawn):
            next(loader)
        drawn = goal
        playback.check(next(loader))
        gc.collect()
        yield f"{drawn} batches later: further PSS growth, MB", (family_pss() - full) / MB


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    options = parser(__doc__, *NAMES, repeats=9)
    options.add_argument("--kinds", nargs="*", default=KINDS, help='such as "disk 4", "thread 1"; default: all')
    options.add_argument("--batches", type=int, default=60, help="timed in a row (%(default)s)")
    options.add_argument("--memory", action="store_true", help="measure memory instead, on the first recording")
    options.add_argument("--transitions", type=int, default=200_000, help="added with --memory (%(default)s)")
    options.add_argument("--later", type=int, default=10_000, help="batches after that, with --memory (%(default)s)")
    options.add_argument("--workers", type=int, default=4, help="with --memory (%(default)s)")
    args = options.parse_args(argv)
    prepare()
    recordings = list(chosen(args))
    with Report("benchmarks.loader", args, argv) as report:
        report.describe()
        if args.memory:
            rows = memory(recordings[0], args.transitions, args.later, args.workers)
            report.table((recordings[0].name, "value"), rows)
            return
        compared = (compare(recording, list(args.kinds), args.batches, args.repeats) for recording in recordings)
        base = BASELINE if BASELINE in args.kinds else args.kinds[0]
        header = ("loader and workers", "batches a second", f"times {base}", "processor ms a batch")
        report.table((*header, f"less than {base}, times"), (row for rows in compared for row in rows))


if __name__ == "__main__":
    main()
